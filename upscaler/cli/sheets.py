"""The sheets that `srup upscale` writes beside a result: before and after, and the map of uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from upscaler.cli.console import Console
from upscaler.cli.options import check_free
from upscaler.errors import UserError

if TYPE_CHECKING:
    from upscaler.cli.display import BatchDisplay
    from upscaler.images.jobs import Job
    from upscaler.model.upscaler import Size, Upscaler

# Two pictures of 8-bit RGB and the sheet with both.
_COMPARISON_BYTES = 12
_UNIT = "levels of 255"


def check_sheets(sheets: list[Path], job: Job, *, overwrite: bool) -> None:
    """Refuse sheets that could not be written or would replace something, before any work."""
    from upscaler.images.files import check_output

    if job.input.resolve() == job.output.resolve():
        raise UserError(f"the result is to replace {job.input}; --compare and --uncertainty need the picture as it was")
    taken = [job.input.resolve(), job.output.resolve()]
    for sheet in sheets:
        check_output(sheet, width=1, height=1, channels=3, depth=8)
        if sheet.resolve() in taken:
            raise UserError(f"{sheet} is the picture, its result or the other sheet; give it a name of its own")
        check_free(sheet, overwrite=overwrite)
        taken.append(sheet.resolve())


def check_comparison(upscaler: Upscaler, job: Job, sheet: Path, size: Size, first_frame: bool) -> None:
    """Refuse a comparison that would not fit in its format or in memory, before any work."""
    from upscaler.images.files import check_output, open_picture
    from upscaler.model.tiles import megabytes

    picture = open_picture(job.input, first_frame=first_frame)
    height, width = size.of(picture.height, picture.width, upscaler.network.scale)
    needed = _COMPARISON_BYTES * width * height
    if needed > upscaler.ram():
        raise UserError(f"--compare needs {megabytes(needed)}, both pictures at once; leave it out or raise --memory")
    check_output(sheet, width=2 * width, height=height, channels=3, depth=8)


def check_uncertainty(upscaler: Upscaler, job: Job, sheet: Path, size: Size, first_frame: bool) -> None:
    """Refuse a map that would not fit in its format or in memory, before any work."""
    from upscaler.images.files import check_output, open_picture
    from upscaler.images.sheets import heat_map_size
    from upscaler.model.uncertainty import estimate_spread

    estimate = estimate_spread(upscaler, open_picture(job.input, first_frame=first_frame), size)
    height, width = heat_map_size(estimate.height, estimate.width, _UNIT)
    check_output(sheet, width=width, height=height, channels=3, depth=8)


def write_comparison(job: Job, sheet: Path, first_frame: bool, model: str) -> None:
    from upscaler.images.files import Metadata, Picture, open_picture, write_picture
    from upscaler.images.resize import resize
    from upscaler.images.sheets import as_rgb, before_after

    after = as_rgb(open_picture(job.output, trusted=True).read().pixels)
    before = as_rgb(open_picture(job.input, first_frame=first_frame).read().pixels)
    height, width = after.shape[:2]
    labels = (f"{job.input.name}, bicubic", f"{job.output.name}, {model}")
    write_picture(sheet, Picture(before_after(resize(before, height, width), after, labels), Metadata()))


def write_uncertainty(
    console: Console,
    display: BatchDisplay,
    upscaler: Upscaler,
    job: Job,
    size: Size,
    sheet: Path,
    first_frame: bool,
    seed: int,
    noise: float | None,
) -> None:
    import numpy as np

    from upscaler.images.files import Metadata, Picture, open_picture, write_picture
    from upscaler.images.sheets import heat_map
    from upscaler.model.uncertainty import SAMPLES, SIGMA, estimate_spread, spread

    picture = open_picture(job.input, first_frame=first_frame)
    sigma = SIGMA if noise is None else noise / 255
    with console.progress("uncertainty", 1) as progress:
        display.restart(progress, "uncertainty", estimate_spread(upscaler, picture, size), SAMPLES)
        moved = spread(upscaler, picture, size, sigma=sigma, seed=seed)
    moved *= 255
    mean, most = float(moved.mean()), float(np.percentile(moved, 99))
    write_picture(sheet, Picture(heat_map(moved, _UNIT), Metadata()))
    console.event("uncertainty", file=sheet, sigma=sigma * 255, mean=mean, percentile99=most)
    console.result(
        f"uncertainty: {sheet}; under noise of {sigma * 255:g} levels of 255 the result moves by {mean:.2f} "
        f"on average, by {most:.2f} or less at 99% of its pixels"
    )
