"""Everything a run tells, written into its folder: for programs, for people, for TensorBoard, and as pictures."""

from __future__ import annotations

import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from upscaler.images.files import Metadata, write_picture
from upscaler.images.files import Picture as PictureWithMetadata
from upscaler.images.sheets import Picture, crops_sheet
from upscaler.model.evaluation import Scores
from upscaler.saving import explained
from upscaler.training.board import Board
from upscaler.training.history import event_line, forget_after
from upscaler.training.readings import (
    ROLLBACKS,
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
from upscaler.training.runs import RunFolder

_DISTRIBUTION = "distribution/"
"""Before the names of histograms: TensorBoard shows one kind of thing for each tag, and those are of numbers."""

_LOGGED = ("loss/", "output/", "speed/steps_per_second")
_DIGITS = 8
_WHY = {
    "complete": "complete",
    "time": "stopped after --max-hours",
    "signal": "stopped on request",
    "alarm": "stopped by an alarm",
}


class Recorder:
    """Writes events into a run's folder as they come; ``metrics.jsonl``'s format is described in ``history``.

    Args:
        folder: of the run; it is made if it is missing.
        resumed_at: the step at which a run goes on, so that what was written of later ones is taken out first.
            None for a new run.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: RunFolder, *, resumed_at: int | None) -> None:
        self._folder = folder
        with explained(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        if resumed_at is not None:
            forget_after(folder.metrics, resumed_at)
            _remove_samples(folder.samples, resumed_at)
        self._board = Board(folder.tensorboard, None if resumed_at is None else resumed_at + 1)
        self._metrics = _appending(folder.metrics)
        self._log = _appending(folder.log)
        self._narrator = Narrator()
        self._shown: set[tuple[str, str]] = set()

    def record(self, event: Event) -> None:
        """Write an event down; it is with the system when this returns.

        Raises:
            UserError: it cannot be written, for example for want of space.
        """
        now = time.time()
        with explained(self._folder.metrics):
            self._metrics.write(event_line(event, self._folder.path, now))
            self._metrics.flush()
        with explained(self._folder.log):
            for line in self._narrator.lines(event):
                self._log.write(f"{datetime.fromtimestamp(now):%Y-%m-%d %H:%M:%S}  {line}\n")
            self._log.flush()
        self._show(event)
        self._board.flush()

    def close(self) -> None:
        """Close all files.

        Raises:
            UserError: something could not be written to the end.
        """
        with explained(self._folder.path):
            try:
                self._metrics.close()
            finally:
                try:
                    self._log.close()
                finally:
                    self._board.close()

    def _show(self, event: Event) -> None:
        match event:
            case Started() if self._folder.config.is_file():
                text = self._folder.config.read_text(encoding="utf-8")
                self._board.text(event.step, "configuration", f"```toml\n{text}```")
            case Reading():
                self._board.scalars(event.step, event.values)
                for name, values in event.distributions.items():
                    self._board.histogram(event.step, _DISTRIBUTION + name, values)
            case Validated():
                self._board.scalars(event.step, _validation_scalars(event.scores))
                for sample in event.samples:
                    self._show_sample(sample, event)
            case Alarm():
                severe = " (severe)" if event.severe else ""
                self._board.text(event.step, "alarms", f"**{event.fault}**{severe}: {event.seen}; {event.advice}")
            case RolledBack():
                self._board.purge(event.to + 1)

    def _show_sample(self, sample: Sample, event: Validated) -> None:
        columns = [("bicubic", sample.bicubic), ("result", sample.result), ("reference", sample.reference)]
        self._board.picture(event.step, f"samples/{sample.name}", crops_sheet([columns]))
        folder = self._folder.samples / sample.name
        # A stage may make its LR pictures in another way than the one before.
        if (event.stage, sample.name) not in self._shown:
            self._shown.add((event.stage, sample.name))
            _write(folder / "bicubic.png", sample.bicubic)
            _write(folder / "reference.png", sample.reference)
        _write(folder / f"{event.step:0{_DIGITS}}.png", sample.result)


def sample_steps(folder: Path) -> dict[int, Path]:
    """The results in the folder of one sample, by their steps."""
    return {int(path.stem): path for path in sorted(folder.glob("*.png")) if path.stem.isdecimal()}


class Narrator:
    """Tells the events of a session to people, and nothing twice that does not change."""

    def __init__(self) -> None:
        self._bicubic: Scores | None = None
        self._saved: int | None = None

    def lines(self, event: Event) -> list[str]:
        """An event in lines; none where it was told before, as of a checkpoint that two stages share."""
        lines = [log_line(event)]
        match event:
            case Validated() if event.bicubic != self._bicubic:
                self._bicubic = event.bicubic
                lines.insert(0, f"bicubic, to compare with: {_scores(event.bicubic)}")
            case Saved() if event.step == self._saved:
                return []
            case Saved():
                self._saved = event.step
            case RolledBack():
                self._saved = None
        return lines


def log_line(event: Event) -> str:
    """An event in one line for people."""
    match event:
        case Started():
            networks = ", ".join(f"{name} of {count:,} parameters" for name, count in event.parameters.items())
            return f"step {event.step:,}: start, {event.steps:,} steps in all; {networks}"
        case Reading():
            values = [f"{name} {value:.4g}" for name, value in event.values.items() if name.startswith(_LOGGED)]
            return f"step {event.step:,} ({event.stage}): {', '.join(values)}"
        case Validated():
            best = ", best so far" if event.best else ""
            return f"{event.stage} {event.step:,}: {_scores(event.scores)}{best}"
        case Alarm():
            kind = "severe alarm" if event.severe else "alarm"
            return f"step {event.step:,} ({event.stage}): {kind}: {event.fault}: {event.seen}; {event.advice}"
        case StageEnded():
            return f"step {event.step:,}: the stage {event.stage} is complete; weights in {event.weights}"
        case Saved():
            return f"step {event.step:,}: checkpoint {event.path.name}"
        case RolledBack():
            rates = f"learning rates are now {event.rate_factor:g} of what they would be"
            return (
                f"step {event.step:,}: rolled back to step {event.to:,}, rollback {event.count} of {ROLLBACKS}; {rates}"
            )
        case Finished():
            return f"step {event.step:,}: {'; '.join([_WHY.get(event.why, event.why), *_afterwards(event)])}"


def closing_words(event: Finished) -> list[str]:
    """How a run ended, where its results are, and what to type next, in lines for people."""
    why, steps = _WHY.get(event.why, event.why), f"{event.step:,} steps"
    return [f"{why}: {steps}" if event.why == "complete" else f"{why} after {steps}", *_afterwards(event)]


def _afterwards(event: Finished) -> list[str]:
    named = {"best": RunFolder(event.folder).weights("best"), "last": event.weights}
    there = {name: path for name, path in named.items() if path.is_file()}
    lines = []
    if there:
        several = len(there) > 1
        lines.append(
            "weights: " + ", ".join(f"{path} ({name})" if several else f"{path}" for name, path in there.items())
        )
    lines.append(f"report: {event.report}")
    if event.why != "complete":
        lines.append(f"go on with: srup train --resume {_typed(event.folder)}")
    elif there:
        lines.append(f"use them with: srup upscale -m {_typed(next(iter(there.values())))} PICTURE")
    return lines


def _typed(path: Path) -> str:
    """A path as it is typed in a shell; forward slashes need no quotes on any system."""
    return shlex.quote(path.as_posix())


def _scores(scores: Scores) -> str:
    # Without the zero the line is one line at 80 columns.
    ssim = f"{scores.ssim_y:.4f}".replace("0.", ".", 1)
    natural = "" if scores.niqe is None else f"  NIQE {scores.niqe:.2f}"
    return f"PSNR-Y {scores.psnr_y:.2f} dB  SSIM-Y {ssim}{natural}  drift {scores.drift:.2f}"


def _validation_scalars(scores: Scores) -> dict[str, float]:
    values = {"psnr_y": scores.psnr_y, "ssim_y": scores.ssim_y, "niqe": scores.niqe, "drift": scores.drift}
    return {f"validation/{name}": value for name, value in values.items() if value is not None}


def _appending(path: Path) -> TextIO:
    """A log to add lines to; a last line that was torn stays a line of its own."""
    with explained(path):
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        file = path.open("a", encoding="utf-8", newline="\n")
        if torn:
            file.write("\n")
    return file


def _remove_samples(folder: Path, after: int) -> None:
    for each in folder.iterdir() if folder.is_dir() else ():
        for step, path in sample_steps(each).items():
            if step > after:
                with explained(path):
                    path.unlink()


def _write(path: Path, pixels: Picture) -> None:
    write_picture(path, PictureWithMetadata(np.ascontiguousarray(pixels), Metadata()))
