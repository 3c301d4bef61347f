"""The kernels of Winograd's F(4x4, 3x3), compiled by numba; ``winograd.py`` imports this file when it needs it.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv:1509.09308), section 4.3: a tile of
4 x 4 results is A^T [(G g G^T) * (B^T d B)] A of the 6 x 6 inputs d around it. Over many tiles and channels the
product in the middle is 36 products of matrices. Here d becomes B^T d B (``_spread``), is multiplied (``_multiply``),
and becomes results (``_gather``), a few tiles at a time, so that all of it stays in a processor's cache.

Pictures are (N, H, W, C), contiguous float32. Tiles are numbered over all pictures, row by row. Transformed tiles are
(36, tiles, C): the place in the tile, the tile, the channel. Their channels are multiples of 16, so that sixteen at a
time are vectors; those that a picture does not have are zero. All sums are made in one order, whatever the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from upscaler.model.winograd_instructions import (
    LANES,
    ROWS,
    activate,
    add,
    copy,
    multiply,
    multiply_onto,
    to_gradients,
    to_inputs,
    to_results,
)

_Floats = NDArray[np.float32]
_Arguments = ParamSpec("_Arguments")


def _kernel(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Compiled when it is first called, kept in numba's cache, and run by several threads."""
    return njit(boundscheck=False, error_model="numpy", parallel=True, nogil=True, cache=True)(function)


