"""`srup interpolate`: a network between two, or among several, and what lies on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler.cli.console import Console
from upscaler.cli.labels import short_names
from upscaler.cli.options import (
    Debug,
    Device,
    Json,
    Memory,
    Numbers,
    Overwrite,
    Precision,
    check_free,
    parse_alpha,
    parse_place,
    refuse_given,
)
from upscaler.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upscaler.model.interpolation import Parent

_SUFFIX = ".safetensors"
_MOST_STEPS = 50
_OF_SWEEPS = {"picture", "reference", "at", "image_space", "animation", "device", "precision", "memory"}


def parse_weights(text: str) -> list[float]:
    """``1,2,1`` as numbers that can be made to add up to 1."""
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    size = sum(map(abs, weights))
    if len(weights) < 2 or not 1e-6 * size < abs(sum(weights)) < math.inf:
        raise typer.BadParameter(f"{text!r} are no weights; write numbers that do not add up to 0, such as 1,2,1")
    return weights


def parse_sweep(text: str) -> list[float]:
    """``START:STOP:STEP`` as the values of alpha, STOP among them where a step leads there."""
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        count = math.floor((stop - start) / step + 1e-6) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        count = 0
    if count > _MOST_STEPS:
        raise typer.BadParameter(f"{text!r} has {count} steps; {_MOST_STEPS} are the most that a sheet can show")
    # Without the digits that adding up tenths leaves behind.
    alphas = [round(start + number * step, 9) + 0.0 for number in range(count)]
    if not alphas or not all(map(math.isfinite, alphas)) or len(set(alphas)) < count:
        raise typer.BadParameter(f"{text!r} is no sweep; write START:STOP:STEP with steps that lead to STOP: 0:1:0.2")
    return alphas


def interpolate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PSNR GAN",
            help="Models of one architecture, as NAME, FILE or hf:REPO/FILE. Of one, its PSNR-oriented pair comes "
            "before it. Without any: the bundled pair.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", parser=parse_alpha, metavar="A", help="How far from PSNR (0) to GAN (1)."),
    ] = None,
    weights: Annotated[
        Any,
        typer.Option(
            "--weights", parser=parse_weights, metavar="W,W,...", help="Of two or more models, a number for each."
        ),
    ] = None,
    sweep: Annotated[
        Any,
        typer.Option(
            "--sweep",
            parser=parse_sweep,
            metavar="START:STOP:STEP",
            help="Show a picture at each of these alphas, on a sheet and as an animation; write no weights.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The blend, a .safetensors file; with --sweep the sheet, a picture. Without it: a name that says "
            "what it is, in this folder.",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="To sweep over. Without it and --reference: the bundled one."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="The picture at full size, to measure PSNR and SSIM with. Without --picture MATLAB's bicubic makes "
            "the small one.",
        ),
    ] = None,
    at: Annotated[
        list[Any] | None,
        typer.Option(
            "--at",
            parser=parse_place,
            metavar="X,Y",
            help="What the crops show, in pixels of the picture, else of the reference; may be repeated. Without it: "
            "where there is most detail.",
        ),
    ] = None,
    image_space: Annotated[
        bool, typer.Option("--image-space", help="Also show blends of the two pictures, to compare with.")
    ] = False,
    animation: Annotated[
        Path | None,
        typer.Option("--animation", metavar="FILE.webp|.gif|.mp4", help="Of the sweep. Without it: beside the sheet."),
    ] = None,
    device: Device = "auto",
    precision: Precision = Numbers.auto,
    memory: Memory = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Blend networks, or show what blends make of a picture."""
    console = Console(json=json)
    if sum(way is not None for way in (alpha, weights, sweep)) != 1:
        raise typer.BadParameter("use one of --alpha, --weights and --sweep")
    names = _names(models or [])
    if len(names) > 2 and weights is None:
        raise typer.BadParameter(f"--alpha and --sweep are for two models; use --weights for {len(names)}")
    if weights is not None and len(weights) != len(names):
        raise typer.BadParameter(f"--weights has {len(weights)} numbers for {len(names)} models")
    if sweep is not None:
        from upscaler.cli.sweeps import Sweep, run_sweep

        plan = Sweep(sweep, picture, reference, at or [], image_space, output, animation)
        plan.check(overwrite=overwrite)
        parents = _load(console, names)
        if not 0 <= min(sweep) <= max(sweep) <= 1:
            console.warning("the sweep leaves 0..1 and extrapolates beyond the two models")
        run_sweep(console, plan, (parents[0], parents[1]), device=device, precision=precision.value, memory=memory)
        return
    refuse_given(context, _OF_SWEEPS, "{} is for --sweep")
    path = output or Path(f"{_title(names, alpha, weights or [])}{_SUFFIX}")
    _check_output(path, names, overwrite=overwrite)
    parents = _load(console, names)
    shares = [1 - alpha, alpha] if alpha is not None else [weight / sum(weights) for weight in weights]
    if min(shares) < 0:
        what = f"alpha {alpha:g} is outside 0..1" if alpha is not None else "a weight is below 0"
        console.warning(f"{what}, which extrapolates beyond the models")
    _save(console, path, parents, shares)


