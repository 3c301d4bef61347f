"""A flight into pictures of which each shows a part of the one before, larger: what a camera sees on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log2

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaler.images.sheets import Picture

_BORDER = 0.12
"""Share of a picture's edge over which it passes into the one around it, as the mean of two opposite sides."""
_LEAST_BORDER = 3
_ARRIVAL = 0.6
"""Steps that a picture takes to appear, from the moment when the one around it fills the frame."""


@dataclass(frozen=True)
class Level:
    """A square picture of a flight, without its pixels.

    Args:
        edge: in pixels.
        x, y: where the point that the flight goes to lies in it, in its pixels.
    """

    edge: int
    x: float
    y: float


class Flight:
    """A camera that nears one point evenly: equal times, equal ratios, and the point rests in the frame.

    Each picture passes into the one around it: in space towards its border, and in time from when the one around it
    fills the frame and it is small itself. So two frames differ by no more than the movement between them.

    Args:
        levels: from the outermost inwards. A pixel of each but the first is ``factor`` times finer than one of the
            level before; all but the first are equally large.
        factor: by which a level enlarges.
        edge: of the frames.
        read: gives the pixels of a level, (edge, edge, 3), by its number. Three levels at most are kept.
    """

    def __init__(self, levels: Sequence[Level], factor: int, edge: int, read: Callable[[int], Picture]) -> None:
        self.levels, self.factor, self.edge, self._read = levels, factor, edge, read
        self._inner = levels[-1].edge
        self._share = levels[0].x / levels[0].edge, levels[0].y / levels[0].edge
        self._pictures: dict[int, Picture] = {}
        self.begin = log(self._inner / levels[0].edge, factor)
        """The time at which the frame shows all of the first level; times are in steps from a level to the next."""
        self.end = len(levels) - 1 - log(1 - 2 * _BORDER, factor)
        """The time at which the frame shows nothing but the last level."""

    def frame(self, time: float) -> Picture:
        """What the camera sees at a time from ``begin`` to ``end``, (edge, edge, 3)."""
        current = min(floor(time), len(self.levels) - 1)
        outermost, innermost = max(current - 1, 0), min(current + 1, len(self.levels) - 1)
        shown = range(outermost, innermost + 1)
        self._pictures = {number: self._picture(number) for number in shown}
        seen = np.zeros((self.edge, self.edge, 3), np.float32)
        for number in shown:
            across, down = self._spans(number, time)
            if not across.length or not down.length:
                continue
            box = (across.start, down.start, across.stop, down.stop)
            picture = Image.fromarray(self._pictures[number])
            tile = np.asarray(picture.resize((across.length, down.length), Image.Resampling.BICUBIC, box), np.float32)
            if number == outermost:
                around = ((down.first, self.edge - down.last), (across.first, self.edge - across.last), (0, 0))
                seen = np.pad(tile, around, mode="edge")
                continue
            arrived = _smooth((time - number + 1) / _ARRIVAL)
            weights = (arrived * np.outer(down.weights, across.weights)).astype(np.float32)
            under = seen[down.first : down.last, across.first : across.last]
            under += weights[..., None] * (tile - under)
        return np.rint(seen).clip(0, 255).astype(np.uint8)

    def times(self, doubling: int) -> NDArray[np.float64]:
        """The times of all frames, with about so many of them while what is seen grows to twice its size."""
        return np.linspace(self.begin, self.end, ceil((self.end - self.begin) * log2(self.factor) * doubling) + 1)

    def _picture(self, number: int) -> Picture:
        kept = self._pictures.get(number)
        return self._read(number) if kept is None else kept

    def _spans(self, number: int, time: float) -> tuple[_Span, _Span]:
        level = self.levels[number]
        view = self._inner * self.factor ** (number - time)
        across, down = self._share
        return (
            _span(level.x, across, view, level.edge, self.edge),
            _span(level.y, down, view, level.edge, self.edge),
        )


@dataclass(frozen=True)
class _Span:
    """Along one axis, the pixels of a frame that lie in a level.

    Args:
        first, last: of the frame, the last one not included.
        start, stop: where they begin and end in the level, in its pixels.
        weights: (last - first,), how much the level covers there, 0..1.
    """

    first: int
    last: int
    start: float
    stop: float
    weights: NDArray[np.float64]

    @property
    def length(self) -> int:
        return max(self.last - self.first, 0)


def _span(point: float, share: float, view: float, edge: int, frame: int) -> _Span:
    """``view`` pixels of a level of ``edge`` pixels, that share of them before the point, in ``frame`` pixels."""
    step = view / frame
    origin = point - share * view
    # What rounding leaves outside by a hair is inside.
    first = max(ceil(-origin / step - 1e-6), 0)
    last = min(floor((edge - origin) / step + 1e-6), frame)
    place = origin + (np.arange(first, last) + 0.5) * step
    # Each side's border has its share, so that the camera leaves all of them at one time; and some pixels of the frame,
    # so that it does not come in by whole rows.
    borders = (max(2 * _BORDER * edge * side, _LEAST_BORDER * step) for side in (share, 1 - share))
    near, far = (_smooth(way / border) for way, border in zip((place, edge - place), borders, strict=True))
    start, stop = max(origin + first * step, 0.0), min(origin + last * step, float(edge))
    return _Span(first, last, start, stop, near * far)


def _smooth(values: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """From 0 at 0 to 1 at 1, without a corner at either."""
    held = np.clip(values, 0, 1)
    smooth: NDArray[np.float64] = held * held * (3 - 2 * held)
    return smooth
