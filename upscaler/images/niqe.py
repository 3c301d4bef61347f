"""NIQE: how far a picture's statistics are from those of undistorted photographs, without a reference.

Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
Processing Letters 20(3), 2013. The features are those of the authors' program; the model of
undistorted photographs that srup brings is its own, see docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import gamma
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from upscaler.images.metrics import FloatArray, Pixels, cropped, filtered, gaussian
from upscaler.images.resize import resize

BLOCK = 96
"""Edge of the blocks that the features are taken from, in pixels of the picture."""

FEATURES = 36

_SCALES = 2
_WINDOW, _SIGMA = 7, 7 / 6
_SHARP = 0.75
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
_gamma = np.vectorize(gamma, otypes=[np.float64])
_FILE = Path(__file__).with_name("niqe.safetensors")


@dataclass(frozen=True)
class NiqeModel:
    """Features of undistorted photographs as a Gaussian: ``mean`` (36,) and ``covariance`` (36, 36)."""

    mean: FloatArray
    covariance: FloatArray


def niqe(y: Pixels, border: int = 0, model: NiqeModel | None = None) -> float | None:
    """The distance of a picture from undistorted photographs, from 0; lower is more natural.

    Equation 10 of the paper, over blocks of 96x96 pixels at full and at half size.

    Args:
        y: (H, W, 1) uint8 or uint16, the luma.
        border: pixels at each edge that do not count.
        model: of undistorted photographs; None is the one that comes with srup.

    Returns:
        None where fewer than two blocks fit in, or fewer than two have any contrast.
    """
    model = model or bundled_model()
    features, _ = _features(cropped(y, border))
    known = features[np.isfinite(features).all(axis=1)]
    if len(known) < 2:
        return None
    difference = model.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((model.covariance + np.cov(known, rowvar=False)) / 2)
    return float(np.sqrt(max(difference @ inverse @ difference, 0)))


def fit_niqe(pictures: Iterable[Pixels]) -> NiqeModel:
    """The model of undistorted photographs, from the sharp blocks of each: section II.C of the paper.

    Args:
        pictures: (H, W, 1) uint8 or uint16 each, the luma.

    Raises:
        ValueError: no more sharp blocks than features, which make no covariance.
    """
    sharp = []
    for y in pictures:
        features, sharpness = _features(y)
        if len(features):
            sharp.append(features[sharpness > _SHARP * sharpness.max()])
    features = np.concatenate(sharp) if sharp else np.empty((0, FEATURES))
    known = features[np.isfinite(features).all(axis=1)]
    if len(known) <= FEATURES:
        raise ValueError(f"{len(known)} sharp blocks are too few for a model; more than {FEATURES} are needed")
    return NiqeModel(known.mean(axis=0), np.cov(known, rowvar=False))


def save_model(path: Path, model: NiqeModel, data: str) -> None:
    """Write a model as safetensors; ``data`` says which pictures it was fitted to."""
    save_file({"mean": model.mean, "covariance": model.covariance}, path, {"data": data})


@lru_cache(maxsize=1)
def bundled_model() -> NiqeModel:
    """The model that comes with srup."""
    arrays = load_file(_FILE)
    return NiqeModel(arrays["mean"], arrays["covariance"])


def _features(y: Pixels) -> tuple[FloatArray, FloatArray]:
    """(blocks, 36) features, NaN where a block has no contrast, and (blocks,) its mean local deviation."""
    down, across = len(y) // BLOCK, y.shape[1] // BLOCK
    if not down * across:
        return np.empty((0, FEATURES)), np.empty(0)
    plane = np.float32(255 / np.iinfo(y.dtype).max) * y[: down * BLOCK, : across * BLOCK]
    features, sharpness = [], np.empty(0)
    for scale in range(_SCALES):
        normalised, deviation = _normalised(plane[..., 0].astype(np.float64))
        features.append(_statistics(_blocks(normalised, BLOCK >> scale)))
        if scale == 0:
            sharpness = _blocks(deviation, BLOCK).mean(axis=(1, 2))
        plane = resize(plane, len(plane) // 2, plane.shape[1] // 2)
    return np.concatenate(features, axis=1), sharpness


def _normalised(plane: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean-subtracted, contrast-normalised values (equation 1) and the local deviation (equation 3)."""
    padded = np.pad(plane, _WINDOW // 2, mode="edge")
    window = gaussian(_WINDOW, _SIGMA)
    mean = filtered(padded, window)
    deviation = np.sqrt(np.abs(filtered(padded * padded, window) - mean * mean))
    return (plane - mean) / (deviation + 1), deviation


def _blocks(plane: FloatArray, edge: int) -> FloatArray:
    """(H, W) to (blocks, edge, edge)."""
    down, across = plane.shape[0] // edge, plane.shape[1] // edge
    return plane.reshape(down, edge, across, edge).swapaxes(1, 2).reshape(-1, edge, edge)


def _statistics(blocks: FloatArray) -> FloatArray:
    """(blocks, 18): the shape of the values and of the products of neighbours, equations 4 to 7."""
    alpha, left, right = _asymmetric_gaussian(blocks)
    columns = [alpha, (left + right) / 2]
    for shift in _NEIGHBOURS:
        alpha, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * _gamma(2 / alpha) / _gamma(1 / alpha)
        columns += [alpha, mean, left, right]
    return np.stack(columns, axis=1)


def _asymmetric_gaussian(blocks: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shape and the two scales of an asymmetric generalised Gaussian for each block, by moments.

    Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", ICIP 2009.
    """
    values = blocks.reshape(len(blocks), -1)
    squares = values * values
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt(np.where(values < 0, squares, 0).sum(axis=1) / (values < 0).sum(axis=1))
        right = np.sqrt(np.where(values > 0, squares, 0).sum(axis=1) / (values > 0).sum(axis=1))
        ratio = left / right
        moment = np.square(np.abs(values).mean(axis=1)) / squares.mean(axis=1)
        moment *= (ratio**3 + 1) * (ratio + 1) / np.square(ratio**2 + 1)
    shapes, moments = _shapes()
    # The nearest of the moments, which rise with the shape.
    alpha = shapes[np.searchsorted((moments[:-1] + moments[1:]) / 2, moment)]
    spread = np.sqrt(_gamma(1 / alpha) / _gamma(3 / alpha))
    return np.where(np.isfinite(moment), alpha, np.nan), left * spread, right * spread


@lru_cache(maxsize=1)
def _shapes() -> tuple[FloatArray, FloatArray]:
    """The shapes that are tried and the moment that belongs to each."""
    shapes = np.arange(200, 10001) / 1000
    return shapes, _gamma(2 / shapes) ** 2 / (_gamma(1 / shapes) * _gamma(3 / shapes))
