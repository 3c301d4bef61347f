"""The transforms of Winograd's F(4x4, 3x3), compiled by numba; ``winograd.py`` imports this file when it needs it.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv:1509.09308), section 4.3: a tile of
4 x 4 results is A^T [(G g G^T) * (B^T d B)] A of the 6 x 6 inputs d around it. Here d becomes B^T d B (``spread``),
products become results (``gather``), and the gradient of results that of products (``spread_gradients``).

Pictures are (N, H, W, C), contiguous float32. Tiles are numbered over all pictures, row by row. Transformed tiles are
(36, tiles, C): the place in the tile, the tile counted from the first one of a call, the channel. Their channels are
multiples of 16, so that sixteen at a time are vectors; those that a picture does not have are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
"""Channels that are worked on together."""

_Floats = NDArray[np.float32]
_Matrix = tuple[tuple[int, ...], ...]
_AT: _Matrix = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_A: _Matrix = tuple(zip(*_AT, strict=True))
_BT: _Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)

_Arguments = ParamSpec("_Arguments")


def _kernel(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Compiled when it is first called, kept in numba's cache, and run by several threads."""
    return njit(boundscheck=False, error_model="numpy", parallel=True, nogil=True, cache=True)(function)


def _helper(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Compiled as part of the kernels that call it."""
    return njit(boundscheck=False, error_model="numpy")(function)


def _instructions(function: Callable[..., Any]) -> Any:
    """A function that compiled code calls without its first argument: it says by which instructions."""
    return intrinsic(function)


_VECTOR = ir.VectorType(ir.FloatType(), LANES)
# Contraction to fused multiply-add depends neither on timing nor on threads.
_CONTRACT = ("contract",)


def _place(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Pointer to sixteen floats of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


def _multiplication(matrix: _Matrix) -> Any:
    """A function that multiplies vectors by a matrix: ``(source, start, step, to, start, step)``.

    It reads 16 floats at ``start``, at ``start + step`` and so on from one array and writes as many for every row of
    the matrix to the other; places are counted in floats. Loops over channels did not become vector instructions
    reliably: the compiler cannot see that what is written does not lie where the next is read.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        source, start, step, to, first, stride = arguments

        def offset(begin: Any, width: Any, number: int) -> Any:
            return builder.add(begin, builder.mul(width, ir.Constant(width.type, number)))

        places = [_place(context, builder, kinds[0], source, offset(start, step, i)) for i in range(len(matrix[0]))]
        values = [builder.load(place, align=4) for place in places]
        for number, row in enumerate(matrix):
            total = None
            for factor, value in zip(row, values, strict=True):
                if factor:
                    term = builder.fmul(value, ir.Constant(_VECTOR, [float(factor)] * LANES), flags=_CONTRACT)
                    total = term if total is None else builder.fadd(total, term, flags=_CONTRACT)
            builder.store(total, _place(context, builder, kinds[3], to, offset(first, stride, number)), align=4)
        return context.get_dummy_value()

    @_instructions
    def multiply(typing: Any, source: Any, start: Any, step: Any, to: Any, first: Any, stride: Any) -> Any:  # noqa: ARG001
        return types.void(source, types.int64, types.int64, to, types.int64, types.int64), generate

    return multiply


@_instructions
def _activate(typing: Any, values: Any, start: Any, bias: Any, slope: Any, channel: Any) -> Any:  # noqa: ARG001
    """Sixteen values at ``start``, in place: the bias is added, then what is negative is multiplied by the slope."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = _place(context, builder, kinds[0], arguments[0], arguments[1])
        biases, slopes = (
            builder.load(_place(context, builder, kinds[i], arguments[i], arguments[4]), align=4) for i in (2, 3)
        )
        value = builder.fadd(builder.load(place, align=4), biases)
        positive = builder.fcmp_ordered(">", value, ir.Constant(_VECTOR, [0.0] * LANES))
        builder.store(builder.select(positive, value, builder.fmul(value, slopes)), place, align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, bias, slope, types.int64), generate


@_instructions
def _add(typing: Any, values: Any, start: Any, factor: Any, base: Any, first: Any) -> Any:  # noqa: ARG001
    """Sixteen values at ``start``, in place: multiplied by the factor and added to those of ``base``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = _place(context, builder, kinds[0], arguments[0], arguments[1])
        before = builder.load(_place(context, builder, kinds[3], arguments[3], arguments[4]), align=4)
        factors = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            factors = builder.insert_element(factors, arguments[2], ir.Constant(ir.IntType(32), lane))
        term = builder.fmul(builder.load(place, align=4), factors, flags=_CONTRACT)
        builder.store(builder.fadd(before, term, flags=_CONTRACT), place, align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.float32, base, types.int64), generate


_to_inputs = _multiplication(_BT)
_to_results = _multiplication(_AT)
_to_gradients = _multiplication(_A)
_copy = _multiplication(((1,),))


@_helper
def _patch(x: _Floats, doubling: int, n: int, top: int, left: int, edge: int, start: int, to: _Floats) -> None:
    """``edge`` x ``edge`` pixels to (edge * edge, 16); zeros outside the picture and beyond its channels."""
    height, width = x.shape[1] << doubling, x.shape[2] << doubling
    lanes = min(LANES, x.shape[3] - start)
    for i in range(edge):
        for j in range(edge):
            line, y, column = to[(i * edge + j) * LANES :], top + i, left + j
            if 0 <= y < height and 0 <= column < width:
                pixel = x[n, y >> doubling, column >> doubling, start:]
                for c in range(lanes):
                    line[c] = pixel[c]
                for c in range(lanes, LANES):
                    line[c] = 0
            else:
                for c in range(LANES):
                    line[c] = 0


def share(threads: int) -> None:
    """Let so many threads, or all that numba has, take part in what this thread calls."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, most))


def shares_threads() -> bool:
    """Whether what was called ran on OpenMP's threads, which are PyTorch's."""
    layer: str = numba.threading_layer()  # type: ignore[attr-defined]
    return layer == "omp"


@_kernel
def spread(x: _Floats, doubling: int, first: int, v: _Floats, channel: int, parts: int) -> None:
    """Tiles of pictures to B^T d B.

    Args:
        x: (N, H, W, C).
        doubling: 1 to take the pictures as if enlarged twice by nearest neighbour, else 0.
        first: tile that becomes ``v[:, 0]``.
        v: (36, tiles, channels), contiguous.
        channel: of ``v`` that becomes the first one of ``x``.
        parts: in which the work is shared out.
    """
    height, width, channels = x.shape[1] << doubling, x.shape[2] << doubling, x.shape[3]
    rows, columns = (height + 3) // 4, (width + 3) // 4
    tiles, wide = v.shape[1], v.shape[2]
    patches, halves = np.empty((parts, 36 * LANES), np.float32), np.empty((parts, 36 * LANES), np.float32)
    for part in prange(parts):
        patch, half = patches[part], halves[part]
        for tile in range(tiles * part // parts, tiles * (part + 1) // parts):
            n, place = divmod(first + tile, rows * columns)
            top, left = place // columns * 4 - 1, place % columns * 4 - 1
            inside = doubling == 0 and top >= 0 and left >= 0 and top + 6 <= height and left + 6 <= width
            for start in range(0, channels, LANES):
                if inside and start + LANES <= channels:
                    corner = ((n * height + top) * width + left) * channels + start
                    for j in range(6):
                        _to_inputs(x, corner + j * channels, width * channels, half, j * LANES, 6 * LANES)
                else:
                    _patch(x, doubling, n, top, left, 6, start, patch)
                    for j in range(6):
                        _to_inputs(patch, j * LANES, 6 * LANES, half, j * LANES, 6 * LANES)
                goal, plane = tile * wide + channel + start, tiles * wide
                for i in range(6):
                    _to_inputs(half, 6 * i * LANES, LANES, v, goal + 6 * i * plane, plane)


@_kernel
def spread_gradients(dy: _Floats, first: int, dm: _Floats, parts: int) -> None:
    """Tiles of the results' gradient to A dY A^T, the gradient of the products.

    Args:
        dy: (N, H, W, C).
        first: tile that becomes ``dm[:, 0]``.
        dm: (36, tiles, C rounded up to 16), contiguous.
        parts: in which the work is shared out.
    """
    height, width, channels = dy.shape[1], dy.shape[2], dy.shape[3]
    rows, columns = (height + 3) // 4, (width + 3) // 4
    tiles, wide = dm.shape[1], dm.shape[2]
    patches, halves = np.empty((parts, 16 * LANES), np.float32), np.empty((parts, 24 * LANES), np.float32)
    for part in prange(parts):
        patch, half = patches[part], halves[part]
        for tile in range(tiles * part // parts, tiles * (part + 1) // parts):
            n, place = divmod(first + tile, rows * columns)
            top, left = place // columns * 4, place % columns * 4
            inside = top + 4 <= height and left + 4 <= width
            for start in range(0, channels, LANES):
                if inside and start + LANES <= channels:
                    corner = ((n * height + top) * width + left) * channels + start
                    for j in range(4):
                        _to_gradients(dy, corner + j * channels, width * channels, half, j * LANES, 4 * LANES)
                else:
                    _patch(dy, 0, n, top, left, 4, start, patch)
                    for j in range(4):
                        _to_gradients(patch, j * LANES, 4 * LANES, half, j * LANES, 4 * LANES)
                goal, plane = tile * wide + start, tiles * wide
                for i in range(6):
                    _to_gradients(half, 4 * i * LANES, LANES, dm, goal + 6 * i * plane, plane)


@_kernel
def gather(
    m: _Floats, bias: _Floats, slope: _Floats, base: _Floats, factor: np.float32, first: int, y: _Floats, parts: int
) -> None:
    """Products to tiles of pictures: ``activation(A^T M A + bias)``, or ``base + factor * `` that.

    Args:
        m: (36, tiles, C rounded up to 16), contiguous.
        bias: as many numbers as ``m`` has channels.
        slope: as many, by which negative values are multiplied; 1 is no activation.
        base: (N, H, W, C), not ``y`` itself; without elements, nothing is added to.
        factor: on what is added to ``base``.
        first: tile that is ``m[:, 0]``.
        y: (N, H, W, C), of which these tiles are filled.
        parts: in which the work is shared out.
    """
    height, width, channels = y.shape[1], y.shape[2], y.shape[3]
    rows, columns = (height + 3) // 4, (width + 3) // 4
    tiles, wide = m.shape[1], m.shape[2]
    before, after, added = base.reshape(-1), y.reshape(-1), base.size > 0
    halves, dones = np.empty((parts, 24 * LANES), np.float32), np.empty((parts, 16 * LANES), np.float32)
    for part in prange(parts):
        half, done = halves[part], dones[part]
        for tile in range(tiles * part // parts, tiles * (part + 1) // parts):
            n, place = divmod(first + tile, rows * columns)
            top, left = place // columns * 4, place % columns * 4
            for start in range(0, channels, LANES):
                goal, plane = tile * wide + start, tiles * wide
                for j in range(6):
                    _to_results(m, goal + j * plane, 6 * plane, half, j * LANES, 6 * LANES)
                for i in range(4):
                    _to_results(half, 6 * i * LANES, LANES, done, 4 * i * LANES, LANES)
                lanes = min(LANES, channels - start)
                for i in range(min(4, height - top)):
                    for j in range(min(4, width - left)):
                        values = (4 * i + j) * LANES
                        pixel = ((n * height + top + i) * width + left + j) * channels + start
                        _activate(done, values, bias, slope, start)
                        if lanes == LANES:
                            if added:
                                _add(done, values, factor, base, pixel)
                            _copy(done, values, 0, y, pixel, 0)
                        else:
                            for c in range(lanes):
                                value = done[values + c]
                                after[pixel + c] = before[pixel + c] + factor * value if added else value
