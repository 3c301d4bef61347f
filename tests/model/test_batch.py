from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.images.files import Metadata, Picture, PictureWriter, open_picture, read_provenance, write_picture
from upscaler.images.jobs import Job
from upscaler.model import batch
from upscaler.model.compact import Compact
from upscaler.model.upscaler import Size, Upscaler


@pytest.fixture
def upscaler() -> Upscaler:
    network = Compact(features=2, convolutions=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return Upscaler(network, device="cpu")


def jobs(folder: Path, count: int, height: int = 5) -> list[Job]:
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        write_picture(path, Picture(np.full((height, 4, 3), number, np.uint8), Metadata()))
        made.append(Job(path, folder / "out" / path.name))
    return made


def run(upscaler: Upscaler, work: list[Job], **settings: Any) -> tuple[bool, list[batch.Event]]:
    events: list[batch.Event] = []
    complete = batch.run(upscaler, work, batch.Settings(Size(), {"model": "m"}, **settings), events.append)
    return complete, events


def test_every_picture_is_started_and_finished_in_order(upscaler: Upscaler, tmp_path: Path) -> None:
    work = jobs(tmp_path, 4)
    complete, events = run(upscaler, work)
    assert complete
    assert [event.job for event in events if isinstance(event, batch.Started)] == work
    assert [event.job for event in events if isinstance(event, batch.Finished)] == work
    for number, job in enumerate(work):
        assert (open_picture(job.output).read().pixels == number).all()
        made = read_provenance(job.output)
        assert made is not None
        assert made["model"] == "m"
        assert len(made["input_sha256"]) == 64


def test_no_jobs_are_done_at_once(upscaler: Upscaler) -> None:
    assert run(upscaler, []) == (True, [])


def test_decoding_and_encoding_run_beside_the_computation(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second picture is read, and the first one is written, while the second is not yet begun."""
    work = jobs(tmp_path, 2)
    read_second, threads = threading.Event(), set()
    opened, write, bands = open_picture, PictureWriter.write, Upscaler.bands

    def noted_open(path: Path, **how: Any) -> Any:
        if path == work[1].input:
            read_second.set()
        return opened(path, **how)

    def noted_write(self: PictureWriter, rows: Any) -> None:
        threads.add(threading.current_thread().name.split("_")[0])
        write(self, rows)

    def noted_bands(self: Upscaler, *arguments: Any) -> Any:
        assert read_second.wait(20)
        return bands(self, *arguments)

    monkeypatch.setattr(batch, "open_picture", noted_open)
    monkeypatch.setattr(PictureWriter, "write", noted_write)
    monkeypatch.setattr(Upscaler, "bands", noted_bands)
    assert run(upscaler, work)[0]
    assert threads == {"writer"}


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("height", [5, 2000])
def test_a_disk_that_fills_up_ends_one_picture(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_going: bool, height: int
) -> None:
    work = jobs(tmp_path, 3, height)
    write = PictureWriter.write

    def full(self: PictureWriter, rows: Any) -> None:
        if rows.max() == 1:
            raise UserError("cannot write 1.png: No space left on device")
        write(self, rows)

    monkeypatch.setattr(PictureWriter, "write", full)
    if keep_going:
        complete, events = run(upscaler, work, keep_going=True)
        assert not complete
        assert [event.job for event in events if isinstance(event, batch.Failed)] == [work[1]]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]
    else:
        with pytest.raises(UserError, match="No space left"):
            run(upscaler, work)
        assert "1.png" not in [path.name for path in (tmp_path / "out").iterdir()]


def test_a_folder_that_cannot_be_made_ends_one_picture(upscaler: Upscaler, tmp_path: Path) -> None:
    work = jobs(tmp_path, 3)
    work[1] = Job(work[1].input, work[0].output / "1.png")
    complete, events = run(upscaler, work, keep_going=True)
    assert not complete
    assert [event.job for event in events if isinstance(event, batch.Failed)] == [work[1]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]


@pytest.mark.parametrize(("precision", "told"), [("auto", "float32"), ("bf16", "bfloat16")])
def test_results_tell_the_precision_they_were_computed_in(
    upscaler: Upscaler, tmp_path: Path, precision: Any, told: str
) -> None:
    (job,) = jobs(tmp_path, 1)
    upscaler = Upscaler(upscaler.network, device="cpu", precision=precision)
    if precision == "auto":
        upscaler.dtype = torch.float16  # as on a GPU, where pictures of 16 bits are computed in more
        write_picture(job.input, Picture(np.zeros((5, 4, 3), np.uint16), Metadata()))
    assert run(upscaler, [job])[0]
    made = read_provenance(job.output)
    assert made is not None
    assert made["precision"] == told


def test_what_was_done_before_a_failure_is_told(upscaler: Upscaler, tmp_path: Path) -> None:
    work, events = jobs(tmp_path, 2), list[batch.Event]()
    work[1].input.write_text("no picture")
    with pytest.raises(UserError, match=r"1\.png"):
        batch.run(upscaler, work, batch.Settings(Size(), {}), events.append)
    assert [event.job for event in events if isinstance(event, batch.Finished)] == [work[0]]


def test_a_bug_is_not_taken_for_a_bad_picture(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    work = jobs(tmp_path, 2)
    monkeypatch.setattr(PictureWriter, "write", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(upscaler, work, keep_going=True)
    assert list((tmp_path / "out").iterdir()) == []
