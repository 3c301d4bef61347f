from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from upscaler.images.resize import BandResizer, resize, resize_tensor, scaled_size

SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (4, 4)),
    ((3, 5), (1, 1)),
    ((3, 5), (12, 20)),
    ((3, 5), (2, 7)),
    ((5, 3), (7, 2)),
    ((16, 12), (4, 3)),
    ((9, 40), (100, 33)),
    ((37, 50), (10, 13)),
    ((64, 2), (3, 2)),
]


def keys(x: float) -> float:
    """Equation 15 of Keys 1981, written out."""
    x = abs(x)
    if x < 1:
        return 3 / 2 * x**3 - 5 / 2 * x**2 + 1
    if x < 2:
        return -1 / 2 * x**3 + 5 / 2 * x**2 - 4 * x + 2
    return 0


def mirrored(index: int, length: int) -> int:
    while not 0 <= index < length:
        index = -1 - index if index < 0 else 2 * length - 1 - index
    return index


def slow_column(column: NDArray[np.float64], out_length: int, scale: float) -> list[float]:
    stretch = min(scale, 1)
    result = []
    for out in range(out_length):
        centre = (out + 0.5) / scale - 0.5
        reach = math.ceil(2 / stretch) + 1
        total = weights = 0.0
        for index in range(math.floor(centre) - reach, math.floor(centre) + reach + 1):
            weight = keys(stretch * (centre - index))
            total += weight * column[mirrored(index, len(column))]
            weights += weight
        result.append(total / weights)
    return result


def slow_resize(pixels: NDArray[Any], height: int, width: int, scale: float | None = None) -> NDArray[Any]:
    """The definition, a pixel at a time; integers rounded after each pass."""
    scales = (scale or height / pixels.shape[0], scale or width / pixels.shape[1])
    x = pixels.astype(np.float64)
    for axis in (0, 1) if scales[0] <= scales[1] else (1, 0):
        x = np.apply_along_axis(slow_column, axis, x, (height, width)[axis], scales[axis])
        if pixels.dtype != np.float32:
            x = np.clip(np.floor(x + 0.5 + 1e-9), 0, np.iinfo(pixels.dtype).max)
    return x.astype(pixels.dtype)


def noise(height: int, width: int, dtype: type[Any] = np.float32, channels: int = 2) -> NDArray[Any]:
    random = np.random.default_rng(height * 1000 + width)
    if dtype is np.float32:
        return random.random((height, width, channels), np.float32)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def impulse(length: int, at: int, value: float) -> NDArray[np.float32]:
    x = np.zeros((length, 1, 1), np.float32)
    x[at] = value
    return x


def test_doubling_spreads_a_pixel_by_the_kernel_at_quarter_steps() -> None:
    spread = resize(impulse(9, 4, 128), 18, 1)[4:14, 0, 0]
    assert spread.tolist() == [0, -3, -9, 29, 111, 111, 29, -9, -3, 0]


def test_halving_gathers_eight_pixels() -> None:
    gathered = [resize(impulse(16, at, 256), 8, 1)[4, 0, 0] for at in range(4, 14)]
    assert gathered == [0, -3, -9, 29, 111, 111, 29, -9, -3, 0]


def test_the_border_is_mirrored_with_the_edge_pixel_included() -> None:
    # At -0.25: -3, 29 and -9 of 128 parts lie on mirrored pixels 1, 0 and beyond.
    top = [resize(impulse(6, at, 128), 12, 1)[0, 0, 0] for at in range(4)]
    assert top == [29 + 111, -9 - 3, 0, 0]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_equal_the_definition(before: tuple[int, int], after: tuple[int, int], dtype: type[Any]) -> None:
    pixels = noise(*before, dtype)
    result = resize(pixels, *after)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, slow_resize(pixels, *after))


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_floats_equal_the_definition(before: tuple[int, int], after: tuple[int, int]) -> None:
    pixels = noise(*before)
    np.testing.assert_allclose(resize(pixels, *after), slow_resize(pixels, *after), atol=2e-6)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
@settings(deadline=None, max_examples=40)
def test_any_ratio_equals_the_definition(before: tuple[int, int], after: tuple[int, int]) -> None:
    pixels = noise(*before, np.uint8, 1)
    np.testing.assert_array_equal(resize(pixels, *after), slow_resize(pixels, *after))


