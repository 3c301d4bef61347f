"""`srup zoom`: what a network draws when its own result is cropped and enlarged again and again."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler import __version__
from upscaler.cli.console import Console
from upscaler.cli.labels import labelled
from upscaler.cli.options import Debug, Device, Json, Overwrite, parse_place
from upscaler.errors import UserError
from upscaler.images import SAMPLE
from upscaler.saving import explained

if TYPE_CHECKING:
    from upscaler.cli.album import Album
    from upscaler.cli.steps import Journey
    from upscaler.model.sources import Pixels
    from upscaler.model.upscaler import Upscaler
    from upscaler.model.zooming import Enlarge

_BICUBIC = "bicubic"


class Animation(StrEnum):
    webp = "webp"
    gif = "gif"
    mp4 = "mp4"


def zoom(
    picture: Annotated[
        Path | None,
        typer.Argument(metavar="PICTURE", help="What to zoom into. Without it: the photograph that comes with srup."),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=1, max=50, help="How often to crop and enlarge.")
    ] = 4,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            parser=parse_place,
            metavar="X,Y",
            help="The pixel to zoom into, counted from 0,0 at the top left. Without it: the most detailed spot.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="[LABEL=]NAME[@ALPHA]|FILE|hf:REPO/FILE",
            help="May be repeated, to compare; photo@0.5 is what 'srup upscale -m photo --alpha 0.5' takes. "
            "Without it: photo.",
        ),
    ] = None,
    size: Annotated[
        int, typer.Option("--size", metavar="PIXELS", min=64, max=4096, help="Edge of each step's picture.")
    ] = 512,
    animation: Annotated[
        list[Animation] | None,
        typer.Option(
            "--animation",
            metavar="webp|gif|mp4",
            help="May be repeated. Without it: webp, and mp4 where ffmpeg is installed.",
        ),
    ] = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="Also draw what the networks make of the first crop inside.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder of the results. Without it: beside the picture as NAME-zoom, for none given ./sample-zoom.",
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Zoom into a picture again and again: crop, upscale, crop."""
    console = Console(json=json)
    _, named = labelled([], model or ["photo"], _BICUBIC)
    folders = _folders([_BICUBIC, *named])
    source = picture or SAMPLE
    output = output or (source.with_name(f"{source.stem}-zoom") if picture else Path("sample-zoom"))
    _check_output(output, source, overwrite=overwrite)

    from upscaler.images.animations import check_animation, films

    suffixes = list(dict.fromkeys(animation or [])) or [Animation.webp, *([Animation.mp4] if films() else [])]
    for suffix in suffixes:
        check_animation(output / f"zoom.{suffix}")

    from upscaler.cli.album import Album
    from upscaler.cli.steps import Journey, table, write_tables
    from upscaler.images.files import open_picture
    from upscaler.images.sheets import as_rgb
    from upscaler.model.activations import feature_maps
    from upscaler.model.zooming import Point, check_zoomable, common_factor, deep, detailed_pixel, plan_course
    from upscaler.saving import whole_folder

    whole = open_picture(source, first_frame=True).read()
    height, width = whole.pixels.shape[:2]
    check_zoomable(height, width, Point.of_pixel(*at) if at else None)
    models = _load(console, named, device)
    factor = common_factor([loaded.upscaler.network.scale for loaded in models.values()])
    at = at or detailed_pixel(as_rgb(whole.pixels), factor, size)
    course = plan_course(height, width, Point.of_pixel(*at), factor=factor, steps=steps, edge=size)
    journey = Journey(source.name, at, factor, course.edge, named)
    crop = course.cuts[1].edge
    console.notice(f"{journey.where}: {crop} x {crop} pixels to {course.edge} x {course.edge}, {steps} times")
    first, icc = deep(course.cuts[0].of(whole.pixels)), whole.metadata.icc
    del whole
    earlier = _results_in(output)
    with whole_folder(output) as folder:
        album = Album(folder, folders, course, icc)
        if activations:
            seen = course.cuts[1].of(first)
            for label, loaded in models.items():
                maps = feature_maps(loaded.upscaler.network, seen, loaded.upscaler.device)
                album.write_activations(label, seen, maps)
        _take_steps(console, album, first, models, journey)
        album.write_sheet()
        for suffix in suffixes:
            album.write_animation(console, suffix, list(named))
        write_tables(folder, journey)
        written = {file.relative_to(folder) for file in folder.rglob("*")}
    _remove(output, earlier, written)
    console.event("finished", output=output, at=journey.at, factor=factor, edge=course.edge, steps=steps)
    console.result(table(journey))
    console.result(f"all pictures: {output}; side by side: {output / 'sheet.png'}")
    console.result(f"moving: {', '.join(str(output / f'zoom.{suffix}') for suffix in suffixes)}")


