from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest
import torch
from safetensors.torch import load_file

from upscaler.errors import UserError
from upscaler.model.equivariance import is_equivariant
from upscaler.model.weights import build_network, load_weights
from upscaler.saving import whole_file
from upscaler.training import checkpoints, loop
from upscaler.training.checkpoints import checkpoints_in
from upscaler.training.layering import load_config
from upscaler.training.loop import Notify
from upscaler.training.orders import Order
from upscaler.training.readings import Event, Finished, Reading, Saved, Started, Stepped
from upscaler.training.runs import RunFolder
from upscaler.training.session import Origin, check_fresh, check_same, restarted, train
from upscaler.training.shards import PreparedSet
from upscaler.training.steps import Steps

SETTINGS = (
    "network.settings.features=4", "network.settings.convolutions=1", "data.patch=32", "data.batch=2",
    "data.workers=0", "records.readings=1", "records.checkpoints=2", "validation.every=0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a report, which takes longest."""
    monkeypatch.setattr(loop, "write_report", lambda folder, *_: folder.report)


@pytest.fixture
def go(tiny_set: PreparedSet, tmp_path: Path) -> Callable[..., Finished]:
    """Trains six steps in the folder of that name, or goes on there."""

    def run(
        name: str,
        *,
        resume: bool = False,
        notify: Notify = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
        settings: Sequence[str] = (),
    ) -> Finished:
        config = load_config("compact-psnr", settings=[*SETTINGS, *settings], iterations=6)
        order = Order(config, RunFolder(tmp_path / name), tiny_set, None, torch.device("cpu"), None, "warn")
        return train(order, init=None, resume=resume, notify=notify, warn=warn)

    return run


def _same_end(a: Path, b: Path) -> bool:
    ends = [load_file(folder / "weights/last.safetensors") for folder in (a, b)]
    return all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_a_disk_that_is_full_costs_no_checkpoint(
    go: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[BinaryIO]:
        with whole_file(path) as file:
            yield file
            if path.name == "step-000000004.pt":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    go("whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "whole_file", full)
        with pytest.raises(UserError, match=r"cannot write .*step-000000004.pt: No space left on device; make room"):
            go("full")
    assert list(checkpoints_in(tmp_path / "full/checkpoints")) == [0, 2]
    events: list[Event | Stepped] = []
    assert go("full", resume=True, notify=events.append).step == 6
    assert isinstance(events[0], Started)
    assert events[0].step == 2
    assert _same_end(tmp_path / "whole", tmp_path / "full")


def test_a_damaged_checkpoint_is_passed_over_and_told(go: Callable[..., Finished], tmp_path: Path) -> None:
    go("run")
    end = load_file(tmp_path / "run/weights/last.safetensors")
    found = checkpoints_in(tmp_path / "run/checkpoints")
    assert list(found) == [2, 4, 6]
    for step in (4, 6):
        found[step].write_bytes(found[step].read_bytes()[:-100])
    warnings: list[str] = []
    events: list[Event | Stepped] = []
    go("run", resume=True, notify=events.append, warn=warnings.append)
    assert events[0].step == 2
    assert [line.partition(":")[0] for line in warnings] == ["passed over", "passed over"]
    assert [Path(line.split()[2]).stem for line in warnings] == ["step-000000006", "step-000000004"]
    assert all(
        torch.equal(end[key], tensor) for key, tensor in load_file(tmp_path / "run/weights/last.safetensors").items()
    )
    assert [event.step for event in events if isinstance(event, Saved)] == [4, 6]


def test_an_equivariant_run_stays_so_and_goes_on_alike(go: Callable[..., Finished], tmp_path: Path) -> None:
    bound = ("network.equivariant=true", "network.settings.features=8")
    for name in ("whole", "cut"):
        go(name, settings=bound)
    for step, path in checkpoints_in(tmp_path / "cut/checkpoints").items():
        if step > 2:
            path.unlink()
    go("cut", resume=True, settings=bound)
    assert _same_end(tmp_path / "whole", tmp_path / "cut")
    assert is_equivariant(build_network(load_weights(tmp_path / "cut/weights/last.safetensors")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_then_does_what_it_did_before(
    number: int, go: Callable[..., Finished], tmp_path: Path
) -> None:
    heard: list[int] = []
    events: list[Event | Stepped] = []

    def notify(event: Event) -> None:
        events.append(event)
        if isinstance(event, Reading) and event.step == 3:
            signal.raise_signal(number)

    def hear(number: int, _: object) -> None:
        heard.append(number)

    before = signal.signal(number, hear)
    try:
        assert go("run", notify=notify).why == "signal"
        assert signal.getsignal(number) is hear
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert isinstance(events[-1], Finished)
    assert (events[-1].step, events[-1].why) == (3, "signal")
    assert max(checkpoints_in(tmp_path / "run/checkpoints")) == 3


def test_the_second_signal_does_not_wait(go: Callable[..., Finished], tmp_path: Path) -> None:
    def notify(event: Event) -> None:
        if isinstance(event, Reading) and event.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go("run", notify=notify)
    assert list(checkpoints_in(tmp_path / "run/checkpoints")) == [0, 2]
    assert go("run", resume=True).step == 6


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_shortage_of_memory_says_what_to_do(
    error: Exception, go: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "make", fail)
        with pytest.raises(
            UserError, match=r"^out of memory on cpu; .*--resume .*run, .*data\.batch.*checkpointing=true$"
        ):
            go("run")
    assert go("run", resume=True).step == 6


def test_other_errors_stay_what_they_are(go: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Steps, "make", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        go("run")


def test_a_worker_that_was_killed_says_what_to_do(go: Callable[..., Finished]) -> None:
    def kill(event: Event | Stepped) -> None:
        if isinstance(event, Stepped):
            for server in psutil.Process().children():
                for worker in server.children():
                    worker.kill()

    with pytest.raises(UserError, match=r"prepares batches was killed.*--resume .*run, .*data\.workers"):
        go("run", notify=kill, settings=["data.workers=1"])


def test_the_origin_of_a_run(tiny_set: PreparedSet, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for val in (None, tmp_path / "val"):
        origin = Origin.of(tiny_set, val, "some digest")
        origin.write(folder)
        assert Origin.read(folder) == origin
        origin.check(tiny_set)
    with pytest.raises(UserError, match="is not the training set that the run was begun with"):
        Origin(tiny_set.folder, "other", None, "").check(tiny_set)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"data": 3, "identity": "", "val": null}', "\udcff"])
def test_a_damaged_origin(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.origin.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"origin.json is damaged or cannot be read"):
        Origin.read(folder)


def test_a_new_run_needs_a_new_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    check_fresh(folder)
    folder.path.mkdir()
    check_fresh(folder)
    (folder.path / "notes.txt").touch()
    with pytest.raises(UserError, match="is in use; -o takes a new or empty folder"):
        check_fresh(folder)
    folder.config.touch()
    with pytest.raises(UserError, match="holds a run; go on with --resume"):
        check_fresh(folder)


def test_what_differs_is_told_in_a_few_words(tmp_path: Path) -> None:
    begun, folder = load_config("quick"), RunFolder(tmp_path)
    check_same(folder, begun, load_config("quick"))
    with pytest.raises(UserError, match="has another configuration: seed is 0, not 1; leave"):
        check_same(folder, begun, load_config("quick", seed=1))
    wanted = load_config("quick", settings=["data.batch=1", "average=0.5", "scale=2"])
    with pytest.raises(UserError, match=r"scale is 4, not 2, .*, .* and 2 more; leave"):
        check_same(folder, begun, wanted)


def test_torchrun_starts_a_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its count of restarts stays 0 when machines come or go."""
    folder = RunFolder(tmp_path)
    folder.config.touch()
    assert not restarted(folder)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert restarted(folder)
    assert not restarted(RunFolder(tmp_path / "other"))


def test_the_configuration_and_the_origin_are_there_before_the_first_checkpoint(
    go: Callable[..., Finished], tmp_path: Path
) -> None:
    """So that a run that is killed at any moment can go on."""
    there: list[bool] = []

    def notify(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 0:
            folder: Any = RunFolder(tmp_path / "run")
            there.extend((folder.config.is_file(), json.loads(folder.origin.read_text())["val"] is None))

    go("run", notify=notify)
    assert there == [True, True]
