"""`srup train`: networks of one's own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler.cli.console import INTERRUPTED, Console, Progress
from upscaler.cli.options import Debug, Device, Json
from upscaler.errors import UserError

if TYPE_CHECKING:
    from upscaler.training.config import Config
    from upscaler.training.readings import Event, Stepped
    from upscaler.training.session import Origin
    from upscaler.training.shards import PreparedSet


class OnAlarm(StrEnum):
    """What ``--on-alarm`` can be."""

    warn = "warn"
    rollback = "rollback"
    stop = "stop"


def train(
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="What to train; --list-presets shows all.")
    ] = None,
    list_presets: Annotated[bool, typer.Option("--list-presets", help="Show the presets and stop.")] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Training set. Without it: what 'srup prepare-data' wrote."),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            "--val", metavar="DIR", help="HR pictures to validate with. Without it: those the training set keeps apart."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML with settings laid over the preset's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as data.batch=8 or gan.iterations=1000."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="MODEL", help="Begin with these weights; of several stages, with the second."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with the run in this folder.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="RUN", help="Folder of the run. Without it: runs/PRESET-DATE-TIME."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", metavar="N", min=1, help="Steps of all stages together; schedules are scaled."),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option("--max-hours", metavar="HOURS", min=0, help="Stop after so long; --resume goes on."),
    ] = None,
    on_alarm: Annotated[
        OnAlarm,
        typer.Option(
            "--on-alarm",
            metavar="warn|rollback|stop",
            help="At a severe alarm: go on, go back to a checkpoint with lower rates, or stop.",
        ),
    ] = OnAlarm.warn,
    device: Device = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random. Without it: 0.")
    ] = None,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Train a network."""
    console = Console(json=json)
    if list_presets:
        _show_presets(console)
        return
    if preset is None and resume is None:
        raise typer.BadParameter("name a --preset, or a run to --resume; --list-presets shows the presets")
    if resume is not None and (output is not None or init is not None):
        raise typer.BadParameter("--resume goes on in its own folder with its own weights; leave -o and --init out")
    if resume is None and output is None and "WORLD_SIZE" in os.environ:
        raise typer.BadParameter("under torchrun name the folder of the run with -o")

    from upscaler.cli.loading import load_model
    from upscaler.model.device import choose_device
    from upscaler.training.config import read_config
    from upscaler.training.layering import load_config
    from upscaler.training.orders import Order
    from upscaler.training.runs import RunFolder
    from upscaler.training.session import Origin, check_fresh, check_same, restarted
    from upscaler.training.session import train as run

    folder = RunFolder(resume or output or Path("runs") / f"{preset}-{datetime.now():%Y%m%d-%H%M%S}")
    go_on = resume is not None or restarted(folder)
    origin, weights = None, None
    if go_on:
        origin, effective = Origin.read(folder), read_config(folder.config)
    if not go_on or preset or config or settings or iterations is not None or seed is not None:
        name = preset or effective.preset
        try:
            wanted = load_config(name, file=config, settings=settings or [], iterations=iterations, seed=seed)
        except UserError as error:
            raise typer.BadParameter(str(error)) from error
        if go_on:
            check_same(folder, effective, wanted)
        effective = wanted
    training_set, val = _data(origin, data, val)
    if not go_on:
        check_fresh(folder)
        weights = load_model(console, init) if init is not None else None
    order = Order(effective, folder, training_set, val, choose_device(device), max_hours, on_alarm.value)
    with ExitStack() as stack:
        display = _Display(console, effective, stack)
        try:
            finished = run(
                order,
                init=weights,
                resume=go_on,
                notify=display.show,
                warn=console.warning,
                progress=display.fetching,
            )
        except (KeyboardInterrupt, SystemExit) as ending:
            if not display.closed:
                raise
            # It was stopped as it should be, and has said so.
            raise SystemExit(ending.code if isinstance(ending, SystemExit) else INTERRUPTED) from None
    if finished.why == "alarm":
        raise typer.Exit(1)


def _data(origin: Origin | None, data: Path | None, val: Path | None) -> tuple[PreparedSet, Path | None]:
    """The training set and the folder of validation pictures, those of a run that goes on if nothing else is said."""
    from upscaler.training.shards import MANIFEST, PreparedSet, default_data_folder

    if data is not None and data.is_dir() and not (data / MANIFEST).exists():
        raise UserError(
            f"{data} is no training set; make one of it with 'srup prepare-data {data}' and leave --data out"
        )
    if origin is None:
        return PreparedSet(data or default_data_folder()), val
    found = PreparedSet(data or origin.data)
    origin.check(found)
    return found, val or origin.val


def _show_presets(console: Console) -> None:
    from upscaler.training.layering import preset_names, summary

    width = max(map(len, preset_names()))
    for name in preset_names():
        console.event("preset", name=name, summary=summary(name))
        console.result(f"{name:{width}}  {summary(name)}")


class _Display:
    """Shows what a run tells: one live line, and lines for what should be kept in sight."""

    def __init__(self, console: Console, config: Config, stack: ExitStack) -> None:
        from upscaler.training.recording import Narrator

        self._console, self._config, self._stack = console, config, stack
        self._progress: Progress | None = None
        self._fetching: Progress | None = None
        self._line, self._rate = config.preset, ""
        self.closed = False
        """Whether the last words of the run were shown."""
        self._narrator = Narrator()

    def fetching(self, done: int, total: int) -> None:
        """Weights of a VGG are being downloaded."""
        self._fetching = self._fetching or self._stack.enter_context(
            self._console.progress("fetching VGG weights", total, bytes_=True)
        )
        self._fetching.update(done)

    def _step(self, step: int) -> None:
        if self._progress:
            self._progress.update(step, f"{step} {self._line}", self._rate or None)

    def show(self, event: Event | Stepped) -> None:
        """One event."""
        from upscaler.training.history import event_content
        from upscaler.training.readings import (
            Alarm,
            Finished,
            Reading,
            RolledBack,
            StageEnded,
            Started,
            Stepped,
            Validated,
        )
        from upscaler.training.recording import closing_words, log_line

        if isinstance(event, Stepped):
            self._step(event.step)
            return
        content = event_content(event)
        self._console.event(content.pop("kind"), **content)
        match event:
            case Started():
                self._stack.close()
                self._say(event)
                self._progress = self._stack.enter_context(
                    self._console.progress(self._config.preset, event.steps, begun=event.step, unit="steps")
                )
            case Reading():
                self._line = _line(event)
                self._rate = f"{event.values['speed/steps_per_second']:.3g}/s"
                self._step(event.step)
            case Alarm():
                self._console.warning(log_line(event))
            case Validated() | StageEnded() | RolledBack():
                self._say(event)
            case Finished():
                self._stack.close()
                for line in closing_words(event):
                    self._console.result(line)
                self.closed = True

    def _say(self, event: Event) -> None:
        for line in self._narrator.lines(event):
            self._console.notice(line)


def _line(reading: Any) -> str:
    """What matters most of a reading, in a few words."""
    from upscaler.training.readings import TERMS

    values = reading.values
    terms = [name for name in TERMS if f"loss/{name}" in values]
    words = [f"{name} {values[f'loss/{name}']:.3g}" for name in terms]
    if "output/real" in values:
        words.append(f"D {values['output/real']:+.2f}/{values['output/fake']:+.2f}")
    return f"{reading.stage}  {'  '.join(words)}"
