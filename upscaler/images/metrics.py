"""How close a picture is to its reference: PSNR, SSIM and colour drift, by the protocol of the published tables;
and how much fine detail it has, whatever the reference.

Pictures are (H, W, C) uint8 or uint16 with C 1 (grey) or 3 (RGB); 16 bits are scaled to 0..255, so
that depths can be mixed and every number is in levels of 255.
"""

from __future__ import annotations

from math import inf, log10
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Pixels = NDArray[Any]
FloatArray = NDArray[np.float64]

SSIM_WINDOW = 11
"""Pixels along each axis that SSIM needs."""

_PEAK = 255.0
_HALF_NYQUIST = 0.25
"""Cycles per pixel."""

_NOTHING = 1e-9
"""Energy that rounding leaves of a flat picture, at most."""
_WHITE_Y = np.array([65.481, 128.553, 24.966]) / _PEAK
_BLACK_Y = 16 / _PEAK
_SSIM_SIGMA = 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def luma(pixels: Pixels) -> Pixels:
    """The Y channel as MATLAB's ``rgb2ycbcr`` gives it for integers: BT.601, 16..235 of 255, rounded.

    Args:
        pixels: (H, W, C). Grey is taken as it is, as the published evaluations do.

    Returns:
        (H, W, 1) of the same type.
    """
    if pixels.shape[2] == 1:
        return pixels
    top = np.iinfo(pixels.dtype).max
    rounded: Pixels = np.floor(_BLACK_Y * top + pixels @ _WHITE_Y + 0.5).astype(pixels.dtype)
    return rounded[..., None]


def cropped(pixels: Pixels, border: int) -> Pixels:
    """A picture without ``border`` pixels at each of its edges."""
    height, width = pixels.shape[:2]
    return pixels[border : height - border, border : width - border]


def psnr(result: Pixels, reference: Pixels, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB over all channels, with a peak of 255; infinite for equal pictures.

    Args:
        result, reference: (H, W, C).
        border: pixels at each edge that do not count.

    Raises:
        ValueError: different shapes, or nothing left inside the border.
    """
    error = float(np.mean(np.square(_levels(result, reference, border) - _levels(reference, result, border))))
    return 10 * log10(_PEAK**2 / error) if error else inf


def ssim(result: Pixels, reference: Pixels, border: int = 0) -> float:
    """Structural similarity, -1..1, the mean over channels and positions.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
    13(4), 2004, equation 13: an 11x11 Gaussian window of sigma 1.5 that never reaches beyond the
    picture, K1 = 0.01, K2 = 0.03, L = 255, moments without Bessel's correction.

    Args:
        result, reference: (H, W, C).
        border: pixels at each edge that do not count, taken off before filtering.

    Raises:
        ValueError: different shapes, or fewer than 11 pixels along an axis inside the border.
    """
    x, y = _levels(result, reference, border), _levels(reference, result, border)
    if min(x.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs {SSIM_WINDOW} pixels along each axis, not {x.shape[:2]}")
    return float(np.mean([_ssim_of_channel(x[..., channel], y[..., channel]) for channel in range(x.shape[2])]))


def colour_shift(result: Pixels, reference: Pixels) -> tuple[float, ...]:
    """The mean of each channel of the result less that of the reference, in levels of 255.

    Args:
        result, reference: (H, W, C), of one size.

    Raises:
        ValueError: different shapes.
    """
    means = (_levels(result, reference, 0) - _levels(reference, result, 0)).mean(axis=(0, 1))
    return tuple(float(mean) for mean in means)


def sharpness(grey: Pixels) -> float:
    """The variance of the Laplacian, in squared levels of 255: low where all edges are soft; noise counts too.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Computed in integers, so that a
    threshold decides alike on every machine.

    Args:
        grey: (H, W), both at least 3.
    """
    levels = grey.astype(np.int32)
    inner = levels[1:-1, 1:-1]
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * inner
    mean = float(laplacian.mean(dtype=np.float64))
    variance = float(np.square(laplacian, dtype=np.float64).mean()) - mean * mean
    return variance * (_PEAK / np.iinfo(grey.dtype).max) ** 2


def high_frequencies(grey: Pixels) -> float:
    """The share of a picture's energy above half the Nyquist frequency, a quarter of a cycle a pixel in any direction.

    The mean is taken off, so that brightness does not count, and a Hann window keeps the jump between opposite edges
    from doing so.

    Args:
        grey: (H, W), both at least 3.

    Returns:
        0..1; 0 for a picture without any detail. White noise has 1 - pi / 16 = 0.80, a photograph some thousandths.
    """
    height, width = grey.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    energy = np.square(np.abs(np.fft.rfft2((grey - np.average(grey, weights=window)) * window)))
    # Each column but the first, and of even widths the last, stands for two of the full spectrum.
    energy[:, 1 : (width + 1) // 2] *= 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    total = float(energy.sum())
    return float(energy[frequency > _HALF_NYQUIST].sum()) / total if total > _NOTHING else 0.0


def gaussian(length: int, sigma: float) -> FloatArray:
    """(length,), a Gaussian window that sums to 1; the outer product of two is MATLAB's ``fspecial``."""
    offsets = np.arange(length) - (length - 1) / 2
    weights = np.exp(-np.square(offsets) / (2 * sigma**2))
    normalised: FloatArray = weights / weights.sum()
    return normalised


def filtered(x: FloatArray, window: FloatArray) -> FloatArray:
    """A filter along both axes where it lies inside: (H, W) to (H - n + 1, W - n + 1) for a window of n."""
    # Without BLAS on purpose: its threads take 50 times as long for this where other programs are at work.
    for axis in (0, 1):
        x = np.einsum("ijk,k->ij", sliding_window_view(x, len(window), axis), window)
    return x


def _ssim_of_channel(x: FloatArray, y: FloatArray) -> float:
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        filtered(moment, gaussian(SSIM_WINDOW, _SSIM_SIGMA)) for moment in (x, y, x * x, y * y, x * y)
    )
    structure = (2 * (mean_xy - mean_x * mean_y) + _SSIM_C2) / (mean_xx - mean_x**2 + mean_yy - mean_y**2 + _SSIM_C2)
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
    return float(np.mean(luminance * structure))


def _levels(pixels: Pixels, other: Pixels, border: int) -> FloatArray:
    """What is inside the border of one picture of a pair, in levels of 255."""
    if pixels.shape != other.shape:
        raise ValueError(f"pictures of {pixels.shape} and {other.shape} cannot be compared")
    inside = cropped(pixels, border)
    if border < 0 or 2 * border >= min(pixels.shape[:2]):
        raise ValueError(f"a border of {border} leaves nothing of {pixels.shape[:2]} pixels")
    return inside * (_PEAK / np.iinfo(pixels.dtype).max)
