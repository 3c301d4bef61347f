"""Colour under transparency, and pictures that only seem to have some.

A fully transparent pixel has a colour that nobody sees, often black or left over from editing.
Enlarging mixes it into the visible edge beside it, a halo; so it is replaced before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_RADII = (1, 2, 4, 8, 16)
_UNREACHED = 0.5

BLEED_REACH = _RADII[-1]
"""Pixels around a position that can change its colour in ``bleed``."""


def bleed(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give fully transparent pixels the colour of their nearest visible surroundings.

    A hidden pixel becomes the alpha-weighted mean of the smallest box around it, of radius 1, 2, 4, 8
    or 16, that holds anything visible; farther out it becomes mid-grey. The result at a position
    depends on ``BLEED_REACH`` rows and columns around it and on nothing else, so a band that is given
    that many extra rows comes out as in the whole picture.

    Args:
        colour: (H, W, C), not multiplied by alpha, 0..1.
        alpha: (H, W), 0..1; 0 is fully transparent.

    Returns:
        (H, W, C), 0..1; pixels with any alpha are as they were. Where nothing is hidden it is
        ``colour`` itself, otherwise a new array.

    Raises:
        ValueError: colour and alpha of different sizes.
    """
    if colour.shape[:2] != alpha.shape:
        raise ValueError(f"colour of {colour.shape[:2]} with alpha of {alpha.shape}")
    hidden = alpha == 0
    if not hidden.any():
        return colour
    # Channel planes: running sums along rows and columns are then long runs in memory.
    visible = np.stack([alpha, *(alpha * plane for plane in np.moveaxis(colour, -1, 0))])
    filled = colour.copy()
    for radius in _RADII:
        total = _box_sum(_box_sum(visible, radius, axis=2), radius, axis=1)
        reached = hidden & (total[0] > 0)
        filled[reached] = (total[1:, reached] / total[0, reached]).T
        hidden &= ~reached
        if not hidden.any():
            return filled
    filled[hidden] = _UNREACHED
    return filled


def without_alpha(pixels: NDArray[Any]) -> NDArray[Any] | None:
    """A picture without its alpha channel if that hides nothing, else None.

    Args:
        pixels: (H, W, C), integers; the channel is there where C is 2 or 4.
    """
    if pixels.shape[2] not in (2, 4):
        return pixels
    opaque = bool((pixels[..., -1] == np.iinfo(pixels.dtype).max).all())
    return pixels[..., :-1] if opaque else None


def _box_sum(x: NDArray[np.float32], radius: int, axis: int) -> NDArray[np.float32]:
    """Sums over 2 radius + 1 neighbours along an axis, nothing beyond the border; radius is a power of two.

    Built by doubling instead of from cumulative sums: every sum is made of its own neighbours only,
    in the same order anywhere, so it is exactly 0 over zeros and the same in every band.
    """
    padding = [(0, 0)] * x.ndim
    padding[axis] = (radius, radius)
    padded = np.moveaxis(np.pad(x, padding), axis, 0)
    sums, length = padded, 1
    while length <= radius:
        sums = sums[:-length] + sums[length:]
        length *= 2
    return np.moveaxis(sums[:-1] + padded[2 * radius :], 0, axis)
