"""From a picture's bytes to a network's numbers and back, whole or in tiles, as Real-ESRGAN's script does it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Run = Callable[[Floats], Floats]
"""A network: (1, 3, H, W) to (1, 3, 4 H, 4 W)."""

TILE, PAD = 256, 10


def tiled(run: Run) -> Run:
    """The same in tiles, one after another, each with some of the picture around it that is cut off again."""

    def by_tiles(x: Floats) -> Floats:
        height, width = x.shape[2:]
        out = np.zeros((1, 3, 4 * height, 4 * width), np.float32)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                bottom, right = min(top + TILE, height), min(left + TILE, width)
                above, before = max(top - PAD, 0), max(left - PAD, 0)
                tile = run(x[..., above : min(bottom + PAD, height), before : min(right + PAD, width)])
                rows = slice(4 * (top - above), 4 * (bottom - above))
                columns = slice(4 * (left - before), 4 * (right - before))
                out[..., 4 * top : 4 * bottom, 4 * left : 4 * right] = tile[..., rows, columns]
        return out

    return by_tiles


def enlarged(run: Run, pixels: Pixels) -> Pixels:
    """(H, W, 3) to (4 H, 4 W, 3)."""
    x = np.ascontiguousarray((pixels.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None])
    out = np.clip(run(x)[0], 0, 1).transpose(1, 2, 0)
    rounded: Pixels = np.round(out * np.float32(255)).astype(np.uint8)
    return rounded
