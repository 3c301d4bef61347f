"""Text for people and JSON for programs, from the same calls."""

from __future__ import annotations

import json as json_format
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as a shell tells them."""
_PLAIN_INTERVAL = 10.0
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def harmless(text: str) -> str:
    """What files and models say of themselves, so that it can neither steer a terminal nor fail to be encoded."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class Progress(Protocol):
    """A running display of one long piece of work."""

    def update(self, done: float, description: str | None = None, rate: str | None = None) -> None:
        """``done`` counts in the unit that the display was opened with, ``rate`` is shown as it is."""


class Console:
    """Where a command's words go.

    Without ``json``, results go to stdout and notices to stderr. With it, stdout carries one JSON
    object per event and everything for people goes to stderr.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def event(self, kind: str, **fields: Any) -> None:
        """One JSON object on stdout, only with ``--json``."""
        if self.json:
            print(json_format.dumps({"event": kind, **fields}, default=str, allow_nan=False), flush=True)

    def result(self, content: RenderableType) -> None:
        """A result that a person asked for: a string or anything rich can draw."""
        self._print(content, sys.stderr if self.json else sys.stdout)

    def notice(self, text: str) -> None:
        """A line on what is going on."""
        self._print(text, sys.stderr)

    def warning(self, text: str, **fields: Any) -> None:
        """Something a person should know although the work goes on."""
        self.event("warning", message=text, **fields)
        self._print(f"warning: {text}", sys.stderr)

    def error(self, text: str, **fields: Any) -> None:
        """Something that failed: one line."""
        self.event("error", message=text, **fields)
        self._print(f"error: {' '.join(text.split())}", sys.stderr)

    def _print(self, content: RenderableType, stream: Any) -> None:
        if isinstance(content, str):
            print(harmless(content), file=stream, flush=True)
        else:
            from rich.console import Console as RichConsole

            RichConsole(file=stream).print(content)

    @contextmanager
    def progress(
        self, description: str, total: float, *, begun: int = 0, unit: str = "", bytes_: bool = False
    ) -> Iterator[Progress]:
        """Progress with rate and time left: a bar on a terminal, now and then a plain line elsewhere.

        Args:
            description: what is being done.
            total: the amount that makes it complete.
            begun: the amount that was done before.
            unit: shown behind the rate, such as ``MP``.
            bytes_: the amounts are bytes.
        """
        if not sys.stderr.isatty():
            yield _PlainProgress(description, total, unit="MB" if bytes_ else unit, divisor=1e6 if bytes_ else 1)
            return
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            ProgressColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        amount: tuple[ProgressColumn, ...] = (
            (DownloadColumn(), TransferSpeedColumn()) if bytes_ else (TextColumn("{task.fields[rate]}"),)
        )
        columns = (
            # On a narrow terminal the words give way, not the time that is left.
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            *amount,
            TimeRemainingColumn(),
        )
        # What goes to a file must not be drawn on the terminal instead.
        redirect = sys.stdout.isatty()
        with RichProgress(
            *columns, console=RichConsole(file=sys.stderr), transient=True, redirect_stdout=redirect, expand=True
        ) as bar:
            task = bar.add_task(description, total=total, completed=begun, rate="")
            yield _BarProgress(bar, task, begun, unit)


class _BarProgress:
    def __init__(self, bar: Any, task: Any, begun: int, unit: str) -> None:
        self.bar, self.task, self.begun, self.unit = bar, task, begun, unit
        self.start = time.monotonic()

    def update(self, done: float, description: str | None = None, rate: str | None = None) -> None:
        rate = rate or f"{(done - self.begun) / max(time.monotonic() - self.start, 1e-3):.3g} {self.unit}/s"
        self.bar.update(self.task, completed=done, description=description and harmless(description), rate=rate)


class _PlainProgress:
    """Counts from its first update on, so that what comes before the work, such as compiling, is not taken for it."""

    def __init__(self, description: str, total: float, *, unit: str, divisor: float) -> None:
        self.description, self.total, self.unit, self.divisor = description, total, unit, divisor
        self.start: float | None = None

    def update(self, done: float, description: str | None = None, rate: str | None = None) -> None:
        self.description = description or self.description
        now = time.monotonic()
        if self.start is None:
            self.start = self.shown = now
            self.begun = done
        elapsed = now - self.start
        # The longer it takes the rarer the lines, so that a day's work does not fill a log.
        if now - self.shown < max(_PLAIN_INTERVAL, elapsed / 20) or not self.begun < done < self.total:
            return
        self.shown = now
        made = done - self.begun
        left = elapsed * (self.total - done) / made
        rate = rate or f"{made / self.divisor / elapsed:.3g} {self.unit}/s"
        print(
            f"{harmless(self.description)}: {done / self.total:.0%}, {rate}, {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
