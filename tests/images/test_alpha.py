from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from upscaler.images.alpha import BLEED_REACH, bleed, without_alpha
from upscaler.images.resize import resize


def picture(height: int, width: int, share_hidden: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(height * 1000 + width)
    colour = random.random((height, width, 3), np.float32)
    alpha = random.random((height, width), np.float32) + np.float32(0.01)
    alpha[random.random((height, width)) < share_hidden] = 0
    return colour, alpha


def slow_bleed(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """The definition, a pixel at a time."""
    result = colour.copy()
    for y, x in np.argwhere(alpha == 0):
        result[y, x] = 0.5
        for radius in (1, 2, 4, 8, 16):
            box = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            if alpha[box].any():
                weights = alpha[box].astype(np.float64)[..., None]
                result[y, x] = (colour[box] * weights).sum((0, 1)) / weights.sum()
                break
    return result


@pytest.mark.parametrize("share", [0.2, 0.9, 0.995, 1])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (45, 38)])
def test_hidden_pixels_take_the_mean_of_the_smallest_box(size: tuple[int, int], share: float) -> None:
    colour, alpha = picture(*size, share)
    result = bleed(colour, alpha)
    np.testing.assert_allclose(result, slow_bleed(colour, alpha), atol=1e-6)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1


def test_visible_pixels_and_the_input_stay() -> None:
    colour, alpha = picture(40, 30, 0.7)
    before = colour.copy()
    result = bleed(colour, alpha)
    np.testing.assert_array_equal(result[alpha > 0], before[alpha > 0])
    np.testing.assert_array_equal(colour, before)


def test_nothing_hidden_is_the_same_object() -> None:
    colour, alpha = picture(8, 8, 0)
    assert bleed(colour, alpha) is colour


def test_far_from_anything_visible_is_mid_grey() -> None:
    colour, alpha = np.zeros((1, 40, 3), np.float32), np.zeros((1, 40), np.float32)
    colour[0, 0], alpha[0, 0] = (1, 0, 0), 1
    result = bleed(colour, alpha)[0]
    np.testing.assert_array_equal(result[: BLEED_REACH + 1], np.broadcast_to((1, 0, 0), (BLEED_REACH + 1, 3)))
    np.testing.assert_array_equal(result[BLEED_REACH + 1 :], np.full((39 - BLEED_REACH, 3), 0.5))


@given(st.integers(1, 90), st.integers(1, 12), st.sampled_from([0.5, 0.95, 0.999]), st.data())
@settings(deadline=None, max_examples=60)
def test_a_band_with_the_reach_around_it_equals_the_whole(
    height: int, width: int, share: float, data: st.DataObject
) -> None:
    top = data.draw(st.integers(0, height - 1))
    bottom = data.draw(st.integers(top + 1, height))
    colour, alpha = picture(height, width, share)
    first, last = max(top - BLEED_REACH, 0), min(bottom + BLEED_REACH, height)
    band = bleed(colour[first:last], alpha[first:last])[top - first : bottom - first]
    np.testing.assert_array_equal(band, bleed(colour, alpha)[top:bottom])


def test_an_enlarged_edge_has_no_halo() -> None:
    colour, alpha = np.zeros((12, 12, 3), np.float32), np.zeros((12, 12), np.float32)
    colour[:, :6], alpha[:, :6] = 0.8, 1
    assert resize(colour, 48, 48)[:, :24].min() < 0.7
    np.testing.assert_allclose(resize(bleed(colour, alpha), 48, 48)[:, :24], 0.8, atol=1e-6)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"colour of \(4, 4\) with alpha of \(4, 5\)"):
        bleed(np.zeros((4, 4, 3), np.float32), np.zeros((4, 5), np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
def test_an_alpha_channel_is_left_out_if_it_hides_nothing(
    dtype: type[np.uint8] | type[np.uint16], colours: int
) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (4, 5, colours + 1), dtype)
    assert without_alpha(pixels) is None
    pixels[..., -1] = top
    np.testing.assert_array_equal(without_alpha(pixels), pixels[..., :-1])
    assert without_alpha(pixels[..., :colours]) is not None
