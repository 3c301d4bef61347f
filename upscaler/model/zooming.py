"""Repeated zoom: crop around one point, upscale, crop, again, and what can be measured on the way.

After a few steps everything in the picture was put there by the network, so the last pictures show what it has
learnt to draw. The point stays where it is: crops lie on whole pixels, and what that rounds off is carried along
as an exact fraction and made good by the next crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from upscaler.errors import UserError
from upscaler.images.alpha import without_alpha
from upscaler.images.metrics import colour_shift, high_frequencies, luma, psnr, sharpness
from upscaler.images.resize import resize
from upscaler.images.sheets import as_rgb, most_detailed
from upscaler.model.sources import Pixels

SMALLEST = 16
"""Pixels that a picture needs along each axis."""

_SMALLEST_SPOT = 3
"""Pixels along the edge of a square that can have detail."""

Enlarge = Callable[[Pixels], Pixels]
"""(c, c, 3) to (E, E, 3), of the same type."""


@dataclass(frozen=True)
class Point:
    """A position in a picture in its pixels, whose first one reaches from 0 to 1; not rounded."""

    x: Fraction
    y: Fraction

    @classmethod
    def of_pixel(cls, x: int, y: int) -> Point:
        """The middle of a pixel."""
        return cls(x + Fraction(1, 2), y + Fraction(1, 2))


@dataclass(frozen=True)
class Cut:
    """A square to cut out of a picture.

    Args:
        left, top, edge: in pixels of the picture.
        point: where the point that is zoomed into comes to lie: for the first cut in the square itself, for the
            others in the square enlarged.
    """

    left: int
    top: int
    edge: int
    point: Point

    def of(self, pixels: Pixels) -> Pixels:
        return pixels[self.top : self.top + self.edge, self.left : self.left + self.edge]


@dataclass(frozen=True)
class Course:
    """All cuts of a zoom, and what they have in common.

    Args:
        cuts: the first one out of the picture, each other one out of what the step before gave.
        factor: by which each step enlarges.
        edge: of the enlarged squares.
    """

    cuts: tuple[Cut, ...]
    factor: int
    edge: int


@dataclass(frozen=True)
class Scores:
    """What one step got; all but the first two are None for the first crop, which no network has seen.

    Args:
        sharpness: variance of the Laplacian of Y, in squared levels of 255.
        high_frequencies: share of the energy of Y above half the Nyquist frequency, 0..1.
        drift: colour that all steps so far have added, as the largest magnitude of ``shift``.
        shift: the mean of R, G and B of each result, scaled down, less that of the crop it was made from, summed over
            the steps so far, in levels of 255. The two show the same, so that nothing but the network counts.
        agreement: PSNR in dB over RGB of the result, scaled down by MATLAB's bicubic, against the crop it was made
            from: how far the step invents only what the step before leaves open.
        agreement_bicubic: PSNR in dB over RGB of the result against the bicubic enlargement of the same crop.
    """

    sharpness: float
    high_frequencies: float
    drift: float | None = None
    shift: tuple[float, ...] | None = None
    agreement: float | None = None
    agreement_bicubic: float | None = None


@dataclass(frozen=True)
class Step:
    """One step is done: its number from 1, its result (E, E, 3) and what was measured."""

    number: int
    picture: Pixels
    scores: Scores


def check_zoomable(height: int, width: int, at: Point | None) -> None:
    """Refuse a picture in which there is nothing to zoom into.

    Args:
        height, width: of the picture.
        at: the point in it, if one is asked for.

    Raises:
        UserError: the picture is too small, or the point lies outside.
    """
    if min(height, width) < SMALLEST:
        raise UserError(
            f"{width} x {height} pixels are too few to zoom into; {SMALLEST} are needed along each edge, "
            "'srup upscale' makes a picture larger"
        )
    if at and not (0 <= at.x < width and 0 <= at.y < height):
        raise UserError(
            f"there is nothing at {floor(at.x)},{floor(at.y)}: the picture has {width} x {height} pixels, "
            f"counted from 0,0 to {width - 1},{height - 1}"
        )


def plan_course(height: int, width: int, at: Point, *, factor: int, steps: int, edge: int) -> Course:
    """Where to cut so that the point keeps its place in the frame, within half a pixel of each crop.

    The first square is as large as the results, or as the picture allows, and lies around the point, moved where it
    would reach beyond the picture. The point is then not in its middle, and stays off the middle by the same share
    of the edge, so that no crop but the first touches the border of the picture.

    Args:
        height, width: of the picture.
        at: the point in the picture.
        factor: by which a step enlarges, 2 or more.
        steps: how often.
        edge: wanted for the results, which are a multiple of the factor and at most ``factor`` times as large as the
            picture's shorter edge.

    Raises:
        UserError: as ``check_zoomable``, or results that would show less than a pixel.
    """
    check_zoomable(height, width, at)
    if edge < factor:
        raise UserError(f"a step of x{factor} makes {factor} pixels of one; take a larger --size than {edge}")
    crop = min(edge // factor, height, width)
    first = min(crop * factor, height, width)
    left = _within(round(at.x - Fraction(first, 2)), first, width)
    top = _within(round(at.y - Fraction(first, 2)), first, height)
    cuts = [Cut(left, top, first, Point(at.x - left, at.y - top))]
    across, down = cuts[0].point.x / first, cuts[0].point.y / first
    for length in [first, *[crop * factor] * (steps - 1)]:
        point = cuts[-1].point
        left, top = _start(point.x, across, crop, length), _start(point.y, down, crop, length)
        cuts.append(Cut(left, top, crop, Point((point.x - left) * factor, (point.y - top) * factor)))
    return Course(tuple(cuts), factor, crop * factor)


def detailed_pixel(pixels: Pixels, factor: int, edge: int) -> tuple[int, int]:
    """A pixel around which there is detail at every step that still shows the picture, away from its border.

    It is the middle of the most detailed square of the last such step's size in the most detailed one of the step
    before, and so on from the first step's; so far inside that the first square has it in its middle half.

    Args:
        pixels: (H, W, 3).
        factor, edge: as of ``plan_course``.

    Returns:
        (x, y).
    """
    height, width = pixels.shape[:2]
    size = min(edge // factor, height, width)
    left = top = min(size * factor, height, width) // 4
    region = pixels[top : height - top, left : width - left]
    while size >= _SMALLEST_SPOT:
        down, across = most_detailed(region, size, size)
        region = region[down : down + size, across : across + size]
        left, top, size = left + across, top + down, size // factor
    return left + region.shape[1] // 2, top + region.shape[0] // 2


def zoom(first: Pixels, course: Course, enlarge: Enlarge) -> Iterator[Step]:
    """The steps of a zoom, one after the other; nothing but the picture at hand is kept.

    Args:
        first: the first square of the course, uint8 or uint16. With 16 bits the rounding between two steps leaves
            no terraces that the next steps would sharpen.
        course: of ``plan_course``.
        enlarge: what makes a result of a crop.
    """
    picture = first
    shift = np.zeros(3)
    for number, cut in enumerate(course.cuts[1:], start=1):
        crop = cut.of(picture)
        picture = enlarge(crop)
        smaller, larger = resize(picture, cut.edge, cut.edge), resize(crop, course.edge, course.edge)
        shift += colour_shift(smaller, crop)
        scores = Scores(
            *_detail(picture),
            drift=float(np.abs(shift).max()),
            shift=tuple(float(channel) for channel in shift),
            agreement=psnr(smaller, crop),
            agreement_bicubic=psnr(picture, larger),
        )
        yield Step(number, picture, scores)


def deep(pixels: Pixels) -> Pixels:
    """A copy of a picture as ``zoom`` should have it, (H, W, 3) uint16: grey repeated, transparency over mid-grey."""
    opaque = without_alpha(pixels)
    if opaque is None:
        opaque = as_rgb(pixels)
    colour = np.repeat(opaque, 3, axis=2) if opaque.shape[2] == 1 else opaque
    return colour.copy() if colour.dtype == np.uint16 else colour.astype(np.uint16) * np.uint16(257)


def first_scores(first: Pixels) -> Scores:
    """What can be measured on the first square."""
    return Scores(*_detail(first))


def common_factor(scales: Sequence[int]) -> int:
    """By which a step enlarges: the largest of the models' scales.

    Raises:
        UserError: a model that does not enlarge.
    """
    if min(scales) < 2:
        raise UserError("a model of scale 1 does not enlarge, so there is nothing to zoom with; choose another")
    return max(scales)


def _detail(picture: Pixels) -> tuple[float, float]:
    y = luma(picture)[..., 0]
    return sharpness(y), high_frequencies(y)


def _within(start: int, length: int, whole: int) -> int:
    return min(max(start, 0), whole - length)


def _start(position: Fraction, share: Fraction, length: int, whole: int) -> int:
    """Where a crop begins so that a position has its share of the crop before it; the crop always holds it."""
    nearest = _within(round(position - share * length), length, whole)
    return min(max(nearest, ceil(position) - length), floor(position))
