"""`srup prepare-data`: pictures into a training set."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler.cli.console import Console, Progress
from upscaler.cli.options import Debug, Json, Seed, check_free, parse_bytes, refuse_given
from upscaler.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from upscaler.training.preparation import Event, Outcome
    from upscaler.training.sources import LeftOut, Source

_SCALE = 4
_OF_PREVIEWS = {"preview", "output", "scale", "first_frame", "overwrite", "seed", "json", "debug"}


def prepare_data(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SRC", help="Pictures, folders with all folders inside them, or glob patterns."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="The training set. Without it: where 'srup train' looks for it."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of the set in the user's data folder, without -o.")
    ] = "train",
    crop: Annotated[
        int | None,
        typer.Option("--crop", metavar="SIZE", min=32, help="Cut into squares of so many pixels. Without it: whole."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="PIXELS", min=1, help="From one crop to the next. Without it: the crop's size."),
    ] = None,
    least: Annotated[
        int | None,
        typer.Option(
            "--least",
            metavar="PIXELS",
            min=1,
            help="Add a last crop at the edge if so many pixels remain. Without it: a quarter of the crop's size.",
        ),
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(
            "--sizes", metavar="SHARES", help="Take each picture at these shares of its size, such as 1,0.7,0.5."
        ),
    ] = "1",
    flat: Annotated[
        float,
        typer.Option(
            "--flat",
            metavar="LEVELS",
            min=0,
            help="Drop what has a gradient below this, RMS in levels of 255; 0: none.",
        ),
    ] = 2.0,
    blurred: Annotated[
        float,
        typer.Option(
            "--blurred", metavar="VARIANCE", min=0, help="Drop what has a Laplacian of less variance; 0: none."
        ),
    ] = 8.0,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep pictures that show the same as a larger one.")
    ] = False,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="DIR", help="Drop what shares something with these test pictures."),
    ] = None,
    validation: Annotated[
        str,
        typer.Option("--validation", metavar="SHARE|COUNT", help="Source pictures to set apart, such as 5% or 20."),
    ] = "0",
    lr: Annotated[
        str | None, typer.Option("--lr", metavar="DIR", help="LR pictures, by the names of their HR pictures.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            metavar="N",
            min=1,
            help="HR pixels per LR pixel, with --lr, --degradation or --preview. Without it: 4.",
        ),
    ] = None,
    degradation: Annotated[
        str | None,
        typer.Option(
            "--degradation",
            metavar="bicubic|nearest|blur|PRESET",
            help="Make LR pictures now and store them. Without it and --lr they are made while training.",
        ),
    ] = None,
    first_frame: Annotated[
        bool, typer.Option("--first-frame", help="Take the first frame or page of files with several.")
    ] = False,
    shard_size: Annotated[
        Any, typer.Option("--shard-size", parser=parse_bytes, metavar="BYTES", help="Of a file of the set.")
    ] = "512MB",
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview", metavar="PICTURE", help="Only write a sheet of a picture through each degradation, to -o."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another set, or a sheet.")] = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Make a training set of pictures."""
    console = Console(json=json)
    if preview is not None:
        if sources:
            raise typer.BadParameter("--preview takes no SRC")
        refuse_given(context, set(context.params) - _OF_PREVIEWS, "--preview takes no {}")
        sheet = output or Path(f"{preview.stem}-degradations.png")
        _write_preview(console, preview, sheet, scale or _SCALE, seed, overwrite)
        return
    if not sources:
        raise typer.BadParameter("name the pictures, SRC")
    if lr is not None and degradation is not None:
        raise typer.BadParameter("use --lr or --degradation, not both")
    if scale is not None and lr is None and degradation is None:
        raise typer.BadParameter("--scale needs --lr or --degradation")
    stored = (scale or _SCALE) if lr is not None or degradation is not None else None
    if name in ("", "..") or Path(name).name != name:
        raise typer.BadParameter(f"--name takes a plain name, not {name!r}; use -o for a place of your own")
    if output is not None:
        refuse_given(context, {"name"}, "{} is for a set in the user's data folder; with -o it would do nothing")
    if crop is None and (step is not None or least is not None):
        raise typer.BadParameter("--step and --least need --crop")
    if stored is not None and ((crop or 0) % stored or (step or 0) % stored):
        raise typer.BadParameter(f"with LR pictures --crop and --step must be multiples of the scale, {stored}")

    from upscaler.training.building import Storage
    from upscaler.training.inspection import Rules
    from upscaler.training.preparation import SAMPLES, Settings, prepare
    from upscaler.training.selection import Crops, parse_sizes, parse_validation
    from upscaler.training.shards import default_data_folder
    from upscaler.training.sources import find_sources, left_out, with_partners

    try:
        share, shares = parse_validation(validation), parse_sizes(sizes)
        if degradation is not None:
            from upscaler.training.degradation import find_preset

            find_preset(degradation)
    except UserError as error:
        raise typer.BadParameter(str(error)) from error
    if lr is not None and shares != (1.0,):
        raise typer.BadParameter("--sizes does not go with --lr, whose pictures have one size")
    folder = output or default_data_folder(name)
    settings = Settings(
        Rules(Crops(crop, step, least), flat, blurred, stored or 1, first_frame, shares),
        Storage(stored, degradation, seed, shard_size),
        duplicates=not keep_duplicates,
        validation=share,
    )
    found = find_sources(sources, exclude=folder)
    if lr is not None:
        given = find_sources([lr])
        found = with_partners(_outside(found, lr), given, stored or _SCALE)
        used = {source.lr for source in found}
        if orphans := [source.name for source in given if source.path not in used]:
            console.warning(
                f"LR pictures that belong to no HR picture and are left out: {len(orphans)}, as {orphans[0]}"
            )
    _show_left_out(console, left_out([*sources, *(benchmark or ()), *([lr] if lr else ())], exclude=folder))
    display = _Display(console, crop)
    with display:
        outcome = prepare(
            found,
            folder,
            settings,
            display.show,
            benchmarks=find_sources(benchmark) if benchmark else [],
            overwrite=overwrite,
        )
    _summarise(console, outcome, folder, folder / SAMPLES)
    if display.failed:
        raise typer.Exit(1)


