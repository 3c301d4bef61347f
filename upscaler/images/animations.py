"""Animations: pictures of one size one after the other, over and over, as GIF or animated WebP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.formats import FORMATS
from upscaler.saving import check_place, whole_file

_FORMATS = {".gif": "gif", ".webp": "webp"}
_COLOURS = 256
_ASKED = 40_000
"""Pixels that choose the colours of a GIF's frame; choosing takes long."""
_HELD = 2000
_MOVING, _SHORTEST, _LONGEST = 4500, 120, 700
"""Milliseconds: of all frames but the last one, and of each."""


def pace(count: int) -> list[int]:
    """Milliseconds for each of so many frames: some seconds for them all, and two for the last one."""
    others = max(count - 1, 0)
    return [min(max(_MOVING // max(others, 1), _SHORTEST), _LONGEST)] * others + [_HELD]


def check_animation(path: Path) -> None:
    """Refuse a file that could not be written, before the work that makes its frames.

    Raises:
        UserError: its name does not end in ``.gif`` or ``.webp``, or it would lie in a place that cannot be written to.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"cannot write {path}: the name of an animation must end in .gif or .webp")
    check_place(path)


def write_animation(path: Path, frames: Sequence[NDArray[np.uint8]], milliseconds: Sequence[int]) -> None:
    """Write an animation that begins again for ever, as what its name ends in. It appears complete or not at all.

    Args:
        path: ends in ``.gif``, which has 256 colours a frame, dithered, and times in hundredths of a second; or
            in ``.webp``. The folder is made where it is missing.
        frames: (H, W, 3) each, all of one size.
        milliseconds: how long each of them stays.

    Raises:
        ValueError: no frames, frames of different sizes, or not as many times.
        UserError: what ``check_animation`` refuses, frames too large for the format, or a file that cannot be written.
    """
    check_animation(path)
    if not frames or len(frames) != len(milliseconds):
        raise ValueError(f"an animation of {len(frames)} frames and {len(milliseconds)} times")
    format = _FORMATS[path.suffix.lower()]
    images = _images(path, frames, format)
    first = next(images)
    with whole_file(path) as file:
        if format == "gif":
            first.save(file, format, save_all=True, append_images=images, duration=list(milliseconds), loop=0)
        else:
            first.save(
                file, format, save_all=True, append_images=images, duration=list(milliseconds), loop=0,
                quality=90, method=2,
            )  # fmt: skip


def _images(path: Path, frames: Sequence[NDArray[np.uint8]], format: str) -> Iterator[Image.Image]:
    height, width = frames[0].shape[:2]
    side = FORMATS[format].side
    if max(height, width) > side:
        raise UserError(f"cannot write {path}: {width} x {height} pixels are too many, a side can be {side}")
    for frame in frames:
        if frame.shape != (height, width, 3):
            raise ValueError(f"an animation needs frames of one size, not {frame.shape} after {(height, width, 3)}")
        image = Image.fromarray(frame)
        if format == "gif":
            step = ceil((height * width / _ASKED) ** 0.5)
            palette = Image.fromarray(frame[::step, ::step]).quantize(_COLOURS, kmeans=1)
            image = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        yield image
