from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upscaler.errors import UserError
from upscaler.images.files import open_picture
from upscaler.model.evaluation import Scores
from upscaler.training.history import History, read_lines
from upscaler.training.readings import (
    Alarm,
    Event,
    Finished,
    Reading,
    RolledBack,
    Sample,
    Saved,
    StageEnded,
    Started,
    Validated,
)
from upscaler.training.recording import Narrator, Recorder, closing_words, log_line
from upscaler.training.runs import RunFolder

SCORES = Scores(28.5, 0.81, 27.0, 0.8, 5.5, 0.4, 0.2, (0.4, 0.0, -0.1), (0.2, 0.0, 0.0))
BICUBIC = replace(SCORES, psnr_y=26.0, niqe=None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)


def reading(step: int, loss: float = 0.5, **values: float) -> Reading:
    return Reading("main", step, {"loss/pixel": loss, **values})


def validated(step: int, *, stage: str = "main", seed: int = 0) -> Validated:
    samples = [Sample("a.png", picture(1), picture(step + seed), picture(2))]
    return Validated(stage, step, SCORES, BICUBIC, samples, best=True)


def record(folder: RunFolder, *events: Event, resumed_at: int | None = None) -> None:
    with closing(Recorder(folder, resumed_at=resumed_at)) as recorder:
        for event in events:
            recorder.record(event)


def write_weights(folder: RunFolder, *names: str) -> None:
    for name in names:
        folder.weights(name).parent.mkdir(parents=True, exist_ok=True)
        folder.weights(name).write_bytes(b"")


def steps(folder: RunFolder) -> list[tuple[str, int]]:
    return [(entry["kind"], entry["step"]) for entry in read_lines(folder.metrics)]


def board(folder: RunFolder) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder.tensorboard)).Reload()


def scalars(folder: RunFolder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in board(folder).Scalars(tag)]


def test_every_event_is_a_line_of_each_log(folder: RunFolder) -> None:
    path = folder.path
    events: list[Event] = [
        Started(path, 0, 100, {"generator": 1234567}),
        reading(10),
        validated(10),
        Alarm("main", 10, "tint", "red is 9 levels up", "try less", severe=False),
        Saved(10, folder.checkpoints / "10.pt"),
        RolledBack(10, 5, 1, 0.5),
        StageEnded("main", 100, folder.weights("main")),
        Finished(path, 100, "complete", folder.weights("last"), folder.report),
    ]
    record(folder, *events)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in folder.metrics.read_text().splitlines()]
    kinds = ["started", "reading", "validated", "alarm", "saved", "rolled_back", "stage_ended", "finished"]
    assert [line["kind"] for line in lines] == kinds
    assert [line["step"] for line in lines] == [0, 10, 10, 10, 10, 10, 100, 100]
    assert lines[0]["parameters"] == {"generator": 1234567}
    assert lines[1]["values"] == {"loss/pixel": 0.5}
    assert lines[2]["scores"]["psnr_y"] == 28.5
    assert lines[2]["bicubic"]["niqe"] is None
    assert lines[2]["samples"] == ["a.png"]
    assert lines[4]["path"] == "checkpoints/10.pt", "relative, so that a run can be moved"
    assert lines[7]["report"] == "report.md"
    log = folder.log.read_text().splitlines()
    parts = ["1,234,567", "loss/pixel 0.5", "bicubic", "PSNR-Y 28.50 dB"]
    parts += ["tint: red is", "10.pt", "to step 5", "main", "complete"]
    for line, part in zip(log, parts, strict=True):
        assert part in line


def test_steps_are_written_as_parameters_are() -> None:
    where = RunFolder(Path("run"))
    events: list[Event] = [
        Started(where.path, 12345, 67890, {"generator": 32040}),
        reading(12345),
        validated(12345),
        Alarm("main", 12345, "tint", "seen", "advice", severe=False),
        Saved(12345, where.checkpoints / "a.pt"),
        RolledBack(12345, 12000, 1, 0.5),
        StageEnded("main", 12345, where.weights("main")),
        Finished(where.path, 12345, "complete", where.weights("last"), where.report),
    ]
    for event in events:
        assert "12,345" in log_line(event)
        assert "12345" not in log_line(event)
    assert "67,890 steps" in log_line(events[0])
    assert "to step 12,000" in log_line(events[5])
    assert "12,345 steps" in closing_words(events[7])[0]  # type: ignore[arg-type]


