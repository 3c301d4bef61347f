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
from upscaler.model.tiles import megabytes
from upscaler.model.upscaler import Size, Upscaler

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
        colours = self.channels - (self.channels in (2, 4))
        widen = 257 if self.source.depth == 8 else 1
        for band in self.source.bands(rows):
            noisy = band.astype(np.float32) * widen
            shape = (*band.shape[:2], colours)
            noisy[..., :colours] += self.sigma * 65535 * generator.standard_normal(shape, np.float32)
            yield np.rint(np.clip(noisy, 0, 65535)).astype(np.uint16)


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
    estimate = upscaler.estimate(source, size)
    colours = source.channels - (source.channels in (2, 4))
    needed = estimate.height * estimate.width * (colours + 1) * 4
    if needed > upscaler.spare_memory(estimate):
        raise UserError(
            f"the map of uncertainty needs {megabytes(needed)} beside the upscaling; use a smaller picture or scale"
        )
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
    result: NDArray[np.float32] = np.sqrt(squares / (samples - 1))
    return result
