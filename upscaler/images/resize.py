"""Bicubic resizing that agrees with MATLAB's ``imresize``, the resizer behind the published benchmarks.

The kernel is the cubic convolution of Keys, "Cubic convolution interpolation for digital image
processing", IEEE TASSP 29(6), 1981, equation 15 (a = -1/2). Where an axis shrinks, the kernel is
stretched by 1 / scale, which is the antialiasing. Pixel centres of the two grids are aligned so that
the picture's outer edges coincide. The axis with the smaller scale goes first, rows first if equal.

Border rule: beyond its edge the picture is mirrored, the edge pixel included (... 2 1 | 1 2 ...),
as often as the kernel's width asks for.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32])

_KERNEL_WIDTH = 4
_BLOCK = 32
"""Output pixels that share one dense matrix: long enough for BLAS, short enough to hold few zeros."""

_STRIP = 32
"""Rows that are transposed at once: few enough for the processor's cache."""

_HALF = 0.5 + 1e-9
"""What rounds halves up, also those that the order of a sum moved a hair below: the same on every machine."""


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The (height, width) that MATLAB gives a picture that is resized by a factor: each rounded up."""
    return ceil(height * scale), ceil(width * scale)


def resize(pixels: Pixels, height: int, width: int, scale: float | None = None) -> Pixels:
    """Resize a picture.

    Args:
        pixels: (H, W, C), uint8, uint16 or float32, any range.
        height: rows of the result.
        width: columns of the result.
        scale: output pixels per input pixel along both axes. None is MATLAB's rule for a given size,
            ``height / H`` and ``width / W``. Give the factor together with its ``scaled_size`` for
            MATLAB's rule for a given factor: where H * scale is not whole, the two differ.

    Returns:
        (height, width, C) of the same type. Integers are computed in double precision, then rounded
        (halves up) and clamped after each of the two passes, as MATLAB does; floats may overshoot.

    Raises:
        TypeError: another type of pixels.
        ValueError: a size below 1, or a scale that is not above 0.
    """
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise TypeError(f"resize takes uint8, uint16 or float32 pixels, not {pixels.dtype}")
    rows, columns = _axis(pixels.shape[0], height, scale), _axis(pixels.shape[1], width, scale)
    if rows.scale <= columns.scale:
        return _resample_columns(_resample_rows(pixels, rows, 0, height), columns)
    return _resample_rows(_resample_columns(pixels, columns), rows, 0, height)


def resize_tensor(x: Tensor, height: int, width: int) -> Tensor:
    """Resize pictures on their device, differentiably.

    Args:
        x: (N, C, H, W), floating point, any range.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (N, C, height, width) of the same type and on the same device, not rounded and not clamped.
        Autocast does not apply; matrix products on CUDA have TF32's precision only where the caller
        allows TF32.

    Raises:
        TypeError: integer pictures, which would need rounding.
        ValueError: a size below 1.
    """
    import torch

    if not x.is_floating_point():
        raise TypeError(f"resize_tensor takes floating-point pictures, not {x.dtype}")
    rows, columns = _axis(x.shape[-2], height), _axis(x.shape[-1], width)
    with torch.autocast(x.device.type, enabled=False):
        for axis, dim in sorted([(rows, -2), (columns, -1)], key=lambda pass_: pass_[0].scale):
            pieces = []
            for first, matrix in _matrices(axis.length, axis.out_length, x.device, x.dtype):
                part = x.narrow(dim, first, matrix.shape[1])
                pieces.append(matrix @ part if dim == -2 else part @ matrix.T)
            x = torch.cat(pieces, dim)
    return x


class BandResizer:
    """Resizes a picture that is never in memory as a whole, in bands of full rows.

    Every band equals the same rows of ``resize`` of the whole float picture, up to float32 rounding.

    Args:
        in_height: rows of the whole input picture.
        in_width: columns of the input.
        out_height: rows of the whole result.
        out_width: columns of the result.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, in_height: int, in_width: int, out_height: int, out_width: int) -> None:
        self._rows = _axis(in_height, out_height)
        self._columns = _axis(in_width, out_width)

    def needed(self, top: int, bottom: int) -> tuple[int, int]:
        """The input rows [first, last) that the output rows [top, bottom) are made from.

        Raises:
            ValueError: rows that the result does not have, or none at all.
        """
        if not 0 <= top < bottom <= self._rows.out_length:
            raise ValueError(f"rows {top} to {bottom} of a result with {self._rows.out_length}")
        return self._rows.needed(top, bottom)

    def rows(self, window: NDArray[np.float32], top: int, bottom: int) -> NDArray[np.float32]:
        """The output rows [top, bottom).

        Args:
            window: (last - first, in_width, C), the input rows ``needed(top, bottom)``, any range.
            top: first output row.
            bottom: the row after the last one.

        Returns:
            (bottom - top, out_width, C).

        Raises:
            ValueError: rows that the result does not have, or another window than the needed one.
        """
        first, last = self.needed(top, bottom)
        expected = (last - first, self._columns.length)
        if window.shape[:2] != expected:
            raise ValueError(f"rows {top} to {bottom} need a window of {expected}, not {window.shape[:2]}")
        if self._rows.scale <= self._columns.scale:
            return _resample_columns(_resample_rows(window, self._rows, top, bottom, first), self._columns)
        return _resample_rows(_resample_columns(window, self._columns), self._rows, top, bottom, first)


