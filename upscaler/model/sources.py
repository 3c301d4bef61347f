"""Pictures as the network sees them, float RGB in bands, and back to integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from upscaler.images.alpha import BLEED_REACH, bleed
from upscaler.images.rows import FloatArray, Rows, band_rows

Pixels = NDArray[Any]
"""(H, W, C), uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""


class Source(Protocol):
    """A picture that can be read from the top as often as needed; ``images.files.PictureFile`` is one."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def depth(self) -> int: ...
    def bands(self, rows: int) -> Iterator[Pixels]:
        """Its pixels, that many rows at a time."""
        ...


@dataclass(frozen=True)
class PixelSource:
    """A picture in memory as a source of bands.

    Raises:
        ValueError: an array of another shape or type than ``Pixels``.
    """

    pixels: Pixels

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] not in (1, 2, 3, 4) or not self.pixels.size:
            raise ValueError(f"pixels must be (height, width, 1 to 4 channels), not {self.pixels.shape}")
        if self.pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels must be uint8 or uint16, not {self.pixels.dtype}")

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def depth(self) -> int:
        return self.pixels.dtype.itemsize * 8

    def bands(self, rows: int) -> Iterator[Pixels]:
        for top in range(0, self.height, rows):
            yield self.pixels[top : top + rows]


def colours(source: Source) -> Rows:
    """RGB of a source, grey repeated three times, colour bled under transparent pixels."""
    rows = _floats(source)
    if source.channels == 3:
        return rows

    def bands() -> Iterator[FloatArray]:
        step = band_rows(source.width)
        for top in range(0, source.height, step):
            bottom = min(top + step, source.height)
            if source.channels == 1:
                yield np.repeat(rows.window(top, bottom), 3, axis=2)
                continue
            first, last = max(top - BLEED_REACH, 0), min(bottom + BLEED_REACH, source.height)
            window = rows.window(first, last)
            bled = bleed(window[..., :-1], window[..., -1])[top - first : bottom - first]
            yield np.repeat(bled, 3, axis=2) if source.channels == 2 else bled

    return Rows(source.height, source.width, 3, bands())


def opacity(source: Source) -> Rows:
    """The alpha channel of a source, repeated three times."""
    bands = (np.repeat(band[..., -1:], 3, axis=2) for band in _floats(source).bands(band_rows(source.width)))
    return Rows(source.height, source.width, 3, bands)


def _floats(source: Source) -> Rows:
    top = np.float32(2**source.depth - 1)
    bands = (band.astype(np.float32) / top for band in source.bands(band_rows(source.width)))
    return Rows(source.height, source.width, source.channels, bands)


def quantised(rows: FloatArray, depth: int) -> Pixels:
    """0..1 as integers of that many bits, 8 or 16; what lies outside is clipped."""
    top = 2**depth - 1
    pixels: Pixels = np.rint(np.clip(rows, 0, 1) * np.float32(top)).astype(np.uint8 if depth == 8 else np.uint16)
    return pixels
