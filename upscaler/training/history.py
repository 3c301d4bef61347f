"""``metrics.jsonl``: the events of a run, one JSON object a line, and what they come to.

Every object has ``kind``, ``time`` (seconds since 1970) and ``step``. JSON knows no infinities and no NaN: these
are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which ``float()`` understands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.model.evaluation import Scores
from upscaler.saving import whole_file
from upscaler.training.readings import (
    Alarm,
    Event,
    Finished,
    Reading,
    RolledBack,
    Saved,
    StageEnded,
    Started,
    Validated,
)

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""What is kept of a distribution."""

Series = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps and values, (N,) each."""

_KINDS = {
    Started: "started",
    Reading: "reading",
    Validated: "validated",
    Alarm: "alarm",
    StageEnded: "stage_ended",
    Saved: "saved",
    RolledBack: "rolled_back",
    Finished: "finished",
}


def event_line(event: Event, folder: Path, time: float) -> str:
    """An event as a line of ``metrics.jsonl``; paths in the run's folder are relative to it."""
    content = event_content(event, folder)
    line = {"kind": content.pop("kind"), "time": round(time, 3), **content}
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def event_content(event: Event, folder: Path | None = None) -> dict[str, Any]:
    """An event as values that JSON knows; paths are relative to ``folder`` where one is given."""
    content: dict[str, Any] = {"kind": _KINDS[type(event)], "step": event.step}
    match event:
        case Reading():
            values = {name: float(value) for name, value in event.values.items()}
            content |= {"stage": event.stage, "values": values, "quantiles": _quantiles(event.distributions)}
        case Validated():
            content |= {"stage": event.stage, "best": event.best}
            content |= {"scores": asdict(event.scores), "bicubic": asdict(event.bicubic)}
            content |= {"samples": [sample.name for sample in event.samples]}
        case _:
            content |= {each.name: getattr(event, each.name) for each in fields(event)}
    plain: dict[str, Any] = _plain(content, folder)
    return plain


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of all whole lines; a line that was torn when a run was killed is passed over.

    Raises:
        UserError: the file is there and cannot be read.
    """
    return [entry for _, entry in _entries(path)]


def forget_after(path: Path, step: int) -> None:
    """Take from the end of the file what happened after a step, as far as a run that resumes there repeats it.

    What a rollback has undone stays, with higher steps, before the line that tells of the rollback.

    Raises:
        UserError: the file cannot be read or written.
    """
    if not path.exists():
        return
    kept = list(_entries(path))
    while kept and _reached(kept[-1][1]) > step:
        kept.pop()
    with whole_file(path) as file:
        file.writelines(line + b"\n" for line, _ in kept)


@dataclass
class History:
    """What happened in a run, without what was undone by rollbacks (alarms and rollbacks themselves are all there).

    Attributes:
        readings: in the order of steps; of ``distributions`` there are the ``QUANTILES``.
        validations: in the order of steps, without pixels.
        alarms, rollbacks: in the order in which they came.
        parameters: how many numbers each network has.
        begun: steps that counted as done at first, as those of a stage that weights of another run stand for.
        step: the last one that was told of.
        steps: that were planned, 0 if that is not known.
        seconds: spent in all sessions.
        sessions: how often the run was started with steps left to make.
    """

    readings: list[Reading] = field(default_factory=list)
    validations: list[Validated] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    rollbacks: list[RolledBack] = field(default_factory=list)
    parameters: Mapping[str, int] = field(default_factory=dict)
    begun: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    sessions: int = 0

    @classmethod
    def read(cls, path: Path) -> History:
        """The history that ``metrics.jsonl`` tells; an empty one if there is no such file.

        Raises:
            UserError: the file cannot be read.
        """
        history = cls()
        readings: dict[tuple[str, int], Reading] = {}
        validations: dict[tuple[str, int], Validated] = {}
        before: float | None = None
        for entry in read_lines(path):
            step = history.step = int(entry["step"])
            time = float(entry["time"])
            match entry["kind"]:
                case "started":
                    history.parameters, history.steps = entry["parameters"], int(entry["steps"])
                    if before is None:
                        history.begun = step
                    # One that found all steps done already has only looked.
                    history.sessions += not history.sessions or step < history.steps
                    before = time
                case "reading":
                    # What comes later counts: a resumed run may repeat the step that it begins with.
                    readings[entry["stage"], step] = _reading(entry)
                case "validated":
                    validations[entry["stage"], step] = _validated(entry)
                case "alarm":
                    history.alarms.append(Alarm(**{each.name: entry[each.name] for each in fields(Alarm)}))
                case "rolled_back":
                    history.rollbacks.append(RolledBack(**{each.name: entry[each.name] for each in fields(RolledBack)}))
                    history.step = int(entry["to"])
                    for undone in [key for key in readings if key[1] > history.step]:
                        del readings[undone]
                    for undone in [key for key in validations if key[1] > history.step]:
                        del validations[undone]
            history.seconds += max(time - before, 0) if before is not None else 0
            before = time
        history.readings = sorted(readings.values(), key=lambda reading: reading.step)
        history.validations = sorted(validations.values(), key=lambda validated: validated.step)
        return history

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """The first and the last step of each stage that anything was told of, in their order."""
        steps: dict[str, list[int]] = {}
        events: list[Reading | Validated] = [*self.readings, *self.validations]
        for event in sorted(events, key=lambda event: event.step):
            steps.setdefault(event.stage, []).append(event.step)
        result, end = {}, self.begun
        for stage, told in steps.items():
            result[stage] = (end, told[-1])
            end = told[-1]
        return result

    def series(self, name: str) -> Series:
        """A number over the steps; NaN or infinite where it was."""
        found = [(reading.step, reading.values[name]) for reading in self.readings if name in reading.values]
        return np.array([step for step, _ in found], np.int64), np.array([value for _, value in found], np.float64)

    def names(self, group: str) -> list[str]:
        """The names of a group of numbers, such as ``loss``, in the order in which they came up."""
        found = dict.fromkeys(name for reading in self.readings for name in reading.values)
        return [name for name in found if name.startswith(f"{group}/")]

    def quantiles(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps (N,) and the ``QUANTILES`` of a distribution, (N, 5)."""
        found = [(r.step, r.distributions[name]) for r in self.readings if name in r.distributions]
        steps = np.array([step for step, _ in found], np.int64)
        return steps, np.array([values for _, values in found], np.float64).reshape(-1, len(QUANTILES))


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line with what it says."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"kind", "time", "step"} <= entry.keys():
            yield line, entry