def test_bicubic_is_told_once_and_again_where_it_is_another() -> None:
    narrator = Narrator()
    first = narrator.lines(validated(10))
    assert first == [
        "bicubic, to compare with: PSNR-Y 26.00 dB  SSIM-Y .8100  drift 0.40",
        "main 10: PSNR-Y 28.50 dB  SSIM-Y .8100  NIQE 5.50  drift 0.40, best so far",
    ]
    assert narrator.lines(replace(validated(20), best=False)) == [
        "main 20: PSNR-Y 28.50 dB  SSIM-Y .8100  NIQE 5.50  drift 0.40"
    ]
    assert len(narrator.lines(validated(30, stage="gan"))) == 1, "the same pictures"
    other = replace(validated(40, stage="gan"), bicubic=replace(BICUBIC, psnr_y=24.0))
    assert len(narrator.lines(other)) == 2
    assert len(narrator.lines(replace(other, step=50))) == 1
    assert len(Narrator().lines(other)) == 2, "another session"


def test_a_validation_fits_on_a_narrow_line() -> None:
    lines = Narrator().lines(validated(1_400_000, stage="gan"))
    assert max(map(len, lines)) <= 80


def test_perfect_pictures_have_a_line_too() -> None:
    assert "SSIM-Y 1.0000" in log_line(replace(validated(10), scores=replace(SCORES, psnr_y=inf, ssim_y=1.0)))
    assert "SSIM-Y -.1000" in log_line(replace(validated(10), scores=replace(SCORES, ssim_y=-0.1)))


def test_a_checkpoint_is_told_once_at_the_border_of_stages(folder: RunFolder) -> None:
    saved = Saved(10, folder.checkpoints / "10.pt")
    record(folder, saved, StageEnded("main", 10, folder.weights("main")), saved, Saved(20, saved.path))
    log = [line.split("  ", 1)[1] for line in folder.log.read_text().splitlines()]
    assert [line.split(":")[0] for line in log if ": checkpoint" in line] == ["step 10", "step 20"]
    assert steps(folder) == [("saved", 10), ("stage_ended", 10), ("saved", 10), ("saved", 20)], "all of it for programs"


@pytest.mark.parametrize(
    ("why", "said"),
    [("time", "after --max-hours"), ("signal", "on request"), ("alarm", "by an alarm")],
)
def test_the_end_of_a_session_says_why_and_how_to_go_on(folder: RunFolder, why: str, said: str) -> None:
    write_weights(folder, "last", "best")
    event = Finished(folder.path, 1500, why, folder.weights("last"), folder.report)
    first, *rest = closing_words(event)
    assert first == f"stopped {said} after 1,500 steps"
    assert rest == [
        f"weights: {folder.weights('best')} (best), {folder.weights('last')} (last)",
        f"report: {folder.report}",
        f"go on with: srup train --resume {folder.path}",
    ]
    line = log_line(event)
    assert f"step 1,500: stopped {said}" in line
    assert f"go on with: srup train --resume {folder.path}" in line
    assert "\n" not in line


def test_the_end_of_a_run_says_what_to_do_with_it(folder: RunFolder) -> None:
    event = Finished(folder.path, 1500, "complete", folder.weights("last"), folder.report)
    assert closing_words(event) == ["complete: 1,500 steps", f"report: {folder.report}"], "no weights, no advice"
    write_weights(folder, "last")
    assert closing_words(event)[1:] == [
        f"weights: {folder.weights('last')}",
        f"report: {folder.report}",
        f"use them with: srup upscale -m {folder.weights('last')} PICTURE",
    ]
    write_weights(folder, "best")
    assert closing_words(event)[-1] == f"use them with: srup upscale -m {folder.weights('best')} PICTURE"
    assert "--resume" not in log_line(event)


