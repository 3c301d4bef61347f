"""Colour drift and its cure: the low frequencies of a result are those of its source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from upscaler.images.resize import BandResizer
from upscaler.images.rows import FloatArray, Rows

_RADIUS = 8
_SMOOTHINGS = 3
_REACH = _RADIUS * _SMOOTHINGS
_BAND = 4 * _REACH


def matched(result: Rows, source: Rows) -> Rows:
    """``result`` with its low frequencies moved to those of ``source``, detail untouched.

    The result is reduced to the source's size; what differs there, smoothed by three box filters of
    17 source pixels (nearly a Gaussian of sigma 8.5), is taken off the result. Brightness and tint of
    areas wider than about 20 source pixels agree afterwards. Both have the same channels, 0..1.
    """
    reduce = BandResizer(result.height, result.width, source.height, source.width)
    enlarge = BandResizer(source.height, source.width, result.height, result.width)

    def bands() -> Iterator[FloatArray]:
        step = max(_BAND * result.height // source.height, 1)
        for top in range(0, result.height, step):
            bottom = min(top + step, result.height)
            low, high = enlarge.needed(top, bottom)
            first, last = max(low - _REACH, 0), min(high + _REACH, source.height)
            above, below = reduce.needed(first, last)
            above, below = min(above, top), max(below, bottom)
            large = result.window(above, below)
            begin, end = reduce.needed(first, last)
            drift = reduce.rows(large[begin - above : end - above], first, last) - source.window(first, last)
            smooth = _smoothed(drift)[low - first : high - first]
            yield large[top - above : bottom - above] - enlarge.rows(smooth, top, bottom)

    return Rows(result.height, result.width, result.channels, bands())


def _smoothed(values: FloatArray) -> FloatArray:
    for axis in (0, 1):
        for _ in range(_SMOOTHINGS):
            values = _box(values, axis)
    return values


def _box(values: FloatArray, axis: int) -> FloatArray:
    """Mean over 2 * radius + 1 neighbours along an axis, edges repeated."""
    padding = [(0, 0)] * values.ndim
    padding[axis] = (_RADIUS + 1, _RADIUS)
    total = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
    length = 2 * _RADIUS + 1
    upper = np.take(total, range(length, total.shape[axis]), axis=axis)
    lower = np.take(total, range(total.shape[axis] - length), axis=axis)
    return ((upper - lower) / length).astype(np.float32)
