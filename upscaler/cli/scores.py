"""The scores of an evaluation as a table on the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscaler.cli.tables import cell, csv_table, markdown_table, plain, terminal_table
from upscaler.model.evaluation import Scores, average
from upscaler.saving import whole_file

if TYPE_CHECKING:
    from rich.table import Table

    from upscaler.model.sweeps import Reading

_COLUMNS: tuple[tuple[str, Callable[[Scores], float | None], str], ...] = (
    ("PSNR-Y", lambda scores: scores.psnr_y, ".2f"),
    ("SSIM-Y", lambda scores: scores.ssim_y, ".4f"),
    ("PSNR-RGB", lambda scores: scores.psnr_rgb, ".2f"),
    ("SSIM-RGB", lambda scores: scores.ssim_rgb, ".4f"),
    ("NIQE", lambda scores: scores.niqe, ".2f"),
    ("drift", lambda scores: scores.drift, ".2f"),
    ("drift-LR", lambda scores: scores.drift_lr, ".2f"),
    ("s", lambda scores: scores.seconds, ".2f"),
    ("MB", lambda scores: None if scores.memory is None else scores.memory / 1e6, ".0f"),
)
_HEADINGS = [heading for heading, _, _ in _COLUMNS]
_MEAN = "mean"


@dataclass
class Report:
    """What was measured so far: for each picture the scores of each method, in order.

    Args:
        name: of the references.
        scale, border: of the protocol.
        models: what the rows that are models were loaded from.
    """

    name: str
    scale: int
    border: int
    models: Mapping[str, str] = field(default_factory=dict)
    pictures: dict[str, Mapping[str, Scores]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was measured and how, in one line."""
        return f"{self.name}: mean of {self.how}"

    @property
    def how(self) -> str:
        """How many pictures were measured, and how."""
        count = "1 picture" if len(self.pictures) == 1 else f"{len(self.pictures)} pictures"
        return f"{count}, x{self.scale}, border {self.border}"

    @property
    def means(self) -> dict[str, Scores]:
        """Each method's average over all pictures."""
        methods = next(iter(self.pictures.values()), {})
        return {method: average([scores[method] for scores in self.pictures.values()]) for method in methods}

    @property
    def infinite(self) -> dict[str, str]:
        """The pictures that alone make means infinite, with the methods they do it to: others are finite there."""
        found: dict[str, list[str]] = {}
        for method in self.means:
            equal = [name for name, scores in self.pictures.items() if not isfinite(scores[method].psnr_y)]
            for name in equal if len(equal) < len(self.pictures) else ():
                found.setdefault(name, []).append(method)
        return {name: ", ".join(methods) for name, methods in found.items()}

    @property
    def rows(self) -> list[tuple[str, str, Scores]]:
        """Picture, method and scores of everything measured."""
        return [(picture, *row) for picture, methods in self.pictures.items() for row in methods.items()]


def entry(scores: Scores | Reading) -> dict[str, Any]:
    """Scores for JSON, which knows no infinity: the PSNR of equal pictures is null."""
    return {name: plain(value) for name, value in asdict(scores).items()}


def mean_table(report: Report) -> Table:
    """A row for each method, for a terminal of 80 columns."""
    return _table(report.title, ["method"], [([method], scores) for method, scores in report.means.items()])


def each_table(report: Report) -> Table:
    """A row for each picture and method, for a terminal of 80 columns."""
    rows = [([picture, method], scores) for picture, method, scores in report.rows]
    return _table(f"{report.name}: {report.how}", ["picture", "method"], rows)


def _table(title: str, names: Sequence[str], rows: Iterable[tuple[Sequence[str], Scores]]) -> Table:
    return terminal_table(title, names, _HEADINGS, [(cells, _cells(scores)) for cells, scores in rows])


def write(path: Path, report: Report) -> None:
    """All rows of all pictures and the means, in the form that the suffix of the file says, one of ``FORMS``.

    Raises:
        UserError: the file cannot be written. What was there before is then as it was.
    """
    with whole_file(path) as file:
        file.write(FORMS[path.suffix.lower()](report).encode(errors="backslashreplace"))


def _markdown(report: Report) -> str:
    means = [([method], _cells(scores)) for method, scores in report.means.items()]
    pictures = [([picture, method], _cells(scores)) for picture, method, scores in report.rows]
    return (
        f"{report.title}\n\n{markdown_table(['method'], _HEADINGS, means)}\n"
        f"{markdown_table(['picture', 'method'], _HEADINGS, pictures)}"
    )


def _csv(report: Report) -> str:
    means = [(_MEAN, method, scores) for method, scores in report.means.items()]
    return csv_table(
        [{"picture": name, "method": method, **asdict(scores)} for name, method, scores in report.rows + means]
    )


def _json(report: Report) -> str:
    content = {
        "references": report.name,
        "scale": report.scale,
        "border": report.border,
        "models": dict(report.models),
        "means": [{"method": method, **entry(scores)} for method, scores in report.means.items()],
        "pictures": [{"picture": name, "method": method, **entry(scores)} for name, method, scores in report.rows],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[Report], str]] = {".md": _markdown, ".csv": _csv, ".json": _json}
"""What makes the text of a file, by its suffix."""


def _cells(scores: Scores) -> list[str]:
    return [cell(value(scores), form) for _, value, form in _COLUMNS]
