"""Test pictures that must not leak into training, neither whole nor in part.

Parts are known by hashes of small windows around corners (Harris and Stephens, "A combined corner and
edge detector", 1988). A window is hashed as it lies when it is laid in one agreed way, so that one hash
stands for all eight orientations. Two windows of one hash are a suspicion; the correlation of all that
their pictures would share, at the scale that fits them best, settles it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from upscaler.images.resize import resize
from upscaler.training.fingerprints import (
    HASH_BITS,
    SMALLEST,
    Hashes,
    Luma,
    Plane,
    Thumbnails,
    box_mean,
    correlation,
    details,
    frequencies,
    hashes,
    laid,
    placed,
    thumbnail,
)

SAME_PART = 0.7
"""Two pictures whose details correlate at least so much where they would overlap share that part."""

_REDUCTION = 2
_SIZES = tuple(2 ** (-step / 4) for step in range(9))
"""Of a test picture, relative to its own, at which its corners are known: what lies between is near enough."""

_OWN_SIZES = tuple(2 ** (-step / 2) for step in range(5))
"""Of the picture at hand, which shrinks to be compared if it was enlarged."""

_REACH = 16
_CORNER_REACH = 5
_AREA_PER_CORNER = 1024
_LEAST_CORNERS = 8
_UNSURE = 0.15
"""Share of a window's slope below which the picture at hand is looked up in both of two orientations."""

_MOST_SETTLED = 64
_NEAR = 40
_NEAR_SCALES = (1.0, 0.97, 1.03, 0.94, 1.06)
_HOPELESS = 0.2


@dataclass(frozen=True)
class _Corners:
    """The corners of a plane, and what is around them.

    Args:
        codes: (N,) hashes of windows.
        orientations: (N,) the view, as ``laid`` counts them, in which each was hashed.
        places: (N, 2) row and column, in pixels from the edges of the plane.
    """

    codes: Hashes
    orientations: NDArray[np.uint8]
    places: NDArray[np.float32]


@dataclass(frozen=True)
class BenchmarkPicture:
    """All that must be remembered of a test picture to find its parts: about a pixel in four.

    Args:
        name: of the picture.
        small: its ``thumbnail``.
        plane: its luma at half its size.
        corners: of the plane, found at all sizes.
        scales: (N,) the size at which each of them was found.
    """

    name: str
    small: Luma
    plane: Luma
    corners: _Corners
    scales: NDArray[np.float32]


def benchmark_picture(name: str, grey: Luma) -> BenchmarkPicture:
    """What is remembered of a test picture.

    Args:
        name: of the picture.
        grey: (H, W), both at least ``SMALLEST``.
    """
    whole = _reduced(grey)
    found = [(size, _corners(plane, whole.shape, unsure=0)) for size, plane in _at_sizes(whole, _SIZES)]
    corners = _Corners(
        np.concatenate([np.empty(0, np.uint64), *(each.codes for _, each in found)]),
        np.concatenate([np.empty(0, np.uint8), *(each.orientations for _, each in found)]),
        np.concatenate([np.empty((0, 2), np.float32), *(each.places for _, each in found)]),
    )
    scales = np.repeat(np.array([size for size, _ in found], np.float32), [len(each.codes) for _, each in found])
    return BenchmarkPicture(name, thumbnail(grey), whole.round().astype(np.uint8), corners, scales)


class Benchmarks:
    """Finds test pictures in others.

    A whole picture is found at any size. A part of one is found from a quarter to four times its size if
    it has corners and details enough: 33 x 33 pixels at half its size, where it was enlarged after it was
    brought back; and so is a larger picture that contains one.

    Args:
        tests: the test pictures.
    """

    def __init__(self, tests: Iterable[BenchmarkPicture]) -> None:
        self._whole = Thumbnails()
        self._tests = list(tests)
        for test in self._tests:
            self._whole.add(test.name, test.small)
        counts = [len(test.scales) for test in self._tests]
        self._codes = np.concatenate([np.empty(0, np.uint64), *(test.corners.codes for test in self._tests)])
        self._owners = np.repeat(np.arange(len(counts)), counts)
        self._firsts = np.cumsum([0, *counts])

    def find(self, grey: Luma, small: Luma) -> str | None:
        """The name of a test picture that is in this picture or that this one is in, or None.

        Args:
            grey: (H, W).
            small: its ``thumbnail``.
        """
        whole = self._whole.find(small)
        if whole is not None or not len(self._codes):
            return whole
        planes = [plane for _, plane in _at_sizes(_reduced(grey), _OWN_SIZES)]
        found = [_corners(plane, plane.shape, unsure=_UNSURE) for plane in planes]
        suspicions: list[tuple[int, int, int, int]] = []
        for number, corners in enumerate(found):
            for own, code in enumerate(corners.codes):
                distances = np.bitwise_count(self._codes ^ code)
                near = np.flatnonzero(distances <= HASH_BITS)
                suspicions += [(int(distances[other]), number, own, int(other)) for other in near]
        for _, number, own, other in sorted(suspicions)[:_MOST_SETTLED]:
            owner = int(self._owners[other])
            test, its = self._tests[owner], other - int(self._firsts[owner])
            a, place_a = _oriented(planes[number], found[number], own)
            b, place_b = _oriented(test.plane, test.corners, its)
            if _share(a, place_a, b, place_b, float(test.scales[its])):
                return test.name
        return None


