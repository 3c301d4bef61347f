from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upscaler.images.resize import resize
from upscaler.images.rows import FloatArray, Rows, band_rows, resized


def noise(height: int, width: int = 4) -> FloatArray:
    return np.random.default_rng(height * 1000 + width).random((height, width, 3), np.float32)


def in_bands(pixels: FloatArray, band: int) -> Rows:
    height, width, channels = pixels.shape
    return Rows(height, width, channels, (pixels[top : top + band] for top in range(0, height, band)))


@given(st.integers(1, 60), st.integers(1, 70), st.lists(st.tuples(st.integers(0, 59), st.integers(1, 60)), max_size=9))
@settings(deadline=None, max_examples=60)
def test_a_window_is_those_rows(height: int, band: int, windows: list[tuple[int, int]]) -> None:
    pixels = noise(height)
    rows = in_bands(pixels, band)
    for top, length in sorted(windows):
        if top < height:
            bottom = min(top + length, height)
            np.testing.assert_array_equal(rows.window(top, bottom), pixels[top:bottom])


def test_a_window_in_one_band_is_no_copy() -> None:
    pixels = noise(20)
    assert np.shares_memory(in_bands(pixels, 10).window(3, 9), pixels)


def test_no_more_is_made_than_was_asked_for() -> None:
    made = []

    def bands() -> Iterator[FloatArray]:
        for number in range(5):
            made.append(number)
            yield noise(10)

    rows = Rows(50, 4, 3, bands())
    assert made == []
    rows.window(0, 10)
    assert made == [0]
    rows.window(25, 31)
    assert made == [0, 1, 2, 3]


def test_bands_above_the_window_are_freed() -> None:
    made: list[weakref.ref[FloatArray]] = []

    def bands() -> Iterator[FloatArray]:
        for _ in range(5):
            band = noise(10)
            made.append(weakref.ref(band))
            yield band

    rows = Rows(50, 4, 3, bands())
    for top in range(0, 40, 10):
        rows.window(top, top + 11)
        assert [number for number, band in enumerate(made) if band() is not None] == [top // 10, top // 10 + 1]


def test_forgotten_rows_are_refused() -> None:
    pixels = noise(40)
    rows = in_bands(pixels, 8)
    rows.window(10, 12)
    np.testing.assert_array_equal(rows.window(10, 30), pixels[10:30])
    with pytest.raises(ValueError, match="rows from 9 on were asked for, but those above 10 are forgotten"):
        rows.window(9, 12)


@pytest.mark.parametrize(("top", "bottom"), [(-1, 2), (3, 3), (4, 2), (6, 11)])
def test_rows_outside_the_picture_are_refused(top: int, bottom: int) -> None:
    with pytest.raises(ValueError, match="of a picture with 10"):
        in_bands(noise(10), 4).window(top, bottom)


def test_bands_that_end_early_are_an_error() -> None:
    rows = Rows(10, 4, 3, [noise(7)])
    rows.window(0, 7)
    with pytest.raises(ValueError, match="of a picture with 10 rows ended after 7"):
        rows.window(0, 8)


@pytest.mark.parametrize("size", [1, 7, 30, 31, 500])
def test_bands_are_the_whole_picture(size: int) -> None:
    pixels = noise(31)
    bands = list(in_bands(pixels, 13).bands(size))
    assert {len(band) for band in bands[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate(bands), pixels)


@pytest.mark.parametrize("before", [(1, 1), (3, 5), (200, 9)])
@pytest.mark.parametrize("after", [(1, 1), (3, 5), (4 * band_rows(20) + 3, 20), (150, 150)])
@pytest.mark.parametrize("band", [1, 50])
def test_resized_equals_resize(before: tuple[int, int], after: tuple[int, int], band: int) -> None:
    pixels = noise(*before)
    rows = resized(in_bands(pixels, band), *after)
    assert (rows.height, rows.width, rows.channels) == (*after, 3)
    np.testing.assert_allclose(np.concatenate(list(rows.bands(64))), resize(pixels, *after), atol=2e-6)


def test_resized_to_its_own_size_is_the_same_object() -> None:
    rows = in_bands(noise(9), 2)
    assert resized(rows, 9, 4) is rows
