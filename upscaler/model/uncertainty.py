"""How far a result moves when its input moves a little: the spread under small Gaussian noise.

Where the network invents, a change of the input that nobody can see makes another result; where the
input says what is there, it hardly moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.model.sources import Pixels, Source
from upscaler.model.upscaler import Estimate, Size, Upscaler

SIGMA = 2 / 255
SAMPLES = 8


@dataclass(frozen=True)
class NoisySource:
    """A picture with Gaussian noise on its colours; 16 bits deep, so that small noise is not rounded away."""

    source: Source
    sigma: float
    """Standard deviation for values in 0..1."""
    seed: tuple[int, ...]

    depth = 16

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def channels(self) -> int:
        return self.source.channels

    def bands(self, rows: int) -> Iterator[Pixels]:
        generator = np.random.default_rng(self.seed)
        colours = colours_of(self)
        widen = 257 if self.source.depth == 8 else 1
        for band in self.source.bands(rows):
            noisy = band.astype(np.float32) * widen
            shape = (*band.shape[:2], colours)
            noisy[..., :colours] += self.sigma * 65535 * generator.standard_normal(shape, np.float32)
            yield np.rint(np.clip(noisy, 0, 65535)).astype(np.uint16)


def colours_of(source: Source) -> int:
    """How many of its channels are not transparency."""
    return source.channels - (source.channels in (2, 4))


def estimate_spread(upscaler: Upscaler, source: Source, size: Size) -> Estimate:
    """The plan for each of the noisy pictures of ``spread``, with the map beside it.

    Raises:
        UserError: they do not fit in memory.
    """
    height, width = size.of(source.height, source.width, upscaler.network.scale)
    needed = height * width * (colours_of(source) + 1) * 4
    try:
        return upscaler.estimate(NoisySource(source, SIGMA, (0,)), size, beside=needed)
    except UserError as error:
        raise UserError(f"with the map of uncertainty, {error}") from None


def spread(
    upscaler: Upscaler,
    source: Source,
    size: Size,
    *,
    sigma: float = SIGMA,
    samples: int = SAMPLES,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Standard deviation of the result over ``samples`` noisy inputs, per pixel.

    Args:
        upscaler, source, size: as for ``Upscaler.bands``.
        sigma: of the noise, for values in 0..1.
        samples: upscaled pictures, two at least.
        seed: of the noise.

    Returns:
        (H, W): the root of the variance averaged over the colours, for values in 0..1.

    Raises:
        UserError: the map does not fit in memory, or the upscaling fails.
    """
    estimate = estimate_spread(upscaler, source, size)
    colours = colours_of(source)
    # Welford's running mean and sum of squared deviations.
    mean = np.zeros((estimate.height, estimate.width, colours), np.float32)
    squares = np.zeros((estimate.height, estimate.width), np.float32)
    for sample in range(samples):
        noisy = NoisySource(source, sigma, (seed, sample))
        top = 0
        for band in upscaler.bands(noisy, size, estimate):
            rows = slice(top, top + len(band))
            values = band[..., :colours].astype(np.float32) / 65535
            before = values - mean[rows]
            mean[rows] += before / (sample + 1)
            squares[rows] += (before * (values - mean[rows])).mean(axis=2)
            top += len(band)
    del mean
    squares /= samples - 1
    return np.sqrt(squares, out=squares)
