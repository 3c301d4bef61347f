from __future__ import annotations

from math import gamma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from upscaler.images.files import open_picture
from upscaler.images.metrics import luma
from upscaler.images.niqe import NiqeModel, bundled_model, fit_niqe, niqe, save_model
from upscaler.images.resize import resize

SAMPLE = Path(__file__).parents[2] / "upscaler/images/sample.png"
GRID = [0.2 + 0.001 * step for step in range(9801)]
MOMENTS = np.array([gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) for a in GRID])


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 1), noise of several grains with an uneven contrast."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width), 128.0)
    for grain in (1, 2, 5):
        cells = random.normal(0, 12, (height // grain + 1, width // grain + 1))
        picture += cells.repeat(grain, 0).repeat(grain, 1)[:height, :width] * np.linspace(0.3, 2, width)
    return np.asarray(np.clip(picture, 0, 255)[..., None], np.uint8)


def asymmetric(values: NDArray[Any]) -> tuple[float, float, float]:
    values = values.ravel()
    left, right = np.sqrt(np.mean(values[values < 0] ** 2)), np.sqrt(np.mean(values[values > 0] ** 2))
    g = left / right
    r = np.mean(np.abs(values)) ** 2 / np.mean(values**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = GRID[int(np.argmin((MOMENTS - r) ** 2))]
    spread = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * spread, right * spread


def features_by_hand(y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The authors' program, one block and one window position at a time."""
    down, across = y.shape[0] // 96, y.shape[1] // 96
    plane = y[: down * 96, : across * 96].astype(np.float32)
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    rows: list[list[float]] = [[] for _ in range(down * across)]
    for edge in (96, 48):
        grey = plane[..., 0].astype(np.float64)
        padded = np.pad(grey, 3, mode="edge")
        mean, square = np.zeros_like(grey), np.zeros_like(grey)
        for i in range(7):
            for j in range(7):
                part = padded[i : i + grey.shape[0], j : j + grey.shape[1]]
                mean += window[i, j] * part
                square += window[i, j] * part**2
        normalised = (grey - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
        for number in range(down * across):
            top, left = number // across * edge, number % across * edge
            block = normalised[top : top + edge, left : left + edge]
            alpha, low, high = asymmetric(block)
            rows[number] += [alpha, (low + high) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                alpha, low, high = asymmetric(block * np.roll(block, shift, (0, 1)))
                rows[number] += [alpha, (high - low) * gamma(2 / alpha) / gamma(1 / alpha), low, high]
        plane = resize(plane, plane.shape[0] // 2, plane.shape[1] // 2)
    return np.array(rows)


def test_niqe_by_hand() -> None:
    y, model = texture(200, 300), bundled_model()
    features = features_by_hand(y)
    assert features.shape == (6, 36)
    difference = model.mean - features.mean(axis=0)
    inverse = np.linalg.pinv((model.covariance + np.cov(features.T)) / 2)
    assert niqe(y) == pytest.approx(np.sqrt(difference @ inverse @ difference), rel=1e-4)


def test_the_border_does_not_count() -> None:
    y = texture(200, 300)
    framed = np.pad(y, ((5, 5), (5, 5), (0, 0)), constant_values=255)
    assert niqe(framed, border=5) == niqe(y)
    assert niqe(framed) != niqe(y)


def test_sixteen_bits_are_the_same_picture() -> None:
    y = texture(200, 200)
    assert niqe(y * np.uint16(257)) == pytest.approx(niqe(y), rel=1e-3)


def test_a_photograph_is_more_natural_than_its_blur_and_than_noise() -> None:
    photograph = luma(open_picture(SAMPLE).read().pixels)
    height, width = photograph.shape[:2]
    blurred = resize(resize(photograph, height // 4, width // 4), height, width)
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape, np.uint8)
    natural, soft, random = (niqe(y) for y in (photograph, blurred, noise))
    assert natural is not None
    assert soft is not None
    assert random is not None
    assert natural < soft < random


@pytest.mark.parametrize("size", [(95, 500), (96, 96), (191, 191)])
def test_fewer_than_two_blocks_have_no_niqe(size: tuple[int, int]) -> None:
    assert niqe(texture(*size)) is None


def test_blocks_without_contrast_do_not_count() -> None:
    flat = np.full((200, 400, 1), 80, np.uint8)
    assert niqe(flat) is None
    flat[:96, :192] = texture(96, 192)
    assert niqe(flat) is not None


def test_the_model_is_fitted_to_the_sharp_blocks() -> None:
    pictures = [texture(300, 500, seed) for seed in range(8)]
    model = fit_niqe(pictures)
    sharp = []
    for y in pictures:
        features = features_by_hand(y)
        deviation = np.array(_sharpness(y))
        sharp.append(features[deviation > 0.75 * deviation.max()])
    chosen = np.concatenate(sharp)
    assert 36 < len(chosen) < 8 * 15
    np.testing.assert_allclose(model.mean, chosen.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.covariance, np.cov(chosen.T), rtol=0.01, atol=1e-5)


def _sharpness(y: NDArray[np.uint8]) -> list[float]:
    """The mean local deviation of each block."""
    down, across = y.shape[0] // 96, y.shape[1] // 96
    grey = y[: down * 96, : across * 96, 0].astype(np.float64)
    weights = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    view = np.lib.stride_tricks.sliding_window_view(np.pad(grey, 3, mode="edge"), (7, 7))
    mean, square = np.einsum("abij,ij->ab", view, window), np.einsum("abij,ij->ab", view**2, window)
    deviation = np.sqrt(np.abs(square - mean**2))
    corners = [(96 * row, 96 * column) for row in range(down) for column in range(across)]
    return [float(deviation[top : top + 96, left : left + 96].mean()) for top, left in corners]


@pytest.mark.parametrize("pictures", [[], [texture(50, 50)], [texture(200, 300)]])
def test_too_little_for_a_model_is_refused(pictures: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(ValueError, match="too few for a model"):
        fit_niqe(pictures)


def test_the_bundled_model_says_what_it_is_from(tmp_path: Path) -> None:
    model = bundled_model()
    assert (model.mean.shape, model.covariance.shape) == ((36,), (36, 36))
    assert (np.linalg.eigvalsh(model.covariance) > 0).all()
    with safe_open(SAMPLE.with_name("niqe.safetensors"), "np") as file:
        assert "BSDS500" in file.metadata()["data"]
    save_model(tmp_path / "own.safetensors", NiqeModel(model.mean, model.covariance), "nothing")
    with safe_open(tmp_path / "own.safetensors", "np") as file:
        assert file.metadata() == {"data": "nothing"}
        np.testing.assert_array_equal(file.get_tensor("mean"), model.mean)
