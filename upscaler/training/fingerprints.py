"""Finding pictures that show the same thing, whole or in part, though they were resized, compressed or flipped.

A whole picture is known by the signs of its low frequencies, a 64-bit DCT hash (Zauner, "Implementation
and benchmarking of perceptual image hash functions", 2010), and every suspicion is settled by the
correlation of two thumbnails. A part of a picture is known by the same hash of small windows around its
corners (Harris and Stephens, "A combined corner and edge detector", 1988), settled by the correlation
of all that the two pictures would share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from upscaler.images.resize import resize

Luma = NDArray[np.uint8]
"""(H, W), what the eye calls brightness."""

Plane = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)
Hashes = NDArray[np.uint64]

SMALLEST = 32
"""Least edge of a picture that has a fingerprint."""

HASH_BITS = 10
"""Two hashes that differ in at most so many of their 63 bits make a suspicion."""

SAME_PICTURE = 0.95
"""Two thumbnails with at least this correlation are of one picture."""

SAME_PART = 0.5
"""Two pictures whose details correlate at least so much where they would overlap share that part."""

_LOW = 8
_FRACTIONS = (1.0, 3 / 4, 2 / 3, 1 / 2, 1 / 3, 1 / 4)
"""Sizes, relative to the benchmark, at which parts of its pictures are looked for."""

_REDUCTION = 2
_CORNER_REACH = 5
_AREA_PER_CORNER = 1024
_MOST_SETTLED = 64


def luma(pixels: NDArray[np.uint8]) -> Luma:
    """Brightness of (H, W, 3) uint8 pixels by the weights of ITU-R BT.601, in integers: alike on every machine."""
    red, green, blue = (pixels[..., channel].astype(np.uint16) for channel in range(3))
    weighted: Luma = ((77 * red + 150 * green + 29 * blue + 128) >> 8).astype(np.uint8)
    return weighted


def thumbnail(grey: Luma) -> Luma:
    """A picture as 32 x 32 means, whatever its size and its proportions.

    Args:
        grey: (H, W), both at least ``SMALLEST``.
    """
    edges = [np.arange(SMALLEST) * length // SMALLEST for length in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, edges[0], axis=0, dtype=np.uint32), edges[1], axis=1, dtype=np.uint64)
    heights, widths = (np.diff(edge, append=length) for edge, length in zip(edges, grey.shape, strict=True))
    means: Luma = (sums / (heights[:, None] * widths)).round().astype(np.uint8)
    return means


def views(plane: NDArray[Number]) -> Iterator[NDArray[Number]]:
    """The eight ways to lay a picture (H, W): flipped or not, turned by 0, 90, 180 and 270 degrees."""
    for side in (plane, plane[:, ::-1]):
        for turns in range(4):
            yield np.rot90(side, turns)


def hashes(windows: NDArray[Any]) -> Hashes:
    """The DCT hash of each window.

    Args:
        windows: (N, 32, 32), any range.

    Returns:
        (N,): a bit for each of the 8 x 8 lowest frequencies but the mean, set where it is above their median.
    """
    matrix = _dct()
    low = (matrix @ windows.astype(np.float32) @ matrix.T).reshape(len(windows), _LOW * _LOW)[:, 1:]
    above = low > np.median(low, axis=1, keepdims=True)
    powers = np.uint64(1) << np.arange(_LOW * _LOW - 1, dtype=np.uint64)
    found: Hashes = (above * powers).sum(axis=1, dtype=np.uint64)
    return found


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's, -1..1, of two arrays of one shape; 0 where one of them is constant."""
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    energy = float((a * a).sum() * (b * b).sum())
    return float((a * b).sum()) / sqrt(energy) if energy > 0 else 0.0


def overlap(a: NDArray[Number], b: NDArray[Number], down: int, across: int) -> tuple[NDArray[Number], NDArray[Number]]:
    """What two planes have in common when the second is moved down and to the right: two parts of one shape."""
    top, left = max(down, 0), max(across, 0)
    bottom, right = min(a.shape[0], b.shape[0] + down), min(a.shape[1], b.shape[1] + across)
    if bottom <= top or right <= left:
        return a[:0, :0], b[:0, :0]
    return a[top:bottom, left:right], b[top - down : bottom - down, left - across : right - across]


def details(plane: Plane) -> Plane:
    """What is finer than 9 pixels, softened so that half a pixel's shift does not destroy it; (H, W) as given."""
    soft = _blurred(plane, 1)
    return soft - _blurred(soft, 4)


