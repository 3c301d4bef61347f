"""Finding pictures that show the same thing, though they were resized, compressed or flipped.

A picture is known by the signs of its low frequencies, a 64-bit DCT hash (Zauner, "Implementation and
benchmarking of perceptual image hash functions", 2010), and every suspicion is settled by the correlation
of two thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import pi, sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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

_LOW = 8
_TURNS = 4


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


def laid(plane: NDArray[Number], view: int) -> NDArray[Number]:
    """View 0..7 of a picture (H, W): flipped from 4 on, then turned counter-clockwise ``view % 4`` times."""
    return np.rot90(plane[:, ::-1] if view >= _TURNS else plane, view % _TURNS)


def placed(place: tuple[float, float], shape: tuple[int, ...], view: int) -> tuple[float, float]:
    """Where a row and a column of a picture (H, W), measured from its edges, are in a view of it."""
    (row, column), (height, width) = place, shape
    if view >= _TURNS:
        column = width - column
    for _ in range(view % _TURNS):
        row, column, height, width = width - column, row, width, height
    return row, column


def views(plane: NDArray[Number]) -> Iterator[NDArray[Number]]:
    """The eight ways to lay a picture (H, W): flipped or not, turned by 0, 90, 180 and 270 degrees."""
    return (laid(plane, view) for view in range(2 * _TURNS))


def frequencies(windows: NDArray[Any]) -> Plane:
    """The 8 x 8 lowest frequencies (DCT) of each window.

    Args:
        windows: (N, L, L), any range.

    Returns:
        (N, 8, 8).
    """
    length = windows.shape[-1]
    frequency, place = np.arange(_LOW)[:, None], np.arange(length)
    matrix = np.cos(pi / length * frequency * (place + 0.5)).astype(np.float32)
    low: Plane = matrix @ windows.astype(np.float32) @ matrix.T
    return low


def hashes(low: Plane) -> Hashes:
    """The hash of each window by its ``frequencies``.

    Args:
        low: (N, 8, 8).

    Returns:
        (N,): a bit for each frequency but the mean, set where it is above their median.
    """
    flat = low.reshape(len(low), _LOW * _LOW)[:, 1:]
    above = flat > np.median(flat, axis=1, keepdims=True)
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
    soft = box_mean(plane, 1)
    return soft - box_mean(soft, 4)


def box_mean(plane: Plane, reach: int) -> Plane:
    """The mean over squares of 2 * reach + 1 pixels of (H, W), the edge repeated."""
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach + 1, reach)
        sums = np.cumsum(np.pad(plane, padding, mode="edge"), axis=axis, dtype=np.float64)
        width = 2 * reach + 1
        ahead, behind = (np.moveaxis(sums, axis, 0)[part] for part in (slice(width, None), slice(None, -width)))
        plane = np.moveaxis((ahead - behind) / width, 0, axis).astype(np.float32)
    return plane


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
        self._hashes[count] = hashes(frequencies(small[None]))[0]
        self._names.append(name)
        self._seen.append(small)

    def find(self, small: Luma) -> str | None:
        """The name of the first picture that was seen and is the same, or None."""
        return next(self.find_all(small), None)

    def find_all(self, small: Luma) -> Iterator[str]:
        """The names of all pictures that were seen and are the same, in the order in which they were."""
        turned = np.stack(list(views(small)))
        known = self._hashes[: len(self._names)]
        alike = np.bitwise_count(hashes(frequencies(turned))[:, None] ^ known) <= HASH_BITS
        for index in np.flatnonzero(alike.any(axis=0)):
            if any(
                correlation(turned[view], self._seen[index]) >= SAME_PICTURE for view in np.flatnonzero(alike[:, index])
            ):
                yield self._names[index]