def _helper(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Compiled as part of the kernels that call it."""
    return njit(boundscheck=False, error_model="numpy")(function)


@_helper
def _patch(x: _Floats, doubling: int, n: int, top: int, left: int, edge: int, start: int, to: _Floats) -> None:
    """``edge`` x ``edge`` pixels to (edge * edge, 16); zeros outside the picture and beyond its channels."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    values = x.reshape(-1)
    for i in range(edge):
        for j in range(edge):
            place, y, column = (i * edge + j) * LANES, (top + i) >> doubling, (left + j) >> doubling
            inside = 0 <= y < height and 0 <= column < width
            pixel = ((n * height + y) * width + column) * channels + start
            if inside and start + LANES <= channels:
                copy(x, pixel, 0, to, place, 0)
            else:
                for c in range(LANES):
                    to[place + c] = values[pixel + c] if inside and start + c < channels else 0


@_helper
def _spread(
    x: _Floats, doubling: int, first: int, count: int, v: _Floats, origin: int, wide: int, plane: int, scratch: _Floats
) -> None:
    """``count`` tiles of pictures to B^T d B, at ``v[origin + place * plane + tile * wide + channel]``."""
    height, width, channels = x.shape[1] << doubling, x.shape[2] << doubling, x.shape[3]
    rows, columns = (height + 3) // 4, (width + 3) // 4
    patch, half = scratch[: 36 * LANES], scratch[36 * LANES :]
    for tile in range(count):
        n, place = divmod(first + tile, rows * columns)
        top, left = place // columns * 4 - 1, place % columns * 4 - 1
        inside = doubling == 0 and top >= 0 and left >= 0 and top + 6 <= height and left + 6 <= width
        for start in range(0, channels, LANES):
            if inside and start + LANES <= channels:
                corner = ((n * height + top) * width + left) * channels + start
                for j in range(6):
                    to_inputs(x, corner + j * channels, width * channels, half, j * LANES, 6 * LANES)
            else:
                _patch(x, doubling, n, top, left, 6, start, patch)
                for j in range(6):
                    to_inputs(patch, j * LANES, 6 * LANES, half, j * LANES, 6 * LANES)
            goal = origin + tile * wide + start
            for i in range(6):
                to_inputs(half, 6 * i * LANES, LANES, v, goal + 6 * i * plane, plane)


@_helper
def _multiply(v: _Floats, origin: int, wide: int, plane: int, blocks: int, u: _Floats, m: _Floats, line: int) -> None:
    """Transformed tiles times ``u``: ``ROWS * blocks`` of them to ``m[place * line + tile * O + channel]``."""
    lots, inputs = u.shape[1], u.shape[2]
    weights, outputs = u.reshape(-1), lots * LANES
    for place in range(36):
        for block in range(blocks):
            source, target = origin + place * plane + block * ROWS * wide, place * line + block * ROWS * outputs
            for lot in range(lots):
                right = (place * lots + lot) * inputs * LANES
                multiply(v, source, wide, 1, inputs, weights, right, LANES, m, target + lot * LANES, outputs)


@_helper
def _gather(
    m: _Floats,
    line: int,
    bias: _Floats,
    slope: _Floats,
    base: _Floats,
    factor: np.float32,
    first: int,
    count: int,
    y: _Floats,
    scratch: _Floats,
) -> None:
    """Products to ``count`` tiles of pictures: ``activation(A^T M A + bias)``, or ``base + factor *`` that."""
    height, width, channels = y.shape[1], y.shape[2], y.shape[3]
    rows, columns, wide = (height + 3) // 4, (width + 3) // 4, len(bias)
    before, after, added = base.reshape(-1), y.reshape(-1), base.size > 0
    half, done = scratch[: 24 * LANES], scratch[24 * LANES :]
    for tile in range(count):
        n, place = divmod(first + tile, rows * columns)
        top, left = place // columns * 4, place % columns * 4
        for start in range(0, channels, LANES):
            for j in range(6):
                to_results(m, tile * wide + start + j * line, 6 * line, half, j * LANES, 6 * LANES)
            for i in range(4):
                to_results(half, 6 * i * LANES, LANES, done, 4 * i * LANES, LANES)
            lanes = min(LANES, channels - start)
            for i in range(min(4, height - top)):
                for j in range(min(4, width - left)):
                    values = (4 * i + j) * LANES
                    pixel = ((n * height + top + i) * width + left + j) * channels + start
                    activate(done, values, bias, slope, start)
                    if lanes == LANES:
                        if added:
                            add(done, values, factor, base, pixel)
                        copy(done, values, 0, y, pixel, 0)
                    else:
                        for c in range(lanes):
                            value = done[values + c]
                            after[pixel + c] = before[pixel + c] + factor * value if added else value


def share(threads: int) -> None:
    """Let so many threads, or all that numba has, take part in what this thread calls."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, most))


def shares_threads() -> bool:
    """Whether what was called ran on OpenMP's threads, which are PyTorch's."""
    layer: str = numba.threading_layer()  # type: ignore[attr-defined]
    return layer == "omp"


@_kernel
def convolve(
    x: _Floats,
    doubling: int,
    first: int,
    tiles: int,
    v: _Floats,
    channel: int,
    kept: bool,
    u: _Floats,
    m: _Floats,
    bias: _Floats,
    slope: _Floats,
    base: _Floats,
    factor: np.float32,
    y: _Floats,
) -> None:
    """``activation(convolution + bias)``, or ``base + factor *`` that, for some of the tiles.

    Args:
        x: (N, H, W, C).
        doubling: 1 to take the pictures as if enlarged twice by nearest neighbour, else 0.
        first, tiles: the first one and their number.
        v: for transformed inputs: (parts, 36, tiles at a time, channels) or, where they are ``kept``, (1, 36, tiles
            rounded up to ``ROWS``, channels).
        channel: of ``v`` that is the first one of ``x``.
        kept: all inputs stay in ``v``, and those of other channels are there from earlier calls.
        u: (36, O / 16, I, 16), weights of the first I channels of ``v``; O is rounded up.
        m: (parts, 36, tiles at a time, O), for products; the tiles are a multiple of ``ROWS``, and one more that keeps
            the places of a tile from lying in the same few lines of the cache.
        bias: (O,).
        slope: (O,), by which negative values are multiplied; 1 is no activation.
        base: of the shape of ``y``, or ``y`` itself; without elements, nothing is added to.
        factor: on what is added to ``base``.
        y: (N, H, W, up to O), of which these tiles are filled.
    """
    parts, group = m.shape[0], m.shape[2] - 1
    wide, plane, line = v.shape[3], v.shape[2] * v.shape[3], m.shape[2] * m.shape[3]
    blocks = (tiles + ROWS - 1) // ROWS
    scratches = np.empty((parts, 72 * LANES), np.float32)
    for number in prange(parts):
        part = np.int64(number)  # what counts in parallel is unsigned, which does not mix with signed numbers
        inputs, products, scratch = v[0 if kept else part].reshape(-1), m[part].reshape(-1), scratches[part]
        stop = min(blocks * (part + 1) // parts * ROWS, tiles)
        for start in range(blocks * part // parts * ROWS, stop, group):
            count, origin = min(group, stop - start), start * wide if kept else 0
            _spread(x, doubling, first + start, count, inputs, origin + channel, wide, plane, scratch)
            _multiply(inputs, origin, wide, plane, (count + ROWS - 1) // ROWS, u, products, line)
            _gather(products, line, bias, slope, base, factor, first + start, count, y, scratch)


@_helper
def _spread_gradients(
    dy: _Floats, first: int, count: int, dm: _Floats, origin: int, wide: int, plane: int, scratch: _Floats
) -> None:
    """``count`` tiles of the results' gradient to A dY A^T, that of the products; sixteen channels are a matrix."""
    height, width, channels = dy.shape[1], dy.shape[2], dy.shape[3]
    rows, columns = (height + 3) // 4, (width + 3) // 4
    patch, half = scratch[: 36 * LANES], scratch[36 * LANES :]
    for tile in range(count):
        n, place = divmod(first + tile, rows * columns)
        top, left = place // columns * 4, place % columns * 4
        for start in range(0, channels, LANES):
            if top + 4 <= height and left + 4 <= width and start + LANES <= channels:
                corner = ((n * height + top) * width + left) * channels + start
                for j in range(4):
                    to_gradients(dy, corner + j * channels, width * channels, half, j * LANES, 4 * LANES)
            else:
                _patch(dy, 0, n, top, left, 4, start, patch)
                for j in range(4):
                    to_gradients(patch, j * LANES, 4 * LANES, half, j * LANES, 4 * LANES)
            goal = origin + tile * wide + start
            for i in range(6):
                to_gradients(half, 4 * i * LANES, LANES, dm, goal + 6 * i * plane, plane)


@_kernel
def weigh(x: _Floats, dy: _Floats, v: _Floats, dm: _Floats, du: _Floats, parts: int) -> None:
    """The gradient of transformed weights, V^T dM, added to ``du``.

    Args:
        x: (N, H, W, I).
        dy: (N, H, W, O), the gradient of results.
        v: (36, tiles at a time + 1, I rounded up), working memory.
        dm: (36, tiles at a time + 1, O rounded up), working memory.
        du: (36, I rounded up to ``ROWS`` and 16, O rounded up).
        parts: in which the work is shared out.
    """
    tiles = x.shape[0] * ((x.shape[1] + 3) // 4) * ((x.shape[2] + 3) // 4)
    band, wide, outputs = v.shape[1] - 1, v.shape[2], dm.shape[2]
    inputs, gradients, weights = v.reshape(-1), dm.reshape(-1), du.reshape(-1)
    plane, line, sheet = v.shape[1] * wide, dm.shape[1] * outputs, du.shape[1] * outputs
    scratches = np.empty((parts, 72 * LANES), np.float32)
    for first in range(0, tiles, band):
        count = min(band, tiles - first)
        for number in prange(parts):
            part = np.int64(number)
            start, stop = count * part // parts, count * (part + 1) // parts
            _spread(x, 0, first + start, stop - start, inputs, start * wide, wide, plane, scratches[part])
            _spread_gradients(
                dy, first + start, stop - start, gradients, start * outputs, outputs, line, scratches[part]
            )
        for number in prange(36):
            place = np.int64(number)
            for row in range(0, wide, ROWS):
                for channel in range(0, outputs, LANES):
                    multiply_onto(
                        inputs,
                        place * plane + row,
                        1,
                        wide,
                        count,
                        gradients,
                        place * line + channel,
                        outputs,
                        weights,
                        place * sheet + row * outputs + channel,
                        outputs,
                    )
