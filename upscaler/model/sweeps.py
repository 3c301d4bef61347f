"""One picture by all the networks between two, measured; and by blending the two pictures, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from upscaler.images.metrics import colour_shift, luma
from upscaler.images.niqe import niqe
from upscaler.images.resize import resize
from upscaler.model.evaluation import measure
from upscaler.model.interpolation import Parent, between
from upscaler.model.sources import Pixels
from upscaler.model.upscaler import Size, Upscaler
from upscaler.model.weights import Weights


@dataclass(frozen=True)
class Reading:
    """What one result got, as of ``evaluation.Scores``; what needs a reference is None without one."""

    psnr_y: float | None
    ssim_y: float | None
    niqe: float | None
    drift: float | None
    drift_lr: float


@dataclass(frozen=True)
class Step:
    """The result at one alpha."""

    alpha: float
    pictures: bool
    """It is a blend of two pictures, not the picture of a blend of networks."""
    result: Pixels
    reading: Reading


def sweep(
    psnr: Parent,
    gan: Parent,
    alphas: Sequence[float],
    upscaler: Callable[[Weights], Upscaler],
    lr: Pixels,
    reference: Pixels | None = None,
    *,
    border: int,
    pictures: bool = False,
) -> Iterator[Step]:
    """Upscale a picture at every alpha and measure what comes out, one after the other.

    No result is held here once it was given out, but with ``pictures`` those at both ends.

    Args:
        psnr, gan: at alpha 0 and at alpha 1.
        alphas: in any order.
        upscaler: builds what upscales with these weights.
        lr: (h, w, C) uint8 or uint16, C 1 or 3.
        reference: (H, W, C) to measure with, which is then the size of the results.
        border: pixels at each edge that do not count in PSNR, SSIM and NIQE.
        pictures: at each alpha also blend the pictures of both networks, (1 - alpha) * PSNR + alpha * GAN, rounded.

    Raises:
        UserError: networks that do not fit each other, or as ``Upscaler.upscale``.
    """
    size = Size() if reference is None else Size(height=reference.shape[0], width=reference.shape[1])

    def upscaled(alpha: float) -> Pixels:
        return upscaler(between(psnr, gan, alpha)).upscale(lr, size)

    def step(alpha: float, result: Pixels, *, of_pictures: bool = False) -> Step:
        return Step(alpha, of_pictures, result, _reading(result, lr, reference, border))

    ends = {alpha: upscaled(alpha) for alpha in (0.0, 1.0)} if pictures else {}
    for alpha in alphas:
        # A result without a name here is gone as soon as it is let go of there, before the next one is made.
        yield step(alpha, ends[alpha] if alpha in ends else upscaled(alpha))
        if pictures:
            yield step(alpha, blended(ends[0.0], ends[1.0], alpha), of_pictures=True)


def runs(alphas: Sequence[float], *, pictures: bool) -> int:
    """How many pictures a ``sweep`` upscales."""
    return len(alphas) + (len({0.0, 1.0} - set(alphas)) if pictures else 0)


def blended(psnr: Pixels, gan: Pixels, alpha: float) -> Pixels:
    """(1 - alpha) * psnr + alpha * gan, rounded and clipped; (H, W, C) of one type of integers."""
    top = np.iinfo(psnr.dtype).max
    mixed: Pixels = np.empty_like(psnr)
    for row, (a, b) in enumerate(zip(psnr, gan, strict=True)):
        mixed[row] = np.clip(np.rint(a + alpha * (b.astype(np.float64) - a)), 0, top)
    return mixed


def _reading(result: Pixels, lr: Pixels, reference: Pixels | None, border: int) -> Reading:
    if reference is None:
        shift = colour_shift(resize(result, *lr.shape[:2]), lr)
        return Reading(None, None, niqe(luma(result), border), None, max(map(abs, shift)))
    scores = measure(result, reference, lr, border)
    return Reading(scores.psnr_y, scores.ssim_y, scores.niqe, scores.drift, scores.drift_lr)