class Thumbnails:
    """Pictures that were seen, by their thumbnails, to find one again however it is laid, resized or compressed."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._seen: list[Luma] = []
        self._hashes = np.empty(256, np.uint64)

    def add(self, name: str, small: Luma) -> None:
        """Remember a picture by its ``thumbnail``."""
        count = len(self._names)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[count] = hashes(small[None])[0]
        self._names.append(name)
        self._seen.append(small)

    def find(self, small: Luma) -> str | None:
        """The name of the first picture that was seen and is the same, or None."""
        laid = np.stack(list(views(small)))
        known = self._hashes[: len(self._names)]
        alike = np.bitwise_count(hashes(laid)[:, None] ^ known) <= HASH_BITS
        suspicions = sorted((int(index), int(view)) for view, index in np.argwhere(alike))
        for index, view in suspicions:
            if correlation(laid[view], self._seen[index]) >= SAME_PICTURE:
                return self._names[index]
        return None


@dataclass(frozen=True)
class _Laid:
    """A benchmark picture at one size and laid in one way."""

    name: str
    details: Plane


class Benchmarks:
    """Test pictures that must not leak into training, neither whole nor in part.

    A whole picture is found at any size. A part of one is found at its own size and at 3/4, 2/3, 1/2,
    1/3 and 1/4 of it, if it covers at least 32 x 32 pixels of the two pictures when the one at hand is
    halved; and so is a larger picture that contains one.

    Args:
        pictures: a name and the luma of each; pictures below ``SMALLEST`` cannot be found.
    """

    def __init__(self, pictures: Iterable[tuple[str, Luma]]) -> None:
        self._whole = Thumbnails()
        self._laid: list[_Laid] = []
        found: list[tuple[Hashes, NDArray[np.int64]]] = []
        owners: list[NDArray[np.int64]] = []
        for name, grey in pictures:
            if min(grey.shape) < SMALLEST:
                continue
            self._whole.add(name, thumbnail(grey))
            for fraction in _FRACTIONS:
                height, width = (round(length * fraction / _REDUCTION) for length in grey.shape)
                if min(height, width) < SMALLEST:
                    continue
                for view in views(resize(grey[..., None].astype(np.float32), height, width)[..., 0]):
                    plane = np.ascontiguousarray(view, np.float32)
                    found.append(_corners(plane))
                    owners.append(np.full(len(found[-1][0]), len(self._laid)))
                    self._laid.append(_Laid(name, details(plane)))
        self._hashes = np.concatenate([each[0] for each in found] or [np.empty(0, np.uint64)])
        self._places = np.concatenate([each[1] for each in found] or [np.empty((0, 2), np.int64)])
        self._owners = np.concatenate(owners or [np.empty(0, np.int64)])

    def find(self, grey: Luma, small: Luma) -> str | None:
        """The name of a test picture that is in this picture or that this one is in, or None.

        Args:
            grey: (H, W).
            small: its ``thumbnail``.
        """
        whole = self._whole.find(small)
        height, width = (length // _REDUCTION for length in grey.shape)
        if whole is not None or not len(self._hashes) or min(height, width) < SMALLEST:
            return whole
        even = grey[: height * _REDUCTION, : width * _REDUCTION]
        plane: Plane = even.reshape(height, _REDUCTION, width, _REDUCTION).mean(axis=(1, 3), dtype=np.float32)
        own, places = _corners(plane)
        fine = details(plane)
        suspicions: set[tuple[int, int, int, int]] = set()
        for code, place in zip(own, places, strict=True):
            distance = np.bitwise_count(self._hashes ^ code)
            for match in np.flatnonzero(distance <= HASH_BITS):
                down, across = place - self._places[match]
                suspicions.add((int(distance[match]), int(self._owners[match]), int(down), int(across)))
        for _, owner, down, across in sorted(suspicions)[:_MOST_SETTLED]:
            parts = overlap(fine, self._laid[owner].details, down, across)
            if min(parts[0].shape) >= SMALLEST and correlation(*parts) >= SAME_PART:
                return self._laid[owner].name
        return None


def _dct() -> Plane:
    """The (8, 32) matrix of the lowest frequencies."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(SMALLEST)
    return np.cos(pi / SMALLEST * frequency * (place + 0.5)).astype(np.float32)


def _corners(plane: Plane) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of the windows around the strongest corners, and the (row, column) of each corner."""
    slopes: list[Plane] = [np.asarray(slope, np.float32) for slope in np.gradient(plane)]
    down, across = slopes
    xx, yy, xy = (_blurred(product, 2) for product in (across * across, down * down, across * down))
    strength = xx * yy - xy * xy - np.float32(0.05) * (xx + yy) ** 2
    half = SMALLEST // 2
    inside = np.zeros(plane.shape, bool)
    inside[half : plane.shape[0] - half + 1, half : plane.shape[1] - half + 1] = True
    rows, columns = np.nonzero(inside & (strength > 0) & (strength == _highest(strength, _CORNER_REACH)))
    strongest = np.argsort(-strength[rows, columns], kind="stable")[: max(plane.size // _AREA_PER_CORNER, 8)]
    places = np.stack([rows[strongest], columns[strongest]], axis=1)
    if not len(places):
        return np.empty(0, np.uint64), places
    windows = np.lib.stride_tricks.sliding_window_view(plane, (SMALLEST, SMALLEST))
    return hashes(windows[places[:, 0] - half, places[:, 1] - half]), places


def _blurred(plane: Plane, reach: int) -> Plane:
    """The mean over squares of 2 * reach + 1 pixels, the edge repeated."""
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach + 1, reach)
        sums = np.cumsum(np.pad(plane, padding, mode="edge"), axis=axis, dtype=np.float64)
        width = 2 * reach + 1
        ahead, behind = (np.moveaxis(sums, axis, 0)[part] for part in (slice(width, None), slice(None, -width)))
        plane = np.moveaxis((ahead - behind) / width, 0, axis).astype(np.float32)
    return plane


def _highest(plane: Plane, reach: int) -> Plane:
    """The largest value within so many pixels along both axes."""
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach, reach)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(plane, padding, constant_values=-np.inf), 2 * reach + 1, axis=axis
        )
        plane = windows.max(axis=-1)
    return plane
