"""Noise of Real-ESRGAN: Gaussian or Poisson, of the channels or of the luma, drawn for each picture.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021 (arXiv:2107.10833), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from upscaler.training.kernels import Range, chance, uniform
from upscaler.transfers import constant, sent

_LUMA = (0.299, 0.587, 0.114)
_PHOTONS = 256
"""Of white at Poisson scale 1: what the original counts for a picture that has most of the 256 levels."""


@dataclass(frozen=True)
class Noise:
    """What the noise of one stage is drawn from; the defaults are the first stage's.

    Attributes:
        gaussian_probability: how often it is Gaussian; else it is Poisson.
        gaussian_sigma: standard deviation in levels of 255.
        poisson_scale: factor on the noise of an exposure that collects 256 photons from white.
        grey_probability: how often all channels get the same noise.
    """

    gaussian_probability: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    grey_probability: float = 0.4

    def add(self, x: Tensor, generator: Generator) -> Tensor:
        """Pictures (N, 3, H, W) with noise drawn for each of them, not clamped.

        Grey Poisson noise is that of the picture's luma.
        """
        count = len(x)
        is_gaussian = chance(self.gaussian_probability, count, generator)
        sigma = uniform(self.gaussian_sigma, count, generator) / 255
        scale = uniform(self.poisson_scale, count, generator)
        is_grey = _each(chance(self.grey_probability, count, generator), x.device)
        field = normal(x, generator)
        field = torch.where(is_grey, field[:, :1], field)
        luma = (x * constant(_luma, device=x.device, dtype=torch.float32)).sum(1, keepdim=True)
        signal = torch.where(is_grey, luma, x)
        noise = torch.where(
            _each(is_gaussian, x.device),
            field * _each(sigma.float(), x.device),
            shot_noise(signal, field) * _each(scale.float(), x.device),
        )
        return x + noise


def normal(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal deviates in the shape, of the type and on the device of ``x``.

    They come from a generator on that device with a seed drawn from ``generator``, so that what is
    drawn from ``generator`` afterwards depends neither on the device nor on the size of ``x``.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return seeded_normal(x, seed)


def seeded_normal(x: Tensor, seed: int) -> Tensor:
    """Standard normal deviates in the shape, of the type and on the device of ``x``, from a seed of their own."""
    generator = Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def shot_noise(x: Tensor, field: Tensor) -> Tensor:
    """Poisson noise of an exposure that collects 256 photons from white.

    Normal deviates become Poisson counts by the Cornish-Fisher expansion of the Poisson quantile to
    second order (Abramowitz & Stegun, 26.2.49), rounded: elementwise on every device, where a sampler
    would reject and so make all later draws depend on the picture. Probabilities are within 0.015 of
    exact ones at one photon, and closer at more.

    Args:
        x: the picture, 0..1, rounded to 255 levels first.
        field: standard normal deviates in its shape.

    Returns:
        The noise, of mean 0 and variance x / 256.
    """
    expected = (x * 255).round() * (_PHOTONS / 255)
    count = (expected + expected.sqrt() * field + (field**2 - 1) / 6 + 0.5).floor().clamp(min=0)
    return torch.where(expected > 0, count - expected, 0) / _PHOTONS


def _each(values: Tensor, device: torch.device) -> Tensor:
    """(N,) for pictures (N, C, H, W) on a device."""
    return sent(values, device)[:, None, None, None]


def _luma() -> Tensor:
    return torch.tensor(_LUMA)[:, None, None]