def _folders(labels: list[str]) -> dict[str, str]:
    """The name of each method's folder."""
    named = {label: _folder(label) for label in labels}
    if len({name.lower() for name in named.values()}) < len(named):
        raise typer.BadParameter("two of these models would have one folder; give them labels, as in -m mine=FILE")
    return named


def _folder(label: str) -> str:
    return re.sub(r"[^\w.@=,+-]+", "-", label).strip(".-") or "model"


def _check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    from upscaler.saving import check_place

    check_place(output / "sheet.png")
    if source.resolve().is_relative_to(output.resolve()):
        raise UserError(f"{source} lies in {output}, where the results would go; choose another folder with -o")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise UserError(f"{output} is not empty; use --overwrite or another folder with -o")
        if not (output / "steps.json").is_file():
            raise UserError(f"{output} holds files but no zoom; use another -o, such as a folder inside it")


def _results_in(output: Path) -> set[Path]:
    """What a zoom has left in its folder, by its own table, but what every zoom writes again; from the folder."""
    from upscaler.cli.album import ACTIVATIONS, step_file

    try:
        rows = json_format.loads((output / "steps.json").read_text())["rows"]
        made = [(_folder(str(row["method"])), int(row["step"])) for row in rows]
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return set()
    files = {Path(folder, name) for folder, step in made if step for name in (step_file(step), ACTIVATIONS)}
    return files | {Path(f"zoom.{suffix}") for suffix in Animation}


def _remove(output: Path, files: Set[Path], written: Set[Path]) -> None:
    """Remove files of a zoom before this one that this one has not written, and folders that become empty by it."""
    # Where upper and lower case are one, so are these.
    kept = {str(each).lower() for each in written}
    with explained(output):
        for file in (output / each for each in files if str(each).lower() not in kept):
            if file.is_file() and not file.parent.is_symlink():
                file.unlink()
                if file.parent != output and not any(file.parent.iterdir()):
                    file.parent.rmdir()


@dataclass(frozen=True)
class _Model:
    upscaler: Upscaler
    provenance: dict[str, Any]
    """For the pictures that it makes."""


def _load(console: Console, named: Mapping[str, str], device: str) -> dict[str, _Model]:
    from upscaler.cli.display import tell
    from upscaler.cli.loading import load_model, parted_alpha
    from upscaler.model.events import Event, Worked
    from upscaler.model.upscaler import Upscaler
    from upscaler.model.weights import build_network

    def notify(label: str, event: Event) -> None:
        if not isinstance(event, Worked):
            tell(console, label, event)

    models = {}
    for label, name in named.items():
        weights = load_model(console, *parted_alpha(name))
        upscaler = Upscaler(build_network(weights), device=device, notify=partial(notify, label))
        provenance = {"software": f"srup {__version__}", "model": name, "model_sha256": weights.digest}
        models[label] = _Model(upscaler, provenance)
    return models


def _take_steps(console: Console, album: Album, first: Pixels, models: Mapping[str, _Model], journey: Journey) -> None:
    from upscaler.cli.steps import FIRST, entry
    from upscaler.images.resize import resize
    from upscaler.model.upscaler import Size
    from upscaler.model.zooming import first_scores, zoom

    edge, steps = album.course.edge, len(album.course.cuts) - 1
    methods: dict[str, Enlarge] = {_BICUBIC: lambda crop: resize(crop, edge, edge)}
    for label, model in models.items():
        methods[label] = partial(model.upscaler.upscale, size=Size(width=edge, height=edge))
    journey.rows.append((FIRST, 0, first_scores(first)))
    album.add_first(first)
    with console.progress("zooming", len(methods) * steps, unit="steps") as progress:
        for method, enlarge in methods.items():
            provenance = models[method].provenance if method in models else {}
            for step in zoom(first, album.course, enlarge):
                place = {"input": journey.picture, "zoom_at": journey.place, "zoom_step": step.number}
                album.add(method, step.number, step.picture, provenance | place)
                journey.rows.append((method, step.number, step.scores))
                console.event("step", **entry(method, step.number, step.scores))
                progress.update(len(journey.rows) - 1, f"{method}, step {step.number}")
