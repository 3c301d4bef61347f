"""Float pictures that are made on demand, a band of rows at a time, from top to bottom.

Every step from a file to a file (bleed, network, resize, colour) takes Rows and gives Rows, so that
a picture larger than memory passes through all of them without ever being whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from upscaler.images.resize import BandResizer

FloatArray = NDArray[np.float32]

_MOST_ROWS = 128
_FEWEST_ROWS = 32
_BAND_BYTES = 16 * 2**20


def band_rows(width: int) -> int:
    """Rows of a picture that wide which a step without a reason of its own handles at once."""
    return min(max(_BAND_BYTES // (width * 12), _FEWEST_ROWS), _MOST_ROWS)


class Rows:
    """A picture of height x width x channels, float32 in 0..1, that is read once, downwards.

    Args:
        height, width, channels: of the whole picture.
        bands: its rows in order, in arrays (any number of rows, width, channels).
    """

    def __init__(self, height: int, width: int, channels: int, bands: Iterable[FloatArray]) -> None:
        self.height = height
        self.width = width
        self.channels = channels
        self._bands = iter(bands)
        self._kept: deque[tuple[int, FloatArray]] = deque()
        self._top = 0
        self._made = 0

    def window(self, top: int, bottom: int) -> FloatArray:
        """Rows ``top`` to ``bottom``, (bottom - top, width, channels); read-only for the caller.

        Where they came in one band it is a view. Rows above ``top`` are forgotten.

        Raises:
            ValueError: rows that the picture does not have, none at all, or rows that were forgotten;
                or the bands end above ``bottom``.
        """
        if not 0 <= top < bottom <= self.height:
            raise ValueError(f"rows {top} to {bottom} of a picture with {self.height}")
        if top < self._top:
            raise ValueError(f"rows from {top} on were asked for, but those above {self._top} are forgotten")
        self._top = top
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= top:
            self._kept.popleft()
        while self._made < bottom:
            band = next(self._bands, None)
            if band is None:
                raise ValueError(f"the bands of a picture with {self.height} rows ended after {self._made}")
            if self._made + len(band) > top:
                self._kept.append((self._made, band))
            self._made += len(band)
        parts = [band[max(top - first, 0) : bottom - first] for first, band in self._kept if first < bottom]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def bands(self, rows: int) -> Iterator[FloatArray]:
        """The whole picture in bands of that many rows, the last one with what is left."""
        for top in range(0, self.height, rows):
            yield self.window(top, min(top + rows, self.height))


def resized(rows: Rows, height: int, width: int) -> Rows:
    """The same picture at another size, by antialiased bicubic interpolation."""
    if (height, width) == (rows.height, rows.width):
        return rows
    resizer = BandResizer(rows.height, rows.width, height, width)

    def bands() -> Iterator[FloatArray]:
        step = band_rows(width)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            yield resizer.rows(rows.window(*resizer.needed(top, bottom)), top, bottom)

    return Rows(height, width, rows.channels, bands())
