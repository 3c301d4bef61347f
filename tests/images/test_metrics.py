from __future__ import annotations

from math import exp, inf, isinf, log10, pi
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from upscaler.images.metrics import (
    colour_shift,
    cropped,
    filtered,
    gaussian,
    high_frequencies,
    luma,
    psnr,
    sharpness,
    ssim,
)


def noise(*shape: int, seed: int = 0, dtype: type[np.uint8] | type[np.uint16] = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def ssim_by_hand(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
    """(H, W), one window position after the other, moments about the weighted means."""
    weights = [[exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    total = sum(map(sum, weights))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            cells = [
                (weights[i][j] / total, float(x[top + i, left + j]), float(y[top + i, left + j]))
                for i in range(11)
                for j in range(11)
            ]
            mx, my = sum(w * a for w, a, _ in cells), sum(w * b for w, _, b in cells)
            vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in cells), sum(w * (b - my) ** 2 for w, _, b in cells)
            vxy = sum(w * (a - mx) * (b - my) for w, a, b in cells)
            values.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("colour", "y"),
    [
        # From the definition: 16 + (65.481 R + 128.553 G + 24.966 B) / 255, rounded.
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81),
        ((0, 255, 0), 145),
        ((0, 0, 255), 41),
        ((128, 128, 128), 126),
        ((12, 200, 77), 127),
    ],
)
def test_luma_is_studio_range_and_rounded(colour: tuple[int, int, int], y: int) -> None:
    pixels = np.full((2, 3, 3), colour, np.uint8)
    assert luma(pixels).tolist() == np.full((2, 3, 1), y).tolist()
    deep = luma(pixels * np.uint16(257))
    assert deep.dtype == np.uint16
    exact = 16 + (65.481 * colour[0] + 128.553 * colour[1] + 24.966 * colour[2]) / 255
    np.testing.assert_allclose(deep / 257, exact, atol=0.5 / 257)


def test_grey_is_its_own_luma() -> None:
    pixels = noise(3, 4, 1)
    assert luma(pixels) is pixels


def test_psnr_by_hand() -> None:
    reference = np.zeros((4, 5, 1), np.uint8)
    result = reference.copy()
    result[1, 2] = 10
    result[0, 0] = 20
    assert psnr(result, reference) == pytest.approx(10 * log10(255**2 / (500 / 20)))
    assert psnr(result, reference, border=1) == pytest.approx(10 * log10(255**2 / (100 / 6)))
    result[1, 2] = 0
    assert isinf(psnr(result, reference, border=1))


def test_psnr_is_over_all_channels() -> None:
    reference = np.full((6, 6, 3), 100, np.uint8)
    result = reference + np.array([3, 0, 4], np.uint8)
    assert psnr(result, reference) == pytest.approx(10 * log10(255**2 / (25 / 3)))


def test_ssim_by_hand() -> None:
    x = noise(14, 17, 1)
    y = np.clip(x.astype(int) // 2 + noise(14, 17, 1, seed=1) // 3, 0, 255).astype(np.uint8)
    assert ssim(x, y) == pytest.approx(ssim_by_hand(x[..., 0], y[..., 0]), abs=1e-10)
    inner = cropped(x, 1), cropped(y, 1)
    assert ssim(x, y, border=1) == pytest.approx(ssim_by_hand(inner[0][..., 0], inner[1][..., 0]), abs=1e-10)


def test_ssim_is_the_mean_of_the_channels() -> None:
    x, y = noise(12, 13, 3), noise(12, 13, 3, seed=1)
    each = [ssim(x[..., c : c + 1], y[..., c : c + 1]) for c in range(3)]
    assert ssim(x, y) == pytest.approx(np.mean(each))


def test_equal_pictures() -> None:
    x = noise(16, 16, 3)
    assert psnr(x, x) == inf
    assert ssim(x, x) == pytest.approx(1)
    assert colour_shift(x, x) == (0, 0, 0)


def test_depths_can_be_mixed() -> None:
    x, y = noise(16, 18, 3), noise(16, 18, 3, seed=1)
    for a, b in ((x * np.uint16(257), y), (x, y * np.uint16(257)), (x * np.uint16(257), y * np.uint16(257))):
        assert psnr(a, b) == pytest.approx(psnr(x, y))
        assert ssim(a, b) == pytest.approx(ssim(x, y))
        assert colour_shift(a, b) == pytest.approx(colour_shift(x, y))


def test_a_planted_tint_is_found() -> None:
    reference = noise(20, 30, 3) // 2 + 50
    assert colour_shift(reference + np.array([4, 0, 1], np.uint8), reference) == pytest.approx((4, 0, 1))
    assert colour_shift(reference - np.uint8(2), reference) == pytest.approx((-2, -2, -2))


def test_the_window_is_what_fspecial_gives_for_length_3_and_sigma_a_half() -> None:
    published = [[0.0113, 0.0838, 0.0113], [0.0838, 0.6193, 0.0838], [0.0113, 0.0838, 0.0113]]
    np.testing.assert_allclose(np.outer(gaussian(3, 0.5), gaussian(3, 0.5)), published, atol=5e-5)


def test_filtering_stays_inside() -> None:
    x = np.zeros((5, 6))
    x[2, 3] = 1
    out = filtered(x, np.array([0.25, 0.5, 0.25]))
    expected = np.zeros((3, 4))
    expected[0:3, 1:4] = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(out, expected)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("shape", "border"), [((20, 20, 1), 0), ((20, 19, 3), 0), ((20, 20, 3), -1), ((20, 20, 3), 10), ((20, 20, 3), 99)]
)
def test_what_cannot_be_compared_is_refused(metric: Any, shape: tuple[int, int, int], border: int) -> None:
    with pytest.raises(ValueError, match=r"pictures of|a border of"):
        metric(noise(20, 20, 3), noise(*shape), border)


def test_ssim_needs_a_window() -> None:
    x = noise(20, 20, 1)
    ssim(x, x, border=4)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(x, x, border=5)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    ramp = np.tile(np.arange(0, 100, 2, dtype=np.uint8), (20, 1))
    assert sharpness(ramp) == 0
    point = np.zeros((12, 12), np.uint8)
    point[5, 5] = 10
    values = np.zeros(100)
    values[:5] = (-40, 10, 10, 10, 10)
    assert sharpness(point) == pytest.approx(values.var())
    assert sharpness(point.astype(np.uint16) * 257) == pytest.approx(values.var())


@pytest.mark.parametrize("size", [(64, 64), (65, 48), (48, 65)])
def test_high_frequencies_are_those_above_half_nyquist(size: tuple[int, int]) -> None:
    across = np.arange(size[1])[None].repeat(size[0], 0)

    def wave(cycles: float) -> NDArray[np.uint8]:
        values: NDArray[np.uint8] = np.rint(128 + 100 * np.cos(2 * pi * cycles * across)).astype(np.uint8)
        return values

    assert high_frequencies(wave(0.18)) < 0.01
    assert high_frequencies(wave(0.32)) > 0.99
    assert high_frequencies(wave(0.32).T) > 0.99
    both = 0.5 * wave(0.125).astype(float) + 0.5 * wave(0.4)
    assert high_frequencies(both.astype(np.uint8)) == pytest.approx(0.5, abs=0.02)


def test_high_frequencies_of_noise_and_of_nothing() -> None:
    assert high_frequencies(noise(128, 128)) == pytest.approx(1 - pi / 16, abs=0.01)
    assert high_frequencies(noise(128, 128, dtype=np.uint16)) == pytest.approx(1 - pi / 16, abs=0.01)
    assert high_frequencies(np.full((20, 31), 200, np.uint8)) == 0
