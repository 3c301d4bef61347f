"""What was measured on the steps of a zoom: a table on the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscaler.cli.tables import cell, csv_table, markdown_table, plain, terminal_table
from upscaler.model.zooming import Scores
from upscaler.saving import whole_file

if TYPE_CHECKING:
    from rich.table import Table

FIRST = "first crop"
"""The row of what no method has made."""

_COLUMNS: tuple[tuple[str, Callable[[Scores], float | None], str], ...] = (
    ("sharpness", lambda scores: scores.sharpness, ".1f"),
    ("high-%", lambda scores: 100 * scores.high_frequencies, ".3f"),
    ("drift", lambda scores: scores.drift, ".2f"),
    ("step-before", lambda scores: scores.agreement, ".2f"),
    ("bicubic", lambda scores: scores.agreement_bicubic, ".2f"),
)
_HEADINGS = [heading for heading, _, _ in _COLUMNS]
_NAMES = ["method", "step", "zoom"]
_LEGEND = (
    "sharpness: variance of the Laplacian of Y; high-%: energy above half Nyquist; drift: of the mean colour since "
    "the first crop, in levels of 255; step-before: PSNR in dB of the result scaled down against the crop it was made "
    "from; bicubic: PSNR in dB against that crop's bicubic enlargement."
)


@dataclass
class Journey:
    """A zoom as far as it was measured.

    Args:
        picture: its name.
        at: the pixel that was zoomed into, from the left and from the top.
        factor: by which each step enlarges.
        edge: of the results.
        models: what the methods that are models were loaded from.
        rows: method, step and scores, in the order in which they were made.
    """

    picture: str
    at: tuple[int, int]
    factor: int
    edge: int
    models: Mapping[str, str]
    rows: list[tuple[str, int, Scores]] = field(default_factory=list)

    @property
    def place(self) -> str:
        """The pixel as ``--at`` takes it."""
        return f"{self.at[0]},{self.at[1]}"

    @property
    def where(self) -> str:
        """The picture and the pixel."""
        return f"{self.picture} at {self.place}"

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        return f"{self.where}: results of {self.edge} x {self.edge}, x{self.factor} a step"


def entry(method: str, step: int, scores: Scores) -> dict[str, Any]:
    """A row for JSON."""
    return {"method": method, "step": step, **{name: plain(value) for name, value in asdict(scores).items()}}


def table(journey: Journey) -> Table:
    """All rows, for a terminal of 80 columns."""
    return terminal_table(journey.title, _NAMES, _HEADINGS, _rows(journey))


def write_tables(folder: Path, journey: Journey) -> None:
    """``steps.md``, ``steps.csv`` and ``steps.json``.

    Raises:
        UserError: they cannot be written.
    """
    content = asdict(journey) | {"rows": [entry(*row) for row in journey.rows]}
    texts = {
        "md": f"{journey.title}\n\n{markdown_table(_NAMES, _HEADINGS, _rows(journey))}\n{_LEGEND}\n",
        "csv": csv_table([{"method": method, "step": step, **_wide(scores)} for method, step, scores in journey.rows]),
        "json": json.dumps(content, indent=1, allow_nan=False) + "\n",
    }
    for suffix, text in texts.items():
        with whole_file(folder / f"steps.{suffix}") as file:
            file.write(text.encode(errors="backslashreplace"))


def _rows(journey: Journey) -> list[tuple[list[str], list[str]]]:
    return [
        (
            [method, str(step), f"x{journey.factor**step:,}"],
            [cell(value(scores), form) for _, value, form in _COLUMNS],
        )
        for method, step, scores in journey.rows
    ]


def _wide(scores: Scores) -> dict[str, Any]:
    """With three values of a shift also where there is none, so that all rows have the same columns."""
    return asdict(scores) | {"shift": scores.shift or (None, None, None)}
