"""Blur kernels of Real-ESRGAN, drawn at random, and filtering with one kernel per picture.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021 (arXiv:2107.10833), sections 3.1 and 3.3. Where the paper gives a range without a
distribution, the distribution is that of the configuration the published networks were trained with.

A kernel is indexed [row, column]. Kernels are made on the CPU in double precision, so that the same
draw gives the same kernel on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from upscaler.transfers import constant, sent

Range = tuple[float, float]

_LARGE = 13


def uniform(bounds: Range, count: int, generator: Generator) -> Tensor:
    """(count,) float64 on the CPU, evenly distributed over ``bounds``."""
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device).cpu().double()


def chance(probability: float, count: int, generator: Generator) -> Tensor:
    """(count,) bool on the CPU, each true with that probability."""
    return uniform((0, 1), count, generator) < probability


def choice(weights: tuple[float, ...], count: int, generator: Generator) -> Tensor:
    """(count,) int64 on the CPU: indices of ``weights``, drawn in proportion to them."""
    edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    return torch.bucketize(uniform((0, float(edges[-1])), count, generator), edges[:-1], right=True)


@dataclass(frozen=True)
class Blur:
    """What the blur kernels of one stage are drawn from; the defaults are the first stage's.

    Attributes:
        sizes: odd edge lengths in pixels, equally likely.
        sigma: standard deviations along both axes in pixels.
        gaussian: shares of isotropic and anisotropic Gaussian kernels.
        generalised: the same of generalised Gaussian kernels.
        plateau: the same of plateau-shaped kernels.
        generalised_beta: shapes of generalised Gaussian kernels. Half of those drawn lie below 1
            (peaked), half above (flat).
        plateau_beta: the same of plateau-shaped kernels. From 1 on, half of them are exactly 1.
        sinc_probability: how often a kernel is a sinc filter instead of all of these.
        sinc_cutoff: cutoff frequencies of sinc filters smaller than 13 pixels, in radians per pixel.
        large_sinc_cutoff: the same of sinc filters from 13 pixels on, which can hold longer waves.
    """

    sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sigma: Range = (0.2, 3.0)
    gaussian: tuple[float, float] = (0.45, 0.25)
    generalised: tuple[float, float] = (0.12, 0.03)
    plateau: tuple[float, float] = (0.12, 0.03)
    generalised_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    sinc_probability: float = 0.1
    sinc_cutoff: Range = (pi / 3, pi)
    large_sinc_cutoff: Range = (pi / 5, pi)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """``count`` kernels as (count, K, K), float64 on the CPU; K is the largest size drawn."""
        sizes = draw_sizes(self.sizes, count, generator)
        shape = choice((*self.gaussian, *self.generalised, *self.plateau), count, generator)
        family, anisotropic = shape // 2, shape % 2 == 1
        along = uniform(self.sigma, count, generator)
        across = torch.where(anisotropic, uniform(self.sigma, count, generator), along)
        rotation = uniform((-pi, pi), count, generator)
        generalised_beta = _draw_beta(self.generalised_beta, count, generator)
        plateau_beta = _draw_beta(self.plateau_beta, count, generator)
        is_sinc = chance(self.sinc_probability, count, generator)
        cutoff = torch.where(
            sizes < _LARGE,
            uniform(self.sinc_cutoff, count, generator),
            uniform(self.large_sinc_cutoff, count, generator),
        )

        gaussian_beta = torch.where(family == 1, generalised_beta, 1.0)
        gaussians = gaussian(along, across, rotation, gaussian_beta, sizes)
        plateaus = plateau(along, across, rotation, plateau_beta, sizes)
        blurs = torch.where((family == 2)[:, None, None], plateaus, gaussians)
        return torch.where(is_sinc[:, None, None], sinc(cutoff, sizes), blurs)


def draw_sizes(sizes: tuple[int, ...], count: int, generator: Generator) -> Tensor:
    """(count,) int64 on the CPU, each of ``sizes`` equally likely."""
    return torch.tensor(sizes)[choice((1.0,) * len(sizes), count, generator)]


def gaussian(along: Tensor, across: Tensor, rotation: Tensor, beta: Tensor, sizes: Tensor) -> Tensor:
    """Generalised Gaussian kernels: exp(-(c' S^-1 c)^beta / 2), normalised (section 3.1).

    Args:
        along: (N,), standard deviation in pixels along the first axis, which is horizontal unrotated.
        across: (N,), the same along the second axis.
        rotation: (N,), angle of the first axis in radians, from rightwards to downwards.
        beta: (N,), shape: 1 is the Gaussian, less is more peaked, more is flatter.
        sizes: (N,), odd edge lengths.

    Returns:
        (N, K, K) with sums of 1, K the largest size; smaller kernels are zero outside their size.
    """
    return _normalised(torch.exp(-(_distance(along, across, rotation, sizes) ** beta[:, None, None]) / 2), sizes)


def plateau(along: Tensor, across: Tensor, rotation: Tensor, beta: Tensor, sizes: Tensor) -> Tensor:
    """Plateau-shaped kernels: 1 / (1 + (c' S^-1 c)^beta), normalised (section 3.1).

    Arguments and result are those of ``gaussian``.
    """
    return _normalised(1 / (1 + _distance(along, across, rotation, sizes) ** beta[:, None, None]), sizes)


def sinc(cutoff: Tensor, sizes: Tensor) -> Tensor:
    """Circular sinc filters, ideal low passes cut to a square: they ring (section 3.3).

    k(i, j) = w / (2 pi r) J1(w r) with r the distance from the centre, normalised.

    Args:
        cutoff: (N,), w, in radians per pixel, above 0 and at most pi.
        sizes: (N,), odd edge lengths.

    Returns:
        (N, K, K) as of ``gaussian``; some values are negative.
    """
    x, y = _grid(sizes)
    radius = torch.hypot(x, y)
    w = cutoff[:, None, None]
    # J1(z) tends to z / 2, so the centre is w^2 / (4 pi).
    kernels = torch.where(radius > 0, w * torch.special.bessel_j1(w * radius) / (2 * pi * radius), w**2 / (4 * pi))
    return _normalised(kernels, sizes)


def sometimes(kernels: Tensor, probability: float, generator: Generator) -> Tensor:
    """Each of the kernels (N, K, K) with that probability, else one that changes nothing."""
    nothing = torch.zeros_like(kernels[0])
    nothing[len(nothing) // 2, len(nothing) // 2] = 1
    return torch.where(chance(probability, len(kernels), generator)[:, None, None], kernels, nothing)


def filter_each(x: Tensor, kernels: Tensor) -> Tensor:
    """Filter every picture with its own kernel; the picture is mirrored beyond its edge (... 2 1 0 1 2 ...).

    Args:
        x: (N, C, H, W), any range.
        kernels: (N, K, K), K odd. All of them are symmetric about their centre here, so that
            correlation, which this is, is convolution.

    Returns:
        (N, C, H, W) on the device and of the type of ``x``.
    """
    count, channels, height, width = x.shape
    size = kernels.shape[-1]
    padded = mirror_pad(x, size // 2).reshape(1, count * channels, height + size - 1, width + size - 1)
    weight = sent(kernels.to(x.dtype), x.device).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weight, groups=count * channels).reshape(x.shape)


def mirror_pad(x: Tensor, margin: int) -> Tensor:
    """(N, C, H + 2 margin, W + 2 margin): mirrored, the edge pixel not repeated, as often as it takes."""
    # F.pad refuses margins as wide as the picture, which is small after a strong reduction.
    for dim in (-2, -1):
        positions = torch.arange(-margin, x.shape[dim] + margin, device=x.device)
        x = x.index_select(dim, _mirrored(positions, x.shape[dim]))
    return x


def gaussian_averages(x: Tensor, sigma: float, radius: int, step: int = 1) -> Tensor:
    """Gaussian blur, seen once every ``step`` pixels.

    The averages lie around the centres of the squares of ``step`` pixels, between pixels where
    ``step`` is even. The picture is mirrored as in ``filter_each``.

    Args:
        x: (N, C, H, W), H and W multiples of ``step``.
        sigma: standard deviation in pixels.
        radius: how far the averages reach from the pixels nearest to their centres, in pixels.
        step: pixels from one average to the next.

    Returns:
        (N, C, H / step, W / step) on the device and of the type of ``x``.
    """
    # As matrix products: a convolution this long in one direction is many times slower on the CPU.
    rows, columns = (
        constant(_averaging, length, sigma, radius, step, device=x.device, dtype=x.dtype) for length in x.shape[-2:]
    )
    return rows @ x @ columns.T


def sharpen(hr: Tensor) -> Tensor:
    """Unsharp masking as Real-ESRGAN applies it to the pictures it trains towards (section 3.4).

    Detail is the picture minus its Gaussian blur (sigma 8, 51x51). Half of it is added where it is
    larger than 10/255, under a mask with edges as soft as the same blur makes them.

    Args:
        hr: (N, C, H, W), 0..1.

    Returns:
        (N, C, H, W), 0..1.
    """
    detail = hr - gaussian_averages(hr, 8, 25)
    mask = gaussian_averages((detail.abs() > 10 / 255).to(hr), 8, 25)
    return torch.lerp(hr, (hr + detail / 2).clamp(0, 1), mask)


def _averaging(length: int, sigma: float, radius: int, step: int) -> Tensor:
    """(length / step, length), float64: what each average takes from each pixel along one axis."""
    centres = torch.arange(length // step, dtype=torch.float64) * step + (step - 1) / 2
    between = 1 - step % 2
    reach = torch.arange(-radius, radius + 1 + between, dtype=torch.float64) - between / 2
    weights = torch.exp(-((reach / sigma) ** 2) / 2)
    taken = _mirrored((centres[:, None] + reach).long(), length)
    matrix = torch.zeros(len(centres), length, dtype=torch.float64)
    return matrix.scatter_add(1, taken, (weights / weights.sum()).expand_as(taken))


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Positions on an axis, mirrored into it at the first and last pixel."""
    period = max(2 * length - 2, 1)
    index = index % period
    return torch.minimum(index, period - index)


def _draw_beta(bounds: Range, count: int, generator: Generator) -> Tensor:
    low, high = bounds
    peaked = uniform((low, 1), count, generator)
    flat = uniform((1, high), count, generator)
    return torch.where(chance(0.5, count, generator), peaked, flat)


def _grid(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Columns x (1, 1, K) and rows y (1, K, 1) relative to the centre."""
    half = int(sizes.max()) // 2
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    return offsets[None, None, :], offsets[None, :, None]


def _distance(along: Tensor, across: Tensor, rotation: Tensor, sizes: Tensor) -> Tensor:
    """Squared Mahalanobis distance from the centre, c' S^-1 c, (N, K, K)."""
    x, y = _grid(sizes)
    cosine, sine = rotation.cos()[:, None, None], rotation.sin()[:, None, None]
    first = (x * cosine + y * sine) / along[:, None, None]
    second = (y * cosine - x * sine) / across[:, None, None]
    return first**2 + second**2


def _normalised(kernels: Tensor, sizes: Tensor) -> Tensor:
    x, y = _grid(sizes)
    kernels = kernels * (torch.maximum(x.abs(), y.abs()) <= sizes[:, None, None] // 2)
    return kernels / kernels.sum((1, 2), keepdim=True)
