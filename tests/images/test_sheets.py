from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from upscaler.images.sheets import Picture, as_rgb, before_after, crops_sheet, heat_map, most_detailed, titled

RED, BLUE = (200, 30, 30), (30, 30, 200)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> Picture:
    return np.full((height, width, 3), colour, np.uint8)


def where(sheet: Picture, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of everything in that colour."""
    ys, xs = np.nonzero((sheet == colour).all(axis=2))
    return int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1


def lightness(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L* of sRGB."""
    value = colours / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return np.asarray(np.where(luminance <= 216 / 24389, luminance * 24389 / 27, 116 * np.cbrt(luminance) - 16))


@pytest.mark.parametrize(
    ("pixel", "shown"),
    [
        ([7], [7, 7, 7]),
        ([7, 255], [7, 7, 7]),
        ([7, 0], [128, 128, 128]),
        ([1, 2, 3, 255], [1, 2, 3]),
        ([255, 255, 0, 51], [153, 153, 102]),
        ([255, 255, 255, 255], [255, 255, 255]),
    ],
)
def test_any_picture_can_be_shown(pixel: list[int], shown: list[int]) -> None:
    pixels = np.full((2, 3, len(pixel)), pixel, np.uint8)
    for depth in (pixels, pixels * np.uint16(257)):
        rgb = as_rgb(depth)
        assert rgb.dtype == np.uint8
        np.testing.assert_array_equal(rgb, plain(2, 3, (shown[0], shown[1], shown[2])))


def test_sixteen_bits_are_rounded_to_eight() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    nearest = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(as_rgb(levels), np.repeat(nearest, 3, axis=2))


def test_rgb_is_shown_as_it_is() -> None:
    pixels = plain(3, 4, RED)
    assert as_rgb(pixels) is pixels


def test_before_and_after_stand_side_by_side_at_their_size() -> None:
    sheet = before_after(plain(90, 120, RED), plain(90, 120, BLUE))
    top, left, bottom, right = where(sheet, RED)
    assert (bottom - top, right - left) == (90, 120)
    assert where(sheet, BLUE) == (top, right + 8, bottom, right + 128)
    assert sheet.shape == (bottom, right + 128, 3)
    assert left == 0


def test_each_picture_has_its_own_label() -> None:
    pictures = plain(90, 120, RED), plain(90, 120, BLUE)
    sheet = before_after(*pictures, ("one", "two"))
    strip = where(sheet, RED)[0]
    swapped = before_after(*pictures, ("two", "one"))
    np.testing.assert_array_equal(sheet[:strip, :120], swapped[:strip, 128:])
    np.testing.assert_array_equal(sheet[:strip, 128:], swapped[:strip, :120])
    assert (sheet[:strip, :120] != sheet[:strip, 128:]).any()
    assert sheet[:strip, :120].max() > 200


def test_a_label_wider_than_the_picture_is_whole() -> None:
    label = "a label that is much wider"
    narrow = before_after(plain(90, 6, RED), plain(90, 6, BLUE), (label, ""))
    wide = before_after(plain(90, 300, RED), plain(90, 300, BLUE), (label, ""))
    strip = where(narrow, RED)[0]
    written = where(narrow, BLUE)[1] - 8
    np.testing.assert_array_equal(narrow[:strip, :written], wide[:strip, :written])
    assert wide[:strip, written:300].max() < 100


def test_large_pictures_are_reduced_and_their_most_detailed_part_is_shown() -> None:
    before, after = plain(1200, 2400, RED), plain(1200, 2400, BLUE)
    after[400:900:2, 1500:2000] = 255
    sheet = before_after(before, after)
    top, left = most_detailed(after, 1000, 1000)
    assert 0 <= top <= 400
    assert 1000 <= left <= 1500
    assert sheet.shape[1] == 2008
    np.testing.assert_array_equal(sheet[-1000:, :1000], before[top : top + 1000, left : left + 1000])
    np.testing.assert_array_equal(sheet[-1000:, 1008:], after[top : top + 1000, left : left + 1000])
    strip = where(sheet, RED)[0]
    assert sheet.shape[0] == 1000 + 500 + 2 * strip
    frame = where(sheet[strip : strip + 500, :1000], (255, 196, 0))
    np.testing.assert_allclose(frame, np.array([top, left, top + 1000, left + 1000]) / 2.4, atol=1)


@pytest.mark.parametrize("size", [(3, 2001), (2001, 3)])
def test_long_and_narrow_pictures_have_a_sheet(size: tuple[int, int]) -> None:
    sheet = before_after(plain(*size, RED), plain(*size, BLUE))
    assert sheet.dtype == np.uint8
    assert max(sheet.shape) < 2300


def test_pictures_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"before of \(4, 4, 3\) beside after of \(4, 5, 3\)"):
        before_after(plain(4, 4, RED), plain(4, 5, BLUE))


def test_the_most_detailed_part_is_found() -> None:
    random = np.random.default_rng(1)
    picture = plain(300, 400, RED)
    picture[170:234, 250:314] = random.integers(0, 256, (64, 64, 3), np.uint8)
    top, left = most_detailed(picture, 64, 64)
    assert abs(top - 170) <= 2
    assert abs(left - 250) <= 2