class _Block(NamedTuple):
    """A run of output pixels along one axis as a matrix product with the input pixels from ``first`` on."""

    start: int
    first: int
    matrix: NDArray[np.float64]


class _Axis:
    """How one axis of a picture is resized; a scale of None is the quotient of the lengths.

    ``indices`` and ``weights``, both (out_length, taps), say which input pixels make each output pixel;
    ``blocks`` say the same as matrices.
    """

    def __init__(self, length: int, out_length: int, scale: float | None) -> None:
        if length < 1 or out_length < 1 or (scale is not None and not scale > 0):
            at = "" if scale is None else f" at scale {scale}"
            raise ValueError(f"{length} pixels cannot be resized to {out_length}{at}")
        self.length = length
        self.out_length = out_length
        self.scale = out_length / length if scale is None else scale
        stretch = min(self.scale, 1.0)
        width = _KERNEL_WIDTH / stretch
        centre = (np.arange(out_length) + 0.5) / self.scale - 0.5
        indices = np.floor(centre - width / 2).astype(np.int64)[:, None] + np.arange(ceil(width) + 2)
        weights = _cubic(stretch * (centre[:, None] - indices))
        indices %= 2 * length
        self.indices = np.where(indices < length, indices, 2 * length - 1 - indices)
        self.weights = weights / weights.sum(axis=1, keepdims=True)
        self.blocks = [self._block(start) for start in range(0, out_length, _BLOCK)]

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """The input pixels [first, last) that have weight in the output pixels [start, stop)."""
        used = self.indices[start:stop][self.weights[start:stop] != 0]
        return int(used.min()), int(used.max()) + 1

    def _block(self, start: int) -> _Block:
        weights = self.weights[start : start + _BLOCK]
        first, last = self.needed(start, start + _BLOCK)
        outputs, taps = np.nonzero(weights)
        matrix = np.zeros((len(weights), last - first))
        np.add.at(matrix, (outputs, self.indices[start + outputs, taps] - first), weights[outputs, taps])
        return _Block(start, first, matrix)


@lru_cache(maxsize=16)
def _axis(length: int, out_length: int, scale: float | None = None) -> _Axis:
    return _Axis(length, out_length, scale)


@lru_cache(maxsize=16)
def _matrices(length: int, out_length: int, device: torch.device, dtype: torch.dtype) -> list[tuple[int, Tensor]]:
    """The blocks of an axis on a device, sent there once: the first input pixel and the matrix of each."""
    import torch

    from upscaler.transfers import sent

    with torch.inference_mode(False):  # so that they can be used where gradients are wanted
        blocks = _axis(length, out_length).blocks
        return [(block.first, sent(torch.from_numpy(block.matrix).to(dtype), device)) for block in blocks]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _resample_rows(x: Pixels, axis: _Axis, top: int, bottom: int, first: int = 0) -> Pixels:
    """Output rows [top, bottom) from ``x``, which holds the input rows from ``first`` on that they need."""
    flat = x.reshape(len(x), -1)
    out = np.empty((bottom - top, flat.shape[1]), x.dtype)
    precision = np.float32 if x.dtype == np.float32 else np.float64
    for block in axis.blocks[top // _BLOCK : ceil(bottom / _BLOCK)]:
        a = max(top - block.start, 0)
        b = min(bottom - block.start, len(block.matrix))
        left = max(first - block.first, 0)
        right = min(first + len(x) - block.first, block.matrix.shape[1])
        matrix = block.matrix[a:b, left:right].astype(precision)
        window = flat[block.first + left - first : block.first + right - first]
        result = matrix @ window.astype(precision, copy=False)
        if x.dtype != np.float32:
            result = np.clip(np.floor(result + _HALF), 0, 2 ** (8 * x.dtype.itemsize) - 1)
        out[block.start + a - top : block.start + b - top] = result
    return out.reshape(bottom - top, *x.shape[1:])


def _resample_columns(x: Pixels, axis: _Axis) -> Pixels:
    out = np.empty((len(x), axis.out_length, *x.shape[2:]), x.dtype)
    for top in range(0, len(x), _STRIP):
        columns = np.ascontiguousarray(x[top : top + _STRIP].swapaxes(0, 1))
        out[top : top + _STRIP] = _resample_rows(columns, axis, 0, axis.out_length).swapaxes(0, 1)
    return out
