"""`srup evaluate`: models, and results that anybody made, measured against reference pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler.cli.console import Console, Progress
from upscaler.cli.labels import labelled
from upscaler.cli.options import (
    Alpha,
    Debug,
    Device,
    Json,
    Memory,
    Numbers,
    Overwrite,
    Precision,
    check_free,
    refuse_given,
)
from upscaler.errors import UserError

if TYPE_CHECKING:
    from upscaler.images.partners import Case
    from upscaler.model.evaluation import Measured
    from upscaler.model.events import Event
    from upscaler.model.upscaler import Upscaler

_SCALE = 4
_CROP, _ENLARGED = 128, 2
# Of a sheet, with the label above each crop.
_ROW_PIXELS = 300


def evaluate(
    context: typer.Context,
    references: Annotated[
        Path, typer.Option("--references", metavar="HR_DIR", help="The pictures to compare with, at full size.")
    ],
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="DIR", help="Folders of results, as with --pictures.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="[LABEL=]NAME|FILE|hf:REPO/FILE",
            help="A model to measure; may be repeated.",
        ),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures",
            metavar="[LABEL=]DIR",
            help="A folder of results that anybody made, named like the references; may be repeated.",
        ),
    ] = None,
    lr: Annotated[
        Path | None,
        typer.Option(
            "--lr",
            metavar="LR_DIR",
            help="The low-resolution pictures, named like the references. Without it MATLAB's bicubic makes them.",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option("-s", "--scale", metavar="N", min=1, help="From LR to HR. Without it that of the models, else 4."),
    ] = None,
    border: Annotated[
        int | None,
        typer.Option("--border", metavar="PIXELS", min=0, help="At each edge, not to count. Without it the scale."),
    ] = None,
    alpha: Alpha = None,
    device: Device = "auto",
    precision: Precision = Numbers.auto,
    memory: Memory = None,
    each: Annotated[bool, typer.Option("--each", help="Show every picture, not only the means.")] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.md|.csv|.json",
            help="Write the scores of every picture and the means; may be repeated.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Write a picture of the most detailed spot of each, by all ways."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Measure models, or given pictures, against reference pictures."""
    console = Console(json=json)
    if not model:
        refuse_given(context, {"alpha", "device", "precision", "memory"}, "{} is for --model")
    results, named = labelled([*(folders or ()), *(pictures or ())], model or [], "bicubic")
    if alpha is not None:
        named = {f"{label}, alpha {alpha:g}": name for label, name in named.items()}

    from upscaler.cli.scores import Report, each_table, entry, mean_table, write
    from upscaler.images.partners import Failed, find_cases
    from upscaler.model.evaluation import Started
    from upscaler.model.evaluation import evaluate as measured

    for path in output or ():
        _check_output(path)
        check_free(path, overwrite=overwrite)
    display = _Display(console)
    models = _load(console, display, named, alpha, device, precision, memory)
    scale = scale or _common_scale(models)
    border = scale if border is None else border

    cases = find_cases(references, scale=scale, border=border, lr=lr, results=results)
    if sheet:
        _check_sheet(sheet, cases.cases, [references, *([lr] if lr else []), *results.values()])
        check_free(sheet, overwrite=overwrite)
    if cases.unused:
        console.warning(
            f"pictures that belong to no reference and are left out: {len(cases.unused)}, as {cases.unused[0]}"
        )
    for failure in cases.failures:
        console.error(failure.message, input=failure.reference)
    failed = len(cases.failures)
    report = Report(references.resolve().name, scale, border, named)
    rows: list[list[tuple[str, Any]]] = []
    with console.progress("evaluating", len(cases.cases), unit="pictures") as progress:
        display.progress = progress
        for event in measured(cases.cases, models, scale=scale, border=border):
            if isinstance(event, Started):
                display.begin(event.case.reference, event.operations)
                continue
            display.end()
            if isinstance(event, Failed):
                failed += 1
                console.error(event.message, input=event.reference)
                continue
            name = event.case.reference.name
            report.pictures[name] = event.scores
            for method, scores in event.scores.items():
                console.event("measured", picture=name, method=method, **entry(scores))
            if sheet:
                rows.append(_crops(event, scale))

    for method, scores in report.means.items():
        console.event("mean", method=method, pictures=len(report.pictures), **entry(scores))
    if report.pictures:
        if each:
            console.result(each_table(report))
        console.result(mean_table(report))
        for name, methods in report.infinite.items():
            console.notice(f"the PSNR-Y of {name} is infinite, and so is the mean of {methods}")
        for path in output or ():
            write(path, report)
            console.result(f"scores: {path}")
        if sheet:
            _write_sheet(sheet, rows)
            console.result(f"crops: {sheet}")
    if failed:
        console.notice(f"{len(report.pictures)} measured, {failed} passed over")
        raise typer.Exit(1)