@pytest.mark.parametrize("scale", [0.25, 0.3, 1 / 3, 0.7, 1.5, 2.2, 4])
def test_a_factor_is_not_the_quotient_of_the_sizes(scale: float) -> None:
    pixels = noise(11, 7, np.uint8)
    height, width = scaled_size(11, 7, scale)
    assert (height, width) == (math.ceil(11 * scale), math.ceil(7 * scale))
    np.testing.assert_array_equal(resize(pixels, height, width, scale), slow_resize(pixels, height, width, scale))


def test_integers_are_rounded_after_each_pass() -> None:
    pixels = noise(40, 40, np.uint8)
    once = np.clip(np.floor(resize(pixels.astype(np.float32), 10, 10) + 0.5), 0, 255)
    difference = np.abs(resize(pixels, 10, 10) - once)
    assert difference.max() == 1


def test_halves_are_rounded_up() -> None:
    # The middle of two pixels at a sixth of the size is their mean, 2.5.
    pixels = np.repeat(np.array([2, 3], np.uint8), 3)[:, None, None]
    assert resize(pixels, 1, 1).item() == 3


def test_the_same_size_is_the_same_picture() -> None:
    pixels = noise(33, 35)
    np.testing.assert_array_equal(resize(pixels, 33, 35), pixels)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_plain_picture_stays_plain(value: int) -> None:
    pixels = np.full((7, 9, 3), value, np.uint8)
    for height, width in ((1, 1), (28, 36), (3, 50)):
        np.testing.assert_array_equal(resize(pixels, height, width), np.full((height, width, 3), value))


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be resized"):
        resize(noise(4, 4), *size)
    with pytest.raises(ValueError, match="cannot be resized"):
        resize_tensor(torch.zeros(1, 1, 4, 4), *size)
    with pytest.raises(ValueError, match="cannot be resized"):
        BandResizer(4, 4, *size)


@pytest.mark.parametrize("scale", [0.0, -2.0, math.nan])
def test_impossible_factors_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="at scale"):
        resize(noise(4, 4), 2, 2, scale)


def test_empty_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be resized"):
        resize(np.zeros((0, 4, 3), np.uint8), 2, 2)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        resize(np.zeros((4, 4, 3)), 2, 2)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="uint8"):
        resize_tensor(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2, 2)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_torch_equals_numpy(before: tuple[int, int], after: tuple[int, int]) -> None:
    pixels = noise(*before)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    result = resize_tensor(x, *after)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(result, resize(pixels, *after), atol=1e-5)


@pytest.mark.parametrize("size", [(7, 3), (2, 3), (9, 11)])
def test_gradients_flow(size: tuple[int, int]) -> None:
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize_tensor(x, *size), [x])


def test_autocast_does_not_apply() -> None:
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        result = resize_tensor(x, 4, 4)
    assert torch.equal(result, resize_tensor(x, 4, 4))


def test_the_type_of_a_tensor_stays() -> None:
    assert resize_tensor(torch.rand(1, 3, 8, 8).bfloat16(), 4, 4).dtype == torch.bfloat16


@given(
    st.tuples(st.integers(1, 150), st.integers(1, 40)),
    st.tuples(st.integers(1, 150), st.integers(1, 40)),
    st.sets(st.integers(1, 149)),
)
@settings(deadline=None, max_examples=100)
def test_bands_equal_the_whole(before: tuple[int, int], after: tuple[int, int], cuts: set[int]) -> None:
    pixels = noise(*before)
    resizer = BandResizer(*before, *after)
    edges = [0, *sorted(cut for cut in cuts if cut < after[0]), after[0]]
    windows = [resizer.needed(top, bottom) for top, bottom in pairwise(edges)]
    firsts = [first for first, _ in windows]
    assert firsts == sorted(firsts)
    bands = [
        resizer.rows(pixels[first:last], top, bottom)
        for (first, last), (top, bottom) in zip(windows, pairwise(edges), strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(bands), resize(pixels, *after), atol=2e-6)


def test_a_band_needs_few_rows() -> None:
    assert BandResizer(1000, 4, 4000, 16).needed(400, 500) == (98, 127)
    assert BandResizer(1000, 4, 250, 1).needed(100, 110) == (394, 446)


@pytest.mark.parametrize(("top", "bottom"), [(-1, 2), (3, 3), (4, 2), (6, 9)])
def test_rows_outside_the_result_are_refused(top: int, bottom: int) -> None:
    with pytest.raises(ValueError, match="of a result with 8"):
        BandResizer(4, 4, 8, 8).needed(top, bottom)


def test_another_window_is_refused() -> None:
    resizer = BandResizer(4, 4, 8, 8)
    with pytest.raises(ValueError, match=r"need a window of \(4, 4\), not \(3, 4\)"):
        resizer.rows(noise(3, 4), 0, 8)
