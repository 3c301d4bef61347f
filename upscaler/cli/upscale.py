"""`srup upscale`: pictures, folders or globs through a network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from upscaler import __version__
from upscaler.cli.console import Console, duration
from upscaler.cli.labels import short_names
from upscaler.cli.options import (
    Alpha,
    Debug,
    Device,
    Json,
    Memory,
    Numbers,
    Overwrite,
    Precision,
    Seed,
    parse_scale,
    parse_size,
    parse_tile,
    refuse_given,
)
from upscaler.cli.sheets import check_comparison, check_sheets, check_uncertainty, write_comparison, write_uncertainty
from upscaler.errors import UserError

if TYPE_CHECKING:
    from upscaler.images.jobs import Job
    from upscaler.model.batch import Settings
    from upscaler.model.upscaler import Upscaler


class AlphaUpsampler(StrEnum):
    network = "network"
    bicubic = "bicubic"


def upscale(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Pictures, folders or glob patterns.")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The result of one picture, else a folder. Without it: beside one picture as NAME-upscaled, "
            "for several the folder 'upscaled'.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--model", metavar="NAME|FILE|hf:REPO/FILE", help="See 'srup models list'. Without it: photo."
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("-s", "--scale", parser=parse_scale, metavar="FLOAT", help="Final scale, any number above 0."),
    ] = None,
    size: Annotated[
        Any,
        typer.Option(
            "--size",
            parser=parse_size,
            metavar="WxH|Wx|xH",
            help="Final size in pixels; WxH stretches to other proportions.",
        ),
    ] = None,
    alpha: Alpha = None,
    device: Device = "auto",
    precision: Precision = Numbers.auto,
    tile: Annotated[
        Any,
        typer.Option("--tile", parser=parse_tile, metavar="auto|whole|PIXELS", help="Edge of the tiles."),
    ] = "auto",
    memory: Memory = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show tiles, memory, time and bytes; do nothing.")] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over all turns: 8 times the work. photo has it built in.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="png, jpeg, webp, tiff, avif, bmp or gif; default as the output."
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option("--quality", metavar="1..100", min=1, max=100, help="Of JPEG, WebP (100: lossless) and AVIF."),
    ] = None,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Also the folders inside folders.")] = False,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave out what the same model and settings made of the same input. Not for BMP, which does not say.",
        ),
    ] = False,
    keep_going: Annotated[
        bool | None,
        typer.Option(
            "--keep-going/--stop-on-error", help="Pass over pictures that fail. The default for several pictures."
        ),
    ] = None,
    colour_fix: Annotated[
        bool, typer.Option("--colour-fix", help="Give the result the low frequencies of the picture.")
    ] = False,
    alpha_upsampler: Annotated[
        AlphaUpsampler, typer.Option("--alpha-upsampler", metavar="network|bicubic", help="What enlarges transparency.")
    ] = AlphaUpsampler.network,
    first_frame: Annotated[
        bool, typer.Option("--first-frame", help="Take the first frame or page of files with several.")
    ] = False,
    uncertainty: Annotated[
        Path | None,
        typer.Option("--uncertainty", metavar="FILE", help="Write a map of the result's spread under input noise."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise", metavar="SIGMA", help="Of --uncertainty, in levels of 255; 2 by default.", show_default=False
        ),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="Write a picture of before beside after.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are shown
) -> None:
    """Upscale pictures."""
    console = Console(json=json)
    if models and len(models) > 1:
        raise typer.BadParameter("use one --model; 'srup zoom' and 'srup evaluate' compare several")
    if scale is not None and size is not None:
        raise typer.BadParameter("use --scale or --size, not both")
    if overwrite and skip_existing:
        raise typer.BadParameter("use --overwrite or --skip-existing, not both")

    from upscaler.images.files import SUFFIXES, format_named, takes_quality
    from upscaler.images.jobs import plan_jobs

    if format is not None:
        known = format_named(format)
        if known is None:
            raise typer.BadParameter(f"{format!r} is no format; use one of {', '.join(sorted(set(SUFFIXES.values())))}")
        format = known
    jobs = plan_jobs(inputs, output, SUFFIXES, format=format, recursive=recursive)
    formats = {format or SUFFIXES[job.output.suffix.lower()] for job in jobs}
    if quality is not None and not any(map(takes_quality, formats)):
        raise typer.BadParameter(f"--quality is for JPEG, WebP and AVIF, and not for {', '.join(sorted(formats))}")
    if skip_existing and formats == {"bmp"}:
        raise typer.BadParameter("a BMP cannot say how it was made, as --skip-existing needs it; use --format png")
    if len(jobs) > 1 and (uncertainty or compare):
        raise typer.BadParameter("--uncertainty and --compare are for one picture")
    if not uncertainty:
        refuse_given(context, {"noise", "seed"}, "{} belongs to --uncertainty")
    if noise is not None and not 0 < noise <= 255:
        raise typer.BadParameter("--noise is above 0 and at most 255 levels")
    existing: Literal["refuse", "overwrite", "skip"] = (
        "skip" if skip_existing else "overwrite" if overwrite else "refuse"
    )
    sheets = [sheet for sheet in (uncertainty, compare) if sheet]
    if existing == "skip" and (there := [sheet for sheet in sheets if sheet.exists()]):
        raise UserError(f"{there[0]} exists; --skip-existing is for results alone: remove it or use another name")
    if sheets:
        check_sheets(sheets, jobs[0], overwrite=overwrite or plan)

    from upscaler.cli.display import BatchDisplay
    from upscaler.cli.loading import load_model
    from upscaler.model import batch, ranks
    from upscaler.model.catalogue import DEFAULT
    from upscaler.model.equivariance import is_equivariant
    from upscaler.model.upscaler import Size, Upscaler
    from upscaler.model.weights import build_network

    several = len(jobs) > 1
    meeting = ranks.Meeting()
    if not plan:
        batch.check_existing(jobs, existing)
    meeting.wait("nothing is lost")
    jobs = ranks.share(jobs)

    model = models[0] if models else DEFAULT
    weights = load_model(console, model, alpha)
    width, height = size or (None, None)
    network = build_network(weights)
    if tta and is_equivariant(network):
        console.warning(f"{model} enlarges turned pictures alike; --tta would change nothing and is left out")
        tta = False
    wanted = Size(scale, width, height)
    display = BatchDisplay(console, len(jobs))
    upscaler = Upscaler(
        network,
        device=device,
        precision=precision.value,
        memory=memory,
        tile=tile,
        tta=tta,
        colour_fix=colour_fix,
        alpha=alpha_upsampler.value,
        notify=display.engine,
    )
    if compare and jobs:
        check_comparison(upscaler, jobs[0], compare, wanted, first_frame)
    if uncertainty and jobs:
        check_uncertainty(upscaler, jobs[0], uncertainty, wanted, first_frame)
    provenance = {
        "software": f"srup {__version__}",
        "model": model,
        "model_sha256": weights.digest,
        "model_alpha": alpha,
        "scale": scale or (None if size else upscaler.network.scale),
        "size": f"{width or ''}x{height or ''}" if size else None,
        "tta": tta,
        "colour_fix": colour_fix,
        "alpha_upsampler": alpha_upsampler.value,
        "format": format,
        "quality": quality,
    }
    settings = batch.Settings(
        wanted,
        provenance,
        existing=existing,
        keep_going=several if keep_going is None else keep_going,
        format=format,
        quality=quality,
        first_frame=first_frame,
    )
    if plan:
        if not _show_plans(console, upscaler, jobs, settings, uncertainty=bool(uncertainty)):
            raise typer.Exit(1)
        return
    with console.progress("upscaling", len(jobs)) as progress:
        display.progress = progress
        complete = batch.run(upscaler, jobs, settings, display.batch)
    display.summary()
    if complete and compare and jobs:
        blend = "" if alpha is None else f" at alpha {alpha:g}"
        write_comparison(jobs[0], compare, first_frame, short_names([model])[0] + blend)
        console.result(f"before and after: {compare}")
    if complete and uncertainty and jobs:
        write_uncertainty(console, display, upscaler, jobs[0], wanted, uncertainty, first_frame, seed, noise)
    meeting.wait("done")
    if not complete:
        raise typer.Exit(1)


def _show_plans(
    console: Console, upscaler: Upscaler, jobs: list[Job], settings: Settings, *, uncertainty: bool
) -> bool:
    """Show what each job will take; False if one of them cannot be done."""
    from upscaler.model.batch import estimated, look
    from upscaler.model.tiles import megabytes
    from upscaler.model.uncertainty import SAMPLES, estimate_spread

    complete = True
    for job in jobs:
        try:
            wanted = look(job, upscaler, settings)
            if wanted is None:
                console.event("skipped", input=job.input, output=job.output)
                console.result(f"{job.input} -> {job.output}\n  is there already")
                continue
            if job.output.exists() and settings.existing == "refuse":
                console.warning(f"{job.output} exists; it needs --overwrite or --skip-existing", input=job.input)
            picture = wanted.picture
            estimate = estimated(upscaler, job, picture, settings.size)
            noisy = estimate_spread(upscaler, picture, settings.size) if uncertainty else None
        except UserError as error:
            console.error(str(error), input=job.input)
            complete = False
            continue
        for message in wanted.warnings:
            console.warning(message, input=job.input)
        seconds, memory = upscaler.seconds(estimate), upscaler.in_all(estimate)
        if noisy:
            seconds, memory = seconds + SAMPLES * upscaler.seconds(noisy), max(memory, upscaler.in_all(noisy))
        console.event(
            "plan",
            input=job.input,
            output=job.output,
            width=estimate.width,
            height=estimate.height,
            passes=[{"tiles": p.tiles, "tile": [p.tile_width, p.tile_height], "halo": p.halo} for p in estimate.passes],
            memory=memory,
            seconds=seconds,
            output_bytes=estimate.output_bytes,
        )
        console.result(f"{job.input} -> {job.output}")
        console.result(f"  size     {picture.width} x {picture.height} -> {estimate.width} x {estimate.height}")
        for number, each in enumerate(estimate.passes, start=1):
            cut = (
                f"whole, enlarged in bands of {each.head_rows} rows"
                if each.whole
                else f"{each.tiles} tiles of {each.tile_width} x {each.tile_height} with a halo of {each.halo}"
            )
            console.result(f"  pass {number}   {each.width} x {each.height}, {cut}")
        console.result(f"  memory   {megabytes(memory)} on {upscaler.device}")
        console.result(f"  time     about {duration(seconds)}")
        console.result(f"  output   {megabytes(estimate.output_bytes)} before compression")
    return complete
