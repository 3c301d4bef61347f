"""Rows of measurements: on the terminal, as Markdown, as CSV, and as JSON can hold them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from upscaler.cli.console import harmless

if TYPE_CHECKING:
    from rich.table import Table

Row = tuple[Sequence[str], Sequence[str]]
"""The names at the left of a row, and its numbers."""


def terminal_table(title: str, names: Sequence[str], headings: Sequence[str], rows: Iterable[Row]) -> Table:
    """A table for a terminal of 80 columns.

    Args:
        title: in one line.
        names: above the columns of names.
        headings: above the numbers; a - in one is where it may be cut in two.
        rows: from top to bottom.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(harmless(title)), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in names:
        drawn.add_column(f"\n{heading}", overflow="fold")
    for heading in headings:
        # Two lines, so that numbers leave the names some room.
        drawn.add_column(
            heading.replace("-", "\n") if "-" in heading else f"\n{heading}", justify="right", no_wrap=True
        )
    for left, numbers in rows:
        drawn.add_row(*(Text(harmless(name)) for name in left), *numbers)
    return drawn


def markdown_table(names: Sequence[str], headings: Sequence[str], rows: Iterable[Row]) -> str:
    """The same in Markdown."""
    head = [[*names, *headings], [*("---" for _ in names), *("---:" for _ in headings)]]
    lines = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in (*head, *([*a, *b] for a, b in rows)))
    return "".join(f"| {line} |\n" for line in lines)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys, of which each is a column; a value for each of R, G and B makes three."""
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, flat[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def cell(value: float | None, form: str) -> str:
    """A number as people read it, by its format specification."""
    if value is None:
        return "-"
    return format(value, form) if isfinite(value) else "∞"


def plain(value: Any) -> Any:
    """A value for JSON, which knows no infinity: the PSNR of equal pictures is null."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return round(value, 6) if isfinite(value) else None
    return value


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, tuple):
            flat |= {f"{name}_{channel}": part for channel, part in zip("rgb", value, strict=True)}
        else:
            flat[name] = value
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in flat.items()}