def test_commands_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "my run; 2")
    write_weights(folder, "last")
    for why in ("complete", "signal"):
        command = closing_words(Finished(folder.path, 5, why, folder.weights("last"), folder.report))[-1]
        assert shlex.split(command.split(": ", 1)[1])[3].startswith(str(folder.path))


def test_lines_are_there_at_once(folder: RunFolder) -> None:
    with closing(Recorder(folder, resumed_at=None)) as recorder:
        recorder.record(reading(10))
        assert steps(folder) == [("reading", 10)]
        assert "step 10" in folder.log.read_text()
        assert scalars(folder, "loss/pixel") == [(10, 0.5)]


def test_what_is_not_finite_is_valid_json_and_comes_back(folder: RunFolder) -> None:
    values = {"loss/feature": nan, "loss/adversarial": inf, "loss/penalty": -inf}
    distributions = {
        "output/real": np.array([nan, 1, inf, 3, 2], np.float32),
        "output/fake": np.full(4, nan, np.float32),
    }
    record(folder, replace(reading(10, **values), distributions=distributions), validated(10))
    line = json.loads(folder.metrics.read_text().splitlines()[0], parse_constant=pytest.fail)
    assert line["values"] == {
        "loss/pixel": 0.5,
        "loss/feature": "NaN",
        "loss/adversarial": "Infinity",
        "loss/penalty": "-Infinity",
    }
    assert line["quantiles"] == {"output/real": [1, 1.1, 2, 2.9, 3]}
    (back,) = History.read(folder.metrics).readings
    assert isnan(back.values["loss/feature"])
    assert (back.values["loss/adversarial"], back.values["loss/penalty"]) == (inf, -inf)
    assert History.read(folder.metrics).validations[0].scores == SCORES
    assert isnan(board(folder).Scalars("loss/feature")[0].value)
    assert board(folder).Tags()["histograms"] == ["distribution/output/real"]


