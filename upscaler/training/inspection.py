"""One source picture looked at: can it be used, what does it look like, which crops of it are worth keeping."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.images.alpha import without_alpha
from upscaler.images.files import open_picture
from upscaler.images.metrics import sharpness
from upscaler.images.resize import resize, scaled_size
from upscaler.images.sheets import as_rgb
from upscaler.training.benchmarks import Benchmarks
from upscaler.training.fingerprints import SMALLEST, luma, thumbnail
from upscaler.training.pairing import pair_problem
from upscaler.training.selection import Crops, detail
from upscaler.training.shards import Picture
from upscaler.training.sources import Source

FAILURES = ("unreadable", "transparent", "pair")
"""Reasons that somebody should mend; the others are what the settings ask for."""


class Box(NamedTuple):
    """A part of a source picture, in pixels of the picture at this share of its size."""

    top: int
    left: int
    height: int
    width: int
    size: float = 1.0


@dataclass(frozen=True)
class Rules:
    """What makes a picture or a crop worth keeping.

    Args:
        crops: how pictures are cut.
        flat: crops with less ``selection.detail`` are dropped; 0 keeps all.
        blurred: crops with less ``metrics.sharpness`` are dropped; 0 keeps all.
        multiple: sizes are cut down to multiples of this, at the right and at the bottom.
        first_frame: take the first frame or page of files with several.
        sizes: shares of its size at which a picture is taken, each at most 1.
    """

    crops: Crops = field(default_factory=Crops)
    flat: float = 2.0
    blurred: float = 8.0
    multiple: int = 1
    first_frame: bool = False
    sizes: tuple[float, ...] = (1.0,)

    def boxes(self, height: int, width: int) -> list[Box]:
        """All crops of a picture of this size, those of one of its sizes after another; of a tiny copy none."""
        found: list[Box] = []
        for size in self.sizes:
            rows, columns = (edge - edge % self.multiple for edge in scaled_size(height, width, size))
            if min(rows, columns) >= (1 if size == 1 else SMALLEST):
                found += [Box(*box, size) for box in self.crops.boxes(rows, columns)]
        return found


@dataclass(frozen=True)
class Inspection:
    """What was found out about a source; plain values, so that it survives in a journal.

    Args:
        name: of the source.
        digests: of the source.
        height, width: in pixels; 0 where it could not be read.
        reason: why all of it is dropped, in one word, or None.
        because: the same in words.
        thumbnail: hexadecimal ``fingerprints.thumbnail``.
        boxes: the crops that are kept.
        dropped: crops that are not, by reason.
        sums, squares: of each channel over all pixels of ``boxes``, in levels of 255.
    """

    name: str
    digests: tuple[str, ...]
    height: int = 0
    width: int = 0
    reason: str | None = None
    because: str | None = None
    thumbnail: str = ""
    boxes: tuple[Box, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    sums: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Back from ``as_json``."""
        lists = {name: tuple(fields[name]) for name in ("digests", "sums", "squares")}
        return cls(**{**fields, **lists, "boxes": tuple(Box(*box) for box in fields["boxes"])})


def read_rgb(path: Path, *, first_frame: bool = False) -> Picture:
    """A picture file as (H, W, 3) uint8: grey repeated, 16 bits rounded to 8, an opaque alpha channel left out.

    Raises:
        UserError: it cannot be read.
        TransparentError: it has transparent pixels, under which there may be anything.
    """
    pixels = without_alpha(open_picture(path, first_frame=first_frame).read().pixels)
    if pixels is None:
        raise TransparentError("it has transparent pixels; lay it over a colour first")
    return as_rgb(pixels)


class TransparentError(UserError):
    """A picture with transparent pixels."""


def inspect(source: Source, rules: Rules, benchmarks: Benchmarks, scale: int | None) -> Inspection:
    """Look at a source; what is wrong with it is part of the result.

    Args:
        source: with its digests.
        rules: of what to keep.
        benchmarks: what must not be in it.
        scale: HR pixels per LR pixel, where ``source.lr`` is given.
    """

    def refused(reason: str, because: str, pixels: NDArray[np.uint8] | None = None) -> Inspection:
        height, width = (0, 0) if pixels is None else pixels.shape[:2]
        return Inspection(source.name, source.digests, height, width, reason, because)

    if source.problem:
        return refused("pair" if source.digests else "unreadable", source.problem)
    try:
        pixels = read_rgb(source.path, first_frame=rules.first_frame)
        lr = None if source.lr is None else read_rgb(source.lr, first_frame=rules.first_frame)
    except TransparentError as error:
        return refused("transparent", str(error))
    except UserError as error:
        # The same words wherever the files lie.
        words = str(error).replace(f"cannot read {source.path}: ", "").replace(f"cannot read {source.lr}: ", "LR: ")
        return refused("unreadable", words)
    height, width = pixels.shape[:2]
    boxes = rules.boxes(height, width)
    if not boxes:
        least = max(rules.crops.size or SMALLEST, rules.multiple)
        share = max(rules.sizes)
        of = f"{width} x {height} pixels" + ("" if share == 1 else f", taken at {share:g} of that,")
        return refused("small", f"{of} are too few for a crop of {least}", pixels)
    if min(height, width) < SMALLEST:
        return refused("small", f"{width} x {height} pixels are too few; both edges must have {SMALLEST}", pixels)
    grey = luma(pixels)
    if lr is not None and scale is not None and (problem := pair_problem(grey, luma(lr), scale)):
        return refused("pair", problem, pixels)
    small = thumbnail(grey)
    if leak := benchmarks.find(grey, small):
        return refused("benchmark", f"it shares something with the benchmark picture {leak}", pixels)
    kept: list[Box] = []
    dropped: Counter[str] = Counter()
    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for size, group in groupby(boxes, lambda box: box.size):
        scaled = resized(pixels, size)
        scaled_grey = grey if scaled is pixels else luma(scaled)
        for box in group:
            part = cut(scaled_grey, box)
            if detail(part) < rules.flat:
                dropped["flat"] += 1
            elif sharpness(part) < rules.blurred:
                dropped["blurred"] += 1
            else:
                kept.append(box)
                levels = cut(scaled, box).reshape(-1, 3).astype(np.int64)
                sums += levels.sum(axis=0)
                squares += (levels * levels).sum(axis=0)
    return Inspection(
        source.name,
        source.digests,
        height,
        width,
        thumbnail=small.tobytes().hex(),
        boxes=tuple(kept),
        dropped=dict(sorted(dropped.items())),
        sums=tuple(sums.tolist()),
        squares=tuple(squares.tolist()),
    )


def resized(pixels: Picture, size: float) -> Picture:
    """A picture at a share of its size, by MATLAB's bicubic."""
    if size == 1:
        return pixels
    height, width, _ = pixels.shape
    return resize(pixels, *scaled_size(height, width, size), size)


def cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The part that a box says of (H, W, ...), a picture at the box's size."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]