def _names(models: list[str]) -> list[str]:
    from upscaler.model import catalogue

    if len(models) > 1:
        return models
    name = models[0] if models else catalogue.DEFAULT
    pair = catalogue.pair_of(name)
    if pair is None:
        raise typer.BadParameter(f"{name} has no known PSNR-oriented pair; name the two models to blend")
    return [pair, name]


def _title(names: Sequence[str], alpha: float | None, weights: Sequence[float]) -> str:
    """What a blend is called unless somebody gives it a name."""
    if alpha is None:
        return "blend-" + "-".join(f"{weight:g}" for weight in weights)
    name = short_names(names)[-1]
    return (name.replace("/", "-") if Path(names[-1]).is_file() else Path(name).stem) + f"-alpha{alpha:g}"


def _check_output(path: Path, names: Sequence[str], *, overwrite: bool) -> None:
    from upscaler.model import catalogue
    from upscaler.saving import check_place

    if path.suffix.lower() != _SUFFIX:
        raise typer.BadParameter(f"{path} is no name for weights; it must end in {_SUFFIX}")
    if path.exists():
        parents = [found.path for found in map(catalogue.locate, names) if found]
        if any(path.samefile(parent) for parent in parents):
            raise UserError(f"{path} is one of the models to blend; use another name")
    check_free(path, overwrite=overwrite)
    check_place(path)


def _load(console: Console, names: Sequence[str]) -> list[Parent]:
    from upscaler.cli.loading import load_parent
    from upscaler.model.interpolation import UNRELATED, check_alike, kinship

    parents = [
        parent if short == name else replace(parent, name=short)
        for name, short in zip(names, short_names(names), strict=True)
        for parent in [load_parent(console, name)]
    ]
    check_alike(parents)
    if len({parent.weights.digest for parent in parents}) == 1:
        console.warning("the models are one and the same; so is every blend of them")
    elif (common := kinship(parents)) < UNRELATED:
        console.warning(
            f"these models have little in common (cosine {common:.2f}); between networks that were not trained from "
            "one another lies nothing of use"
        )
    return parents


def _save(console: Console, path: Path, parents: Sequence[Parent], shares: Sequence[float]) -> None:
    from upscaler.model.interpolation import blend
    from upscaler.model.weights import save_weights

    blended = blend(parents, shares)
    digest = save_weights(path, blended.architecture, blended.settings, blended.tensors, blended.metadata)
    console.event(
        "blended",
        output=path,
        sha256=digest,
        parents=[
            {"name": parent.name, "sha256": parent.weights.digest, "share": share}
            for parent, share in zip(parents, shares, strict=True)
        ],
    )
    told = ", ".join(f"{share:.6g} of {parent.name}" for parent, share in zip(parents, shares, strict=True))
    console.result(f"{path}: {told}")