def _reduced(grey: Luma) -> Plane:
    height, width = (length // _REDUCTION for length in grey.shape)
    even = grey[: height * _REDUCTION, : width * _REDUCTION]
    plane: Plane = even.reshape(height, _REDUCTION, width, _REDUCTION).mean(axis=(1, 3), dtype=np.float32)
    return plane


def _at_sizes(plane: Plane, sizes: Iterable[float]) -> Iterator[tuple[float, Plane]]:
    """A plane at those of these sizes at which a window fits in."""
    for size in sizes:
        height, width = (round(length * size) for length in plane.shape)
        if min(height, width) > 2 * _REACH:
            yield size, resize(plane[..., None], height, width)[..., 0]


def _corners(plane: Plane, shape: tuple[int, ...], *, unsure: float) -> _Corners:
    """The strongest corners of a plane and what is around them.

    A window is laid so that it becomes brighter to the right and, less so, to the bottom.

    Args:
        plane: (H, W), both more than a window.
        shape: of the plane in whose pixels the places are given.
        unsure: by what share of a window's slope it may miss that; then it counts in several orientations.
    """
    places = _corner_places(plane)
    # Odd, so that a corner is in the middle of its window however that is turned.
    edge = 2 * _REACH + 1
    windows = np.lib.stride_tricks.sliding_window_view(plane, (edge, edge))
    low = frequencies(windows[places[:, 0] - _REACH, places[:, 1] - _REACH])
    # Turning a window transposes its frequencies, and mirroring changes the signs of the odd ones.
    odd = np.where(np.arange(low.shape[2]) % 2, -1, 1).astype(np.float32)
    views = []
    for side in (low, low * odd):
        for _ in range(4):
            views.append(side)
            side = (side * odd).transpose(0, 2, 1)
    turned = np.stack(views, axis=1)
    right, bottom = turned[..., 0, 1], turned[..., 1, 0]
    margin = unsure * np.hypot(right, bottom)
    # A frequency is positive where the picture becomes darker.
    which, orientations = np.nonzero((-bottom >= -margin) & (-right >= -bottom - margin))
    return _Corners(
        hashes(turned[which, orientations]),
        orientations.astype(np.uint8),
        ((places[which] + 0.5) * (np.array(shape) / plane.shape)).astype(np.float32),
    )


def _corner_places(plane: Plane) -> NDArray[np.int64]:
    """The (row, column) of the strongest corners, as many as its size deserves, that a window fits around."""
    slopes: list[Plane] = [np.asarray(slope, np.float32) for slope in np.gradient(plane)]
    down, across = slopes
    xx, yy, xy = (box_mean(product, 2) for product in (across * across, down * down, across * down))
    strength = xx * yy - xy * xy - np.float32(0.05) * (xx + yy) ** 2
    inside = np.zeros(plane.shape, bool)
    inside[_REACH:-_REACH, _REACH:-_REACH] = True
    rows, columns = np.nonzero(inside & (strength > 0) & (strength == _highest(strength, _CORNER_REACH)))
    most = max(plane.size // _AREA_PER_CORNER, _LEAST_CORNERS)
    strongest = np.argsort(-strength[rows, columns], kind="stable")[:most]
    return np.stack([rows[strongest], columns[strongest]], axis=1)


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


_Place = tuple[float, float]


def _oriented(plane: NDArray[np.generic], corners: _Corners, index: int) -> tuple[NDArray[np.generic], _Place]:
    """A plane, laid as the window of one of its corners was, and where that corner is then."""
    view = int(corners.orientations[index])
    row, column = corners.places[index].tolist()
    return laid(plane, view), placed((row, column), plane.shape, view)


def _share(a: NDArray[np.generic], place_a: _Place, b: NDArray[np.generic], place_b: _Place, scale: float) -> bool:
    """Whether two planes show the same wherever they overlap if two places in them are one.

    What is near the places is compared first, at several scales, because a scale that is slightly wrong
    spoils only what is far; then more and more of it, at scales ever nearer to the best.

    Args:
        a, b: (H, W).
        place_a, place_b: the row and the column that are one.
        scale: about how many pixels of ``a`` make one of ``b``.
    """
    reach = _NEAR
    factors: tuple[float, ...] = _NEAR_SCALES
    if _alikeness(a, place_a, b, place_b, scale, reach) < _HOPELESS:
        return False
    while True:
        tried = [(_alikeness(a, place_a, b, place_b, scale * factor, reach), scale * factor) for factor in factors]
        best, scale = max(tried)
        if best < SAME_PART or reach >= max(a.shape):
            return best >= SAME_PART
        reach *= 2
        factors = tuple(1 + change * _NEAR / reach for change in (0, -0.03, 0.03))


def _alikeness(
    a: NDArray[np.generic], place_a: _Place, b: NDArray[np.generic], place_b: _Place, scale: float, reach: int
) -> float:
    """The correlation of the details of two planes within so many pixels of ``a``; 0 if that is too little."""
    axes = [
        _overlap(*places, *lengths, scale, reach)
        for places, lengths in zip(zip(place_a, place_b, strict=True), zip(a.shape, b.shape, strict=True), strict=True)
    ]
    (rows_a, rows_b), (columns_a, columns_b) = axes
    part, other = a[rows_a, columns_a].astype(np.float32), b[rows_b, columns_b].astype(np.float32)
    if min(part.shape) < SMALLEST or not other.size:
        return 0
    return correlation(details(part), details(resize(other[..., None], *part.shape)[..., 0]))


def _overlap(
    place_a: float, place_b: float, length_a: int, length_b: int, scale: float, reach: int
) -> tuple[slice, slice]:
    """Along one axis, what two planes share around two places that are one, at most so many pixels to both sides."""
    before = min(place_a, place_b * scale, reach)
    after = min(length_a - place_a, (length_b - place_b) * scale, reach)
    start, stop = ceil(place_a - before), floor(place_a + after)
    first, last = (round(place_b + (edge - place_a) / scale) for edge in (start, stop))
    return slice(start, stop), slice(max(first, 0), min(last, length_b))