def test_a_detailed_corner_is_found() -> None:
    picture = plain(203, 301, RED)
    picture[-50::2, -60:] = 255
    top, left = most_detailed(picture, 80, 100)
    assert 203 - 80 - 2 <= top <= 203 - 80
    assert 301 - 100 - 3 <= left <= 301 - 100


def test_contrast_alone_is_not_detail() -> None:
    picture = plain(200, 200, (0, 0, 0))
    picture[:100] = np.linspace(0, 255, 200).astype(np.uint8)[:, None]
    picture[150:180:2, 20:60] = 120
    top, left = most_detailed(picture, 40, 50)
    assert 140 <= top <= 150
    assert 10 <= left <= 20


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 2)])
def test_a_window_larger_than_the_picture_is_the_picture(size: tuple[int, int]) -> None:
    assert most_detailed(plain(*size, RED), 50, 50) == (0, 0)


def test_a_heat_map_shows_equal_steps_as_equal_lightness() -> None:
    values = np.linspace(0, 4, 256, dtype=np.float32)[None].repeat(150, axis=0)
    sheet = heat_map(values, "levels")
    assert sheet.shape[0] == 150
    row = sheet[75, :256]
    np.testing.assert_allclose(lightness(row), np.linspace(0, 100, 256), atol=1)
    assert (row[0].tolist(), row[-1].tolist()) == ([0, 0, 0], [255, 255, 255])


def test_a_heat_map_ends_at_its_top_and_shows_the_unknown_as_grey() -> None:
    values = np.array([[0, 0.5, 1, 7, np.inf, np.nan, -1]], np.float32)
    row = heat_map(values, "levels", top=1)[0, :7].tolist()
    assert row[0] == row[6] == [0, 0, 0]
    assert row[2] == row[3] == row[4] == [255, 255, 255]
    assert row[5] == [128, 128, 128]
    assert lightness(np.array([row[1]], np.uint8)).item() == pytest.approx(50, abs=1)


def test_the_legend_runs_from_0_to_the_top() -> None:
    values = np.zeros((200, 30), np.float32)
    values[0, 0] = 3
    legend = heat_map(values, "levels")[:, 38:]
    frame = where(legend, (230, 230, 230))
    column = legend[:, frame[1] + 10]
    bar = column[np.flatnonzero((column == 230).all(axis=1))[0] + 1 :]
    steps = lightness(bar)[: np.flatnonzero((bar == 230).all(axis=1))[0]]
    assert len(steps) > 120
    assert (np.diff(steps) < 1e-6).all()
    assert (steps[0], steps[-1]) == (pytest.approx(100), pytest.approx(0))
    np.testing.assert_array_equal(legend, heat_map(values[:, :1], "levels", top=3)[:, 9:])
    assert not np.array_equal(legend, heat_map(values, "levels", top=4)[:, 38:])


def test_a_small_heat_map_has_a_legible_legend() -> None:
    sheet = heat_map(np.ones((2, 3), np.float32), "a longer unit")
    assert sheet.shape[0] == 120
    unit = sheet[:20, 11:]
    assert where(unit, (24, 24, 24)) == (0, 0, 20, unit.shape[1])
    assert unit[:, -5:].max() == 24


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.full((2, 2), np.nan)])
def test_a_map_of_nothing_is_a_map(values: NDArray[np.float64]) -> None:
    assert heat_map(values.astype(np.float32), "levels").shape[0] == 120


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan")])
def test_a_top_that_is_not_above_0_is_refused(top: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        heat_map(np.ones((2, 2), np.float32), "levels", top)


def test_crops_stand_in_rows_and_columns_under_their_labels() -> None:
    green = (0, 200, 0)
    sheet = crops_sheet(
        [
            [("one", plain(60, 80, RED)), ("a label that is much wider", plain(60, 80, BLUE))],
            [("two", plain(50, 40, green)), ("", plain(50, 40, (200, 200, 0)))],
        ]
    )
    red, blue, below, beside = (where(sheet, colour) for colour in (RED, BLUE, green, (200, 200, 0)))
    assert (red[2] - red[0], red[3] - red[1]) == (60, 80)
    assert (blue[0], blue[2], blue[1]) == (red[0], red[2], 88)
    assert (below[0], below[1]) == (red[2] + red[0], 0)
    assert (beside[0], beside[1]) == (below[0], 88)
    assert sheet.shape[0] == below[2]
    assert sheet.shape[1] > 88 + 80
    assert sheet[: red[0], :80].max() > 200


@pytest.mark.parametrize("rows", [[], [[("one", plain(9, 9, RED))], []]])
def test_rows_that_are_no_sheet_are_refused(rows: list[list[tuple[str, Picture]]]) -> None:
    with pytest.raises(ValueError, match=r"no crops|shorter"):
        crops_sheet(rows)


def test_frames_are_enlarged_and_labelled_alike() -> None:
    frames = titled([("x", plain(20, 20, RED)), ("a label of some length", plain(20, 20, BLUE))], enlarge=3)
    assert frames[0].shape == frames[1].shape
    assert frames[0].shape[1] > 60
    for frame, colour in zip(frames, (RED, BLUE), strict=True):
        np.testing.assert_array_equal(frame[-60:, :60], plain(60, 60, colour))
        assert frame[:-60].max() > 200, "a label"
    assert titled([]) == []


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        titled([("a", plain(4, 4, RED)), ("b", plain(5, 4, RED))])