def test_tensorboard_shows_numbers_distributions_pictures_and_words(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.config.write_text('preset = "quick"\n')
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    record(
        folder,
        Started(folder.path, 0, 100, {}),
        replace(reading(10), distributions={"output/real": values}),
        validated(10),
        Alarm("main", 10, "tint", "red is 9 levels up", "try less", severe=True),
    )
    shown = board(folder)
    tags = shown.Tags()
    assert set(tags["scalars"]) == {"loss/pixel"} | {f"validation/{n}" for n in ("psnr_y", "ssim_y", "niqe", "drift")}
    assert scalars(folder, "validation/psnr_y") == [(10, 28.5)]
    (histogram,) = shown.Histograms("distribution/output/real")
    counted = histogram.histogram_value
    assert counted.num == sum(counted.bucket) == 1000
    below = np.searchsorted(np.sort(values.astype(float)), counted.bucket_limit[:-1])
    assert np.cumsum(counted.bucket)[:-1].tolist() == below.tolist(), "buckets end where their limits say"
    assert counted.sum == pytest.approx(values.sum(dtype=float))
    (image,) = shown.Images("samples/a.png")
    assert image.width > 3 * 32
    assert image.encoded_image_string.startswith(b"\x89PNG")
    (alarm,), (config,) = shown.Tensors("alarms/text_summary"), shown.Tensors("configuration/text_summary")
    assert b"**tint** (severe): red is 9 levels up" in alarm.tensor_proto.string_val[0]
    assert b'preset = "quick"' in config.tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries within the plugins
def test_every_part_of_tensorboard_lists_what_is_meant_for_it(folder: RunFolder) -> None:
    """As its plugins see it: they keep one kind of thing for each tag."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.histogram.histograms_plugin import HistogramsPlugin
    from tensorboard.plugins.image.images_plugin import ImagesPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

    values = {"output/real": 0.5, "gradient/generator_first": 0.1, "weight/generator_first": 0.1}
    spread = {name: np.arange(9, dtype=np.float32) for name in values}
    shown = replace(validated(10), samples=[Sample("drift", picture(1), picture(2), picture(3))])
    for step in (10, 20):
        record(folder, replace(reading(step, **values), distributions=spread), replace(shown, step=step))
    multiplexer = EventMultiplexer().AddRun(str(folder.tensorboard), "run").Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder.tensorboard))
    context = TBContext(data_provider=provider, logdir=str(folder.tensorboard), multiplexer=multiplexer)
    request = RequestContext()
    histograms = HistogramsPlugin(context)
    tags = {f"distribution/{name}" for name in values}
    assert set(histograms.index_impl(request, "")["run"]) == tags
    for tag in tags:
        data, _ = histograms.histograms_impl(request, tag, "run", "", downsample_to=None)
        assert [step for _, step, _ in data] == [10, 20]
    scores = {f"validation/{name}" for name in ("psnr_y", "ssim_y", "niqe", "drift")}
    assert set(ScalarsPlugin(context).index_impl(request, "")["run"]) == {"loss/pixel", *values, *scores}
    assert set(ImagesPlugin(context)._index_impl(request, "")["run"]) == {"samples/drift"}


def test_samples_are_pictures_by_step(folder: RunFolder) -> None:
    record(folder, validated(10), validated(200))
    files = sorted(path.name for path in (folder.samples / "a.png").iterdir())
    assert files == ["00000010.png", "00000200.png", "bicubic.png", "reference.png"]
    for name, seed in zip(files, (10, 200, 1, 2), strict=True):
        pixels = open_picture(folder.samples / "a.png" / name, trusted=True).read().pixels
        np.testing.assert_array_equal(pixels, picture(seed))


def test_a_resumed_run_forgets_what_it_will_repeat(folder: RunFolder) -> None:
    record(folder, Started(folder.path, 0, 100, {}), reading(10), validated(10), reading(20), validated(20))
    record(folder, Started(folder.path, 10, 100, {}), reading(20, 0.25), validated(20, seed=7), resumed_at=10)
    assert steps(folder) == [
        ("started", 0), ("reading", 10), ("validated", 10), ("started", 10), ("reading", 20), ("validated", 20),
    ]  # fmt: skip
    assert scalars(folder, "loss/pixel") == [(10, 0.5), (20, 0.25)]
    assert [step for step, _ in scalars(folder, "validation/niqe")] == [10, 20]
    log = [line.split("  ", 1)[1].split(":")[0] for line in folder.log.read_text().splitlines()]
    first, second = log[:6], log[6:]
    assert first == ["step 0", "step 10 (main)", "bicubic, to compare with", "main 10", "step 20 (main)", "main 20"]
    assert second == ["step 10", "step 20 (main)", "bicubic, to compare with", "main 20"], "people see all of it"


def test_samples_of_later_steps_go_at_once(folder: RunFolder) -> None:
    record(folder, validated(10), validated(20))
    record(folder, resumed_at=10)
    files = sorted(path.name for path in (folder.samples / "a.png").iterdir())
    assert files == ["00000010.png", "bicubic.png", "reference.png"]


def test_a_line_that_was_torn_is_dropped(folder: RunFolder) -> None:
    record(folder, reading(10), reading(20))
    with folder.metrics.open("a") as file:
        file.write('{"kind": "reading", "time": 1.0, "step": 2')
    with folder.log.open("a") as file:
        file.write("2026-01-01 00:0")
    assert [r.step for r in History.read(folder.metrics).readings] == [10, 20], "a killed run can be read as it is"
    record(folder, reading(30), resumed_at=20)
    assert steps(folder) == [("reading", 10), ("reading", 20), ("reading", 30)]
    assert all(json.loads(line) for line in folder.metrics.read_text().splitlines())
    assert folder.log.read_text().splitlines()[2] == "2026-01-01 00:0"


def test_resuming_at_the_start_forgets_all(folder: RunFolder) -> None:
    record(folder, reading(10), reading(20))
    record(folder, resumed_at=0)
    assert steps(folder) == []
    record(RunFolder(folder.path / "other"), reading(10), resumed_at=5)  # nothing was written before it was killed


def test_after_a_rollback_the_curves_go_on_from_there(folder: RunFolder) -> None:
    alarm = Alarm("main", 40, "nan", "seen", "advice", severe=True)
    record(
        folder, reading(20), validated(20), reading(30), reading(40), validated(40), alarm, RolledBack(40, 20, 1, 0.5),
        reading(30, 0.1),
    )  # fmt: skip
    assert ("reading", 40) in steps(folder), "what went wrong stays to be read"
    history = History.read(folder.metrics)
    assert [(r.step, r.values["loss/pixel"]) for r in history.readings] == [(20, 0.5), (30, 0.1)]
    assert [v.step for v in history.validations] == [20]
    assert (history.alarms, history.rollbacks, history.step) == ([alarm], [RolledBack(40, 20, 1, 0.5)], 30)
    assert scalars(folder, "loss/pixel") == [(20, 0.5), (30, 0.1)]


@pytest.mark.parametrize(
    ("resumed_at", "kept"),
    [
        (30, [20, 30, 40, "back", 30]),
        (20, [20, 30, 40, "back"]),
        (10, []),
    ],
)
def test_resuming_after_a_rollback(folder: RunFolder, resumed_at: int, kept: list[Any]) -> None:
    record(
        folder, reading(20), reading(30), reading(40), RolledBack(40, 20, 1, 0.5), reading(30, 0.1), reading(35, 0.1)
    )
    record(folder, resumed_at=resumed_at)
    assert ["back" if kind == "rolled_back" else step for kind, step in steps(folder)] == kept
    told = [(r.step, r.values["loss/pixel"]) for r in History.read(folder.metrics).readings]
    assert told == {30: [(20, 0.5), (30, 0.1)], 20: [(20, 0.5)], 10: []}[resumed_at]


def test_time_is_that_of_all_sessions(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("upscaler.training.recording.time.time", lambda: now[0])
    with closing(Recorder(folder, resumed_at=None)) as recorder:
        recorder.record(Started(folder.path, 0, 100, {}))
        now[0] += 7
        recorder.record(reading(10))
    now[0] += 5000
    with closing(Recorder(folder, resumed_at=10)) as recorder:
        recorder.record(Started(folder.path, 10, 100, {}))
        now[0] += 4
        recorder.record(reading(20))
    history = History.read(folder.metrics)
    assert (history.seconds, history.sessions, history.steps) == (11, 2, 100)


def test_a_session_that_found_all_done_does_not_count(folder: RunFolder) -> None:
    record(folder, Started(folder.path, 0, 100, {}), reading(100))
    record(folder, Started(folder.path, 100, 100, {}), resumed_at=100)
    assert History.read(folder.metrics).sessions == 1


def test_no_thread_is_left_and_none_is_needed(folder: RunFolder) -> None:
    before = threading.active_count()
    with closing(Recorder(folder, resumed_at=None)) as recorder:
        recorder.record(reading(10))
        assert threading.active_count() == before


def test_a_full_disk_is_one_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(folder, resumed_at=None)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(recorder._board._records, "write", full)
        with pytest.raises(UserError, match=r"cannot write .*tfevents.*No space left.*make room"):
            recorder.record(reading(10))
    recorder.close()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of resources are POSIX's")
def test_a_file_that_cannot_grow_ends_in_one_line_and_no_warning(tmp_path: Path) -> None:
    program = """
import resource, sys
from contextlib import closing
from pathlib import Path
import upscaler.training.reports
from upscaler.errors import UserError
from upscaler.training.readings import Reading
from upscaler.training.recording import Narrator, Recorder, closing_words, log_line
from upscaler.training.runs import RunFolder
print([name for name in ("tensorboard", "matplotlib") if name in sys.modules])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    with closing(Recorder(RunFolder(Path(sys.argv[1])), resumed_at=None)) as recorder:
        for step in range(1000):
            recorder.record(Reading("main", step, {"loss/pixel": 0.5}))
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, *failure = done.stdout.splitlines()
    assert loaded == "[]", "loading them takes longer than --help may"
    assert len(failure) == 1
    assert failure[0].startswith("cannot write ")
    assert done.stderr == ""


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Recorder(RunFolder(tmp_path / "file" / "run"), resumed_at=None)