class _Display:
    """Turns what the engines tell into progress and warnings."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self._picture = ""
        self._ended = 0
        self._operations = self._wanted = 0.0

    def begin(self, reference: Path, operations: float) -> None:
        self._picture, self._operations, self._wanted = reference.name, 0.0, operations

    def end(self) -> None:
        self._ended, self._operations = self._ended + 1, 0.0
        self._show()

    def engine(self, event: Event) -> None:
        from upscaler.cli.display import tell
        from upscaler.model.events import Worked

        if isinstance(event, Worked):
            self._operations += event.operations
            self._show()
        else:
            tell(self.console, self._picture, event)

    def _show(self) -> None:
        if self.progress:
            part = min(self._operations / self._wanted, 1.0) if self._wanted else 0.0
            self.progress.update(self._ended + part, self._picture or None)


def _load(
    console: Console,
    display: _Display,
    named: Mapping[str, str],
    alpha: float | None,
    device: str,
    precision: Numbers,
    memory: int | None,
) -> dict[str, Upscaler]:
    from upscaler.cli.loading import load_model
    from upscaler.model.upscaler import Upscaler
    from upscaler.model.weights import build_network

    return {
        label: Upscaler(
            build_network(load_model(console, name, alpha)),
            device=device,
            precision=precision.value,
            memory=memory,
            notify=display.engine,
        )
        for label, name in named.items()
    }


def _common_scale(models: dict[str, Upscaler]) -> int:
    scales = sorted({upscaler.network.scale for upscaler in models.values()})
    if len(scales) > 1:
        raise UserError(f"the models enlarge by {' and '.join(map(str, scales))}; choose one with --scale")
    return scales[0] if scales else _SCALE


def _check_output(path: Path) -> None:
    """Refuse a file of scores that could not be written, before any work."""
    from upscaler.cli.scores import FORMS
    from upscaler.saving import check_place

    if path.suffix.lower() not in FORMS:
        raise typer.BadParameter(f"{path} is no file of scores; its name must end in {', '.join(FORMS)}")
    check_place(path)


def _check_sheet(path: Path, cases: list[Case], folders: list[Path]) -> None:
    from upscaler.images.files import check_output

    check_output(path, width=1, height=max(len(cases), 1) * _ROW_PIXELS, channels=3, depth=8)
    if path.resolve().parent in [folder.resolve() for folder in folders]:
        raise UserError(f"{path} would lie among the pictures to measure; write it to another folder")


def _crops(event: Measured, scale: int) -> list[tuple[str, Any]]:
    """The row of a sheet for one picture: its most detailed spot, in pixels large enough to see."""
    from upscaler.images.sheets import as_rgb, most_detailed

    edge = max(_CROP // scale, 1) * scale
    top, left = (start // scale * scale for start in most_detailed(as_rgb(event.reference), edge, edge))

    def crop(pixels: Any, factor: int) -> Any:
        y, x, length, repeat = top // factor, left // factor, edge // factor, _ENLARGED * factor
        return as_rgb(pixels[y : y + length, x : x + length]).repeat(repeat, 0).repeat(repeat, 1)

    made = [(f"{name}  {event.scores[name].psnr_y:.2f} dB", crop(result, 1)) for name, result in event.results.items()]
    return [(event.case.reference.name, crop(event.lr, scale)), *made, ("reference", crop(event.reference, 1))]


def _write_sheet(path: Path, rows: list[list[tuple[str, Any]]]) -> None:
    from upscaler.images.files import Metadata, Picture, write_picture
    from upscaler.images.sheets import crops_sheet

    write_picture(path, Picture(crops_sheet(rows), Metadata()))