def _reached(entry: Mapping[str, Any]) -> int:
    """The step that the run was at after an event."""
    return int(entry["to"] if entry["kind"] == "rolled_back" else entry["step"])


def _quantiles(distributions: Mapping[str, NDArray[np.float32]]) -> dict[str, list[float]]:
    finite = {name: values[np.isfinite(values)] for name, values in distributions.items()}
    # Six digits are what float32 has.
    return {
        name: [float(f"{quantile:.6g}") for quantile in np.quantile(values, QUANTILES)]
        for name, values in finite.items()
        if len(values)
    }


def _plain(value: Any, folder: Path | None) -> Any:
    """A value of events as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(each, folder) for key, each in value.items()}
    if isinstance(value, Path):
        if folder is not None and value.is_relative_to(folder):
            return value.relative_to(folder).as_posix()
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each, folder) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _reading(entry: Mapping[str, Any]) -> Reading:
    return Reading(
        entry["stage"],
        int(entry["step"]),
        {name: float(value) for name, value in entry["values"].items()},
        {name: np.array(values, np.float32) for name, values in entry["quantiles"].items()},
    )


def _validated(entry: Mapping[str, Any]) -> Validated:
    scores, bicubic = _scores(entry["scores"]), _scores(entry["bicubic"])
    return Validated(entry["stage"], int(entry["step"]), scores, bicubic, (), entry["best"])


def _scores(entry: Mapping[str, Any]) -> Scores:
    values: dict[str, Any] = {
        name: tuple(map(float, value)) if isinstance(value, list) else value if value is None else float(value)
        for name, value in entry.items()
    }
    return Scores(**values)
