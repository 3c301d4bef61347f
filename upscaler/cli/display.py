"""What a person, or a program that reads JSON, sees of a running batch."""

from __future__ import annotations

import time

from upscaler.cli.console import Console, Progress, duration
from upscaler.model import batch, events
from upscaler.model.ranks import rank, world
from upscaler.model.upscaler import Estimate

_JSON_INTERVAL = 1.0


def tell(
    console: Console, name: str, event: events.Redone | events.Shrunk | events.Compiling | events.Uncompiled
) -> None:
    """Say what happened while a picture was computed."""
    if isinstance(event, events.Redone):
        box = event.box
        console.warning(
            f"{name}: the tile at {box.left}, {box.top} came out with values that are not numbers "
            "and was computed again in fp32",
            input=name,
        )
    elif isinstance(event, events.Shrunk):
        tile = f"{event.plan.tile_width} x {event.plan.tile_height}"
        console.warning(f"{name}: memory ran out; going on with tiles of {tile}", input=name)
    elif isinstance(event, events.Compiling):
        console.notice("compiling convolutions for this CPU, once; this takes some ten seconds")
    else:
        console.warning(str(event))


class BatchDisplay:
    """Turns the events of a batch and of its engine into lines, progress and JSON.

    Args:
        console: where it goes.
        pictures: how many there are.
    """

    def __init__(self, console: Console, pictures: int) -> None:
        self.console = console
        self.pictures = pictures
        self.progress: Progress | None = None
        self.start = time.monotonic()
        self.finished = self.skipped = self.failed = 0
        self._begun = 0
        self._operations = self._wanted = self._megapixels = self._megapixels_before = 0.0
        self._name = ""
        self._told = self.start

    def restart(self, progress: Progress, name: str, estimate: Estimate, samples: int) -> None:
        """Show the work of upscaling one picture several times, under that name."""
        self.progress, self.pictures, self._begun, self.start = progress, 1, 1, time.monotonic()
        self._operations, self._wanted, self._megapixels_before = 0.0, estimate.operations * samples, 0.0
        self._megapixels, self._name = samples * estimate.width * estimate.height / 1e6, name

    def engine(self, event: events.Event) -> None:
        """Something happened inside a picture."""
        if isinstance(event, events.Worked):
            self._operations += event.operations
            self._show()
        else:
            tell(self.console, self._name, event)

    def batch(self, event: batch.Event) -> None:
        """Something happened to a picture."""
        name = str(event.job.input)
        if isinstance(event, batch.Started):
            self._megapixels_before += self._megapixels
            self._megapixels = event.estimate.width * event.estimate.height / 1e6
            self._begun, self._name, self._operations = self._begun + 1, name, 0.0
            self._wanted = event.estimate.operations
            self.console.event("started", input=name, output=event.job.output, memory=event.memory)
        elif isinstance(event, batch.Warned):
            self.console.warning(event.message, input=name)
        elif isinstance(event, batch.Finished):
            self.finished += 1
            self.console.event(
                "finished", input=name, output=event.job.output, width=event.width, height=event.height,
                seconds=round(event.seconds, 3),
            )  # fmt: skip
            self.console.result(
                f"{name} -> {event.job.output}  {event.width} x {event.height}  {duration(event.seconds)}"
            )
        elif isinstance(event, batch.Skipped):
            self.skipped, self._begun = self.skipped + 1, self._begun + 1
            self.console.event("skipped", input=name, output=event.job.output)
        else:
            self.failed, self._begun = self.failed + 1, self._begun + 1
            self.console.error(event.message, input=name)

    def summary(self) -> None:
        """The last line of a batch of several pictures, and its JSON."""
        seconds = time.monotonic() - self.start
        self.console.event(
            "summary", finished=self.finished, skipped=self.skipped, failed=self.failed, seconds=round(seconds, 3)
        )
        if self.pictures > 1 or self.skipped or world() > 1:
            which = f"process {rank() + 1} of {world()}: " if world() > 1 else ""
            counts = f"{self.finished} upscaled, {self.skipped} skipped, {self.failed} failed"
            self.console.result(f"{which}{counts} in {duration(seconds)}")

    def _show(self) -> None:
        part = min(self._operations / self._wanted, 1.0) if self._wanted else 0.0
        done = max(self._begun - 1, 0) + part
        now = time.monotonic()
        speed = (self._megapixels_before + part * self._megapixels) / max(now - self.start, 1e-3)
        if self.progress:
            self.progress.update(done, self._name or None, f"{speed:.3g} MP/s")
        if now - self._told >= _JSON_INTERVAL:
            self._told = now
            self.console.event("progress", input=self._name, done=round(done, 4), total=self.pictures)