def _outside(sources: list[Source], folder: str) -> list[Source]:
    """The sources without the LR pictures, which may lie below them."""
    return [source for source in sources if not source.path.resolve().is_relative_to(Path(folder).resolve())]


class _Display:
    """Shows the events of a preparation, each step with progress of its own; a context manager.

    Pictures smaller than a crop, which may be all, are counted in one line at the end.
    """

    def __init__(self, console: Console, crop: int | None) -> None:
        self.console = console
        self.failed = 0
        self._crop = crop
        self._small = 0
        self._step = ""
        self._progress: Progress | None = None
        self._open = ExitStack()

    def __enter__(self) -> None:
        self._open.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if self._small:
            pictures = "1 picture" if self._small == 1 else f"{self._small} pictures"
            self.console.notice(
                f"dropped as smaller than a crop of {self._crop}: {pictures}; a smaller --crop keeps more"
            )

    def show(self, event: Event) -> None:
        from upscaler.training.preparation import Advanced

        if isinstance(event, Advanced):
            if event.step != self._step:
                self._open.close()
                self._step = event.step
                bytes_ = event.step in ("writing", "checking")
                self._progress = self._open.enter_context(
                    self.console.progress(event.step, event.total, unit="pictures", bytes_=bytes_)
                )
            if self._progress:
                self._progress.update(event.done)
            return
        self._open.close()
        self._step = ""
        self.console.event("dropped", source=event.name, reason=event.reason, because=event.because)
        if event.failed:
            self.failed += 1
            self.console.error(f"{event.name}: {event.because}", source=event.name)
        elif event.reason == "small" and self._crop:
            self._small += 1
        else:
            self.console.notice(f"dropped {event.name}: {event.because}")


def _summarise(console: Console, outcome: Outcome, folder: Path, samples: Path) -> None:
    console.event(
        "summary", folder=folder, samples=samples, unchanged=outcome.unchanged, **outcome.manifest["statistics"]
    )
    statistics, crop = outcome.manifest["statistics"], outcome.manifest["settings"]["rules"]["crops"]["size"]
    console.result(_table(statistics, crop))
    if outcome.unchanged:
        console.result(f"{folder} holds this very set already; nothing was done")
    else:
        console.result(f"the training set is {folder}; look at {samples}")


def _show_left_out(console: Console, rest: LeftOut) -> None:
    if words := str(rest):
        console.event("left_out", linked_folders=rest.linked, other_files=rest.others)
        console.notice(f"left out: {words}")


def _table(statistics: dict[str, Any], crop: int | None) -> Table:
    from rich.table import Table

    table = Table("", "files", "pictures", "megapixels", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for split in ("train", "validation"):
        amounts = statistics[split]
        table.add_row(split, str(amounts["sources"]), str(amounts["pictures"]), f"{amounts['megapixels']:.1f}")
    for reason, files in statistics["dropped_sources"].items():
        label = f"smaller than a crop of {crop}" if reason == "small" and crop else reason
        table.add_row(f"dropped: {label}", str(files), "", "")
    for reason, crops in statistics["dropped_crops"].items():
        table.add_row(f"dropped crops: {reason}", "", str(crops), "")
    return table


def _write_preview(console: Console, picture: Path, sheet: Path, scale: int, seed: int, overwrite: bool) -> None:
    from upscaler.images.files import Metadata, Picture, check_output, write_picture
    from upscaler.training.degradation import preset_sheet
    from upscaler.training.inspection import read_rgb

    if sheet.exists() and picture.exists() and sheet.samefile(picture):
        raise UserError(f"{sheet} is the picture itself; use another -o")
    check_free(sheet, overwrite=overwrite)
    check_output(sheet, width=1, height=1, channels=3, depth=8)
    pixels = read_rgb(picture, first_frame=True)
    if min(pixels.shape[:2]) < scale:
        raise UserError(f"{picture} is smaller than one LR pixel, {scale} x {scale}; take a larger picture")
    shown = preset_sheet(pixels, scale, seed)
    write_picture(sheet, Picture(shown, Metadata()))
    console.event("preview", file=sheet)
    console.result(f"the degradations: {sheet}")
