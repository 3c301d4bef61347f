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

MATCHED_ROWS = _BAND + 2 * _REACH
"""Rows of the source that ``matched`` works on at once."""


def matched(result: Rows, source: Rows) -> Rows:
    """``result`` with its low frequencies moved to those of ``source``, detail untouched.

    The result is brought to the source's size; what differs there, smoothed by three box filters of
    17 source pixels (nearly a Gaussian of sigma 8.5), is taken off the result. Brightness and tint of
    areas wider than about 20 source pixels agree afterwards.

    Args:
        result: of any size.
        source: of any size, with the same channels.

    Returns:
        The size of ``result``; values may leave 0..1 by what was taken off.
    """
    to_source = BandResizer(result.height, result.width, source.height, source.width)
    to_result = BandResizer(source.height, source.width, result.height, result.width)

    def bands() -> Iterator[FloatArray]:
        step = max(_BAND * result.height // source.height, 1)
        for top in range(0, result.height, step):
            bottom = min(top + step, result.height)
            low, high = to_result.needed(top, bottom)
            first, last = max(low - _REACH, 0), min(high + _REACH, source.height)
            begin, end = to_source.needed(first, last)
            above = min(begin, top)
            window = result.window(above, max(end, bottom))
            drift = to_source.rows(window[begin - above : end - above], first, last) - source.window(first, last)
            smooth = _smoothed(drift)[low - first : high - first]
            yield window[top - above : bottom - above] - to_result.rows(smooth, top, bottom)

    return Rows(result.height, result.width, result.channels, bands())


def _smoothed(values: FloatArray) -> FloatArray:
    for axis in (0, 1):
        for _ in range(_SMOOTHINGS):
            values = _box(values, axis)
    return values


def _box(values: FloatArray, axis: int) -> FloatArray:
    """Mean over 2 * radius + 1 neighbours along an axis, edges repeated."""
    length = 2 * _RADIUS + 1
    padding = [(0, 0)] * values.ndim
    padding[axis] = (_RADIUS + 1, _RADIUS)
    total = np.moveaxis(np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64), axis, 0)
    mean = ((total[length:] - total[:-length]) / length).astype(np.float32)
    return np.moveaxis(mean, 0, axis)
