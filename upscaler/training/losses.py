"""Pixel losses, evenness, adversarial losses and gradient penalties, all without weights.

All but ``evenness_loss`` are means over the batch.

Adversarial losses take raw outputs of a discriminator, (N, 1), or (N, 1, h, w) where it judges places. The
papers: standard, Goodfellow et al. 2014 (arXiv:1406.2661); relativistic, Jolicoeur-Martineau 2018
(arXiv:1807.00734), and its average as in Wang et al., "ESRGAN", ECCVW 2018 (arXiv:1809.00219), equations 1
and 2; LSGAN, Mao et al. 2017 (arXiv:1611.04076), equation 9; hinge, Lim and Ye 2017 (arXiv:1705.02894);
WGAN, Arjovsky et al. 2017 (arXiv:1701.07875).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLoss = Literal["l1", "l2", "charbonnier"]
Adversarial = Literal["standard", "relativistic", "relativistic-average", "lsgan", "hinge", "wgan"]

_CHARBONNIER = 1e-3
_VISIBLE = 4 / 255
"""A Laplacian that can be seen in smooth parts."""


def pixel_loss(kind: PixelLoss, result: Tensor, target: Tensor) -> Tensor:
    """The mean difference of pictures of the same shape.

    ``charbonnier`` is sqrt(d^2 + 0.001^2) (Lai et al., "Deep Laplacian Pyramid Networks", CVPR 2017,
    arXiv:1704.03915, equation 2): L1 that is smooth where it meets 0.
    """
    result, target = result.float(), target.float()
    if kind == "l1":
        return F.l1_loss(result, target)
    if kind == "l2":
        return F.mse_loss(result, target)
    if kind == "charbonnier":
        return ((result - target).square() + _CHARBONNIER**2).sqrt().mean()
    raise ValueError(f"there is no pixel loss {kind}")


def evenness_loss(
    result: Tensor, target: Tensor, scale: int, pooled: Callable[[Tensor], Tensor] = lambda own: own
) -> Tensor:
    """How much more, or less, the sub-pixels of one LR pixel differ than in the target.

    A generator with a sub-pixel convolution has filters of its own for each of the ``scale``^2 places in an LR pixel.
    Where nothing holds them together, as against a discriminator, each comes to differ from its neighbours in
    a way of its own, and smooth parts show a weave of ``scale`` pixels (Odena et al., "Deconvolution and Checkerboard
    Artifacts", Distill 2016). For each place and channel, over all pictures together: the mean of the Laplacian d, as
    d / sqrt(d^2 + v^2), and of its magnitude, as log(d^2 + v^2) / 2, with v = 4/255, so that smooth parts, where a
    weave is seen, count as much as edges. Those of the target are taken away; the loss is the sum of the variances of
    both over the places, the mean over the channels. The more pictures, the less of it is chance.

    Args:
        result: (N, C, H, W), 0..1, whose first row and column are the first of an LR pixel.
        target: the same shape; what is alike in both, such as an edge along the grid, does not count.
        scale: HR pixels per LR pixel, which divides H and W. One LR pixel along each edge, where networks see zeros
            beyond the picture, is left out, so both must be more than two times as large.
        pooled: makes of the means of these pictures those of more; under ``torchrun`` of all processes' pictures.
            It must be differentiable.
    """
    apart = pooled(_by_place(result.float(), scale) - _by_place(target.float(), scale))
    return apart.var(dim=2, correction=0).mean(1).sum()


def _by_place(pictures: Tensor, scale: int) -> Tensor:
    """(2, C, scale^2): both means of the Laplacian, its own and its magnitude's, at each place in an LR pixel."""
    high = _laplacian(pictures, scale)
    seen = high.square() + _VISIBLE**2
    measures = F.pixel_unshuffle(torch.stack((high / seen.sqrt(), seen.log() / 2)), scale)
    return measures.mean((1, 3, 4)).view(2, pictures.shape[1], scale**2)


def _laplacian(pictures: Tensor, margin: int) -> Tensor:
    """(N, C, H, W) to (N, C, H - 2 margin, W - 2 margin): each pixel times 4 less its neighbours."""
    inner = F.pad(pictures, (1 - margin,) * 4)
    beside = inner[..., 1:-1, :-2] + inner[..., 1:-1, 2:] + inner[..., :-2, 1:-1] + inner[..., 2:, 1:-1]
    return 4 * inner[..., 1:-1, 1:-1] - beside


def discriminator_loss(
    kind: Adversarial,
    real: Tensor,
    fake: Tensor,
    real_labels: Tensor,
    fake_labels: Tensor,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """What the discriminator minimises.

    Args:
        kind: with D for the raw output, x_r real and x_f fake, H(o, y) for the cross-entropy of
            sigmoid(o) with y, and E for the mean:

            - ``standard``: E H(D(x_r), y_r) + E H(D(x_f), y_f)
            - ``relativistic``: E H(D(x_r) - D(x_f), y_r), each real output against the fake one at its
              place; it has no use for y_f
            - ``relativistic-average``: half of E H(D(x_r) - E D(x_f), y_r) + E H(D(x_f) - E D(x_r), y_f)
            - ``lsgan``: E (D(x_r) - y_r)^2 + E (D(x_f) - y_f)^2, twice the paper's
            - ``hinge``: E max(0, 1 - D(x_r)) + E max(0, 1 + D(x_f))
            - ``wgan``: E D(x_f) - E D(x_r)
        real: raw outputs for the real pictures.
        fake: raw outputs for the generated pictures, in the same shape.
        real_labels: (N, 1), y_r, 1 where they are clean; on the device of the outputs.
        fake_labels: (N, 1), y_f, 0 where they are clean. ``hinge`` and ``wgan`` use no labels.
        mean: E inside the relativistic average; under ``torchrun`` a mean over the outputs of all
            processes, which must be differentiable.
    """
    real, fake = real.float(), fake.float()
    if kind == "standard":
        return _cross_entropy(real, real_labels) + _cross_entropy(fake, fake_labels)
    if kind == "relativistic":
        return _cross_entropy(real - fake, real_labels)
    if kind == "relativistic-average":
        real_term = _cross_entropy(real - mean(fake), real_labels)
        return (real_term + _cross_entropy(fake - mean(real), fake_labels)) / 2
    if kind == "lsgan":
        return F.mse_loss(real, _at(real, real_labels)) + F.mse_loss(fake, _at(fake, fake_labels))
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "wgan":
        return fake.mean() - real.mean()
    raise ValueError(f"there is no adversarial loss {kind}")


def generator_loss(
    kind: Adversarial, real: Tensor, fake: Tensor, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """What the generator minimises against the discriminator; its targets are always the clean ones.

    Args:
        kind: in the notation of ``discriminator_loss``:

            - ``standard``: E H(D(x_f), 1), which does not saturate
            - ``relativistic``: E H(D(x_f) - D(x_r), 1)
            - ``relativistic-average``: half of E H(D(x_r) - E D(x_f), 0) + E H(D(x_f) - E D(x_r), 1)
            - ``lsgan``: E (D(x_f) - 1)^2, twice the paper's
            - ``hinge`` and ``wgan``: -E D(x_f)
        real: raw outputs for the real pictures; only the relativistic losses look at them.
        fake: raw outputs for the generated pictures, through which gradients go to the generator.
        mean: as in ``discriminator_loss``.
    """
    real, fake = real.float(), fake.float()
    if kind == "standard":
        return F.softplus(-fake).mean()
    if kind == "relativistic":
        return F.softplus(real - fake).mean()
    if kind == "relativistic-average":
        return (F.softplus(real - mean(fake)).mean() + F.softplus(mean(real) - fake).mean()) / 2
    if kind == "lsgan":
        return (fake - 1).square().mean()
    if kind in ("hinge", "wgan"):
        return -fake.mean()
    raise ValueError(f"there is no adversarial loss {kind}")


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """How far the discriminator's slope is from 1 between real and generated pictures.

    Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017 (arXiv:1704.00028), equation 3
    without its weight. The norm of the gradient is that of one picture's score, so the discriminator must
    not have batch norm, which mixes pictures. The score of a map is its mean, the very thing that the
    losses look at; a sum would make the penalty grow with the size of the patch.

    Args:
        discriminator: (N, C, H, W) to (N, 1) or (N, 1, h, w).
        real, fake: (N, C, H, W).
        mix: (N, 1, 1, 1) in 0..1, the share of the real picture; on their device.
    """
    between = mix * real.detach().float() + (1 - mix) * fake.detach().float()
    slope: Tensor = torch.linalg.vector_norm(_gradient(discriminator, between).flatten(1), dim=1)
    return (slope - 1).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half the squared slope of the discriminator at real pictures.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018 (arXiv:1801.04406),
    equation 9 without its weight. For maps and batch norm see ``gradient_penalty``.

    Args:
        discriminator: (N, C, H, W) to (N, 1) or (N, 1, h, w).
        real: (N, C, H, W).
    """
    gradient = _gradient(discriminator, real.detach().float())
    return gradient.flatten(1).square().sum(1).mean() / 2


def _gradient(discriminator: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """(N, C, H, W): the gradient of each picture's score with respect to it, differentiable itself."""
    # In full precision: no loss scaling reaches the inner gradient, which half precision would round to 0.
    with torch.enable_grad(), torch.autocast(pictures.device.type, enabled=False):
        pictures = pictures.detach().requires_grad_()
        score = discriminator(pictures).flatten(1).mean(1).sum()
        gradient: Tensor = torch.autograd.grad(score, pictures, create_graph=True)[0]
    return gradient


def _cross_entropy(out: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(out, _at(out, labels))


def _at(out: Tensor, labels: Tensor) -> Tensor:
    """Labels (N, 1) for every output of their sample."""
    return labels.to(out.dtype).view(-1, *(1,) * (out.dim() - 1)).expand_as(out)
