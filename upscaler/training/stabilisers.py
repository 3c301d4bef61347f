"""What keeps GAN training stable: labels that are not too sure, noise on D's input, its place, and initialisation.

Everything random about a sample is a pure function of its seed, a number from 0 on. A run is therefore the
same however its samples are spread over processes, and needs no state of a generator to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from upscaler.model.residual import ResidualBlock
from upscaler.model.rrdbnet import ResidualDenseBlock
from upscaler.training.noise import seeded_normal

Initialisation = Literal["default", "kaiming", "orthogonal"]

_Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear

_REAL, _FAKE, _MIX, _NOISE, _SHIFT = range(5)
_POWER_ITERATIONS = 15


@dataclass(frozen=True)
class Labels:
    """The targets of the discriminator, drawn anew for each sample and step.

    Args:
        smoothing: how far the label of real pictures is below 1; that of generated ones stays 0, one-sided
            as in Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016 (arXiv:1606.03498),
            section 3.4.
        noise: labels are moved by up to this, evenly in either direction, and then clipped to 0..1: for a
            target beyond, cross-entropy has no minimum.
        flips: the probability that a sample has the label of the other kind.

    Raises:
        ValueError: a number outside 0..1.
    """

    smoothing: float = 0.0
    noise: float = 0.0
    flips: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= number <= 1 for number in (self.smoothing, self.noise, self.flips)):
            raise ValueError(f"smoothing, noise and flips of labels are within 0 and 1, not {self}")

    def real(self, seeds: Sequence[int]) -> Tensor:
        """(N, 1) float32 on the CPU: targets for the outputs of real pictures."""
        return self._drawn(seeds, _REAL, 1 - self.smoothing, 0.0)

    def fake(self, seeds: Sequence[int]) -> Tensor:
        """(N, 1) float32 on the CPU: targets for the outputs of generated pictures."""
        return self._drawn(seeds, _FAKE, 0.0, 1 - self.smoothing)

    def _drawn(self, seeds: Sequence[int], stream: int, label: float, other: float) -> Tensor:
        if not (self.noise or self.flips):
            return torch.full((len(seeds), 1), label)
        draws = np.array([np.random.default_rng((seed, stream)).random(2) for seed in seeds]).reshape(-1, 2)
        labels = np.where(draws[:, 0] < self.flips, other, label) + self.noise * (2 * draws[:, 1] - 1)
        return torch.from_numpy(labels.clip(0, 1).astype(np.float32)[:, None])


def mixing(seeds: Sequence[int]) -> Tensor:
    """(N, 1, 1, 1) float32 on the CPU, evenly distributed over 0..1: where the gradient penalty looks."""
    drawn = [np.random.default_rng((seed, _MIX)).random(dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.array(drawn, np.float32)).view(-1, 1, 1, 1)


def instance_noise(pictures: Tensor, sigma: float, seeds: Sequence[int], stream: int) -> Tensor:
    """Pictures with Gaussian noise, as the discriminator is to see them; gradients pass through.

    Sonderby et al., "Amortised MAP Inference for Image Super-resolution", ICLR 2017 (arXiv:1610.04490);
    Arjovsky and Bottou, ICLR 2017 (arXiv:1701.04862). Nothing is clipped.

    Args:
        pictures: (N, C, H, W), 0..1.
        sigma: standard deviation in the unit of the pictures; with 0 they come back as they are.
        seeds: one for each picture. The noise of a seed differs between kinds of devices, whose
            generators PyTorch has made differently.
        stream: tells different noises of the same sample apart, such as that on real and generated
            pictures; a number from 0 on.
    """
    if not sigma:
        return pictures
    keyed = zip(pictures, seeds, strict=True)
    noise = torch.stack([seeded_normal(picture, _seed(seed, _NOISE, stream)) for picture, seed in keyed])
    return torch.add(pictures, noise, alpha=sigma)


def shifted(pictures: Tensor, most: int, seeds: Sequence[int]) -> Tensor:
    """Pictures cut to a smaller size at a place of its own for each; gradients pass through.

    The gradient of a layer with a stride can have a grid (Odena et al., "Deconvolution and Checkerboard Artifacts",
    Distill 2016). That of a discriminator or VGG lies on patches as on the sub-pixels of the generator, always
    alike, and is learnt by it. With ``most`` a multiple of the stride it falls on all of them evenly.

    Args:
        pictures: (N, C, H, W).
        most: pixels that are left out along each axis, 0 to ``most`` - 1 of them before and the others behind; with
            0 the pictures come back as they are.
        seeds: one for each picture.

    Returns:
        (N, C, H - most, W - most).
    """
    if not most:
        return pictures
    height, width = pictures.shape[2] - most, pictures.shape[3] - most
    places = [np.random.default_rng((seed, _SHIFT)).integers(0, most, 2) for seed in seeds]
    keyed = zip(pictures, places, strict=True)
    return torch.stack([picture[:, top : top + height, left : left + width] for picture, (top, left) in keyed])


def fading(start: float, until: float, progress: float) -> float:
    """A value that falls in a straight line from ``start`` at progress 0 to 0 at progress ``until``, and stays there.

    Args:
        start: at the beginning.
        until: share of the whole, 0..1; at 0 the value is always 0.
        progress: 0..1.
    """
    return start * (1 - progress / until) if progress < until else 0.0


@torch.no_grad()
def initialise(
    network: nn.Module,
    kind: Initialisation,
    *,
    seed: int,
    slope: float = 0.2,
    scale: float = 1.0,
    last_scale: float = 1.0,
) -> None:
    """Draw the weights of all convolutions and linear layers anew, whatever was drawn before.

    The same seed makes the same weights on every device. Biases become 0 with ``kaiming`` and
    ``orthogonal``; norms and slopes of PReLU stay as they are. The power iteration of a spectral norm is
    begun anew too, as it belongs to the weights that were there.

    Args:
        network: a generator or discriminator.
        kind: ``default`` is PyTorch's own, uniform over +-1/sqrt(fan_in) for weights and biases;
            ``kaiming`` is normal with variance 2 / ((1 + slope^2) fan_in) (He et al., "Delving Deep into
            Rectifiers", ICCV 2015, arXiv:1502.01852, equation 15); ``orthogonal`` has the same gain (Saxe
            et al., ICLR 2014, arXiv:1312.6120).
        seed: of the weights.
        slope: of the activation for negative values: 0.2 for RRDBNet and discriminators, 0.25 for a new PReLU.
        scale: factor inside dense blocks, and on the second convolution of residual ones; ESRGAN has 0.1.
        last_scale: factor on the last layer: with a small one a network begins near what it is without it,
            which for Compact and Residual is nearest-neighbour enlargement.
    """
    if kind not in get_args(Initialisation):
        raise ValueError(f"there is no initialisation {kind}")
    generator = Generator().manual_seed(seed)
    layers = [module for module in network.modules() if isinstance(module, _Layer)]
    branches = {layer for module in network.modules() for layer in _branch(module)}
    for layer in layers:
        factor = (scale if layer in branches else 1.0) * (last_scale if layer is layers[-1] else 1.0)
        weight = _trained(layer)
        weight.copy_(_drawn_weight(layer, weight.shape, kind, slope, generator) * factor)
        if layer.bias is not None and kind == "default":
            bound = 1 / sqrt(weight[0].numel())
            drawn = torch.empty(layer.bias.shape).uniform_(-bound, bound, generator=generator)
            layer.bias.copy_(drawn * factor)
        elif layer.bias is not None:
            layer.bias.zero_()
        if is_parametrized(layer, "weight"):
            _restart_spectral_norm(layer, generator)


def _branch(module: nn.Module) -> Iterable[nn.Module]:
    """The layers by which a residual branch is made small."""
    if isinstance(module, ResidualDenseBlock):
        return module.modules()
    return [module.conv2] if isinstance(module, ResidualBlock) else []


def _drawn_weight(layer: _Layer, shape: torch.Size, kind: Initialisation, slope: float, generator: Generator) -> Tensor:
    weight = torch.empty(shape)
    if kind == "default":
        bound = 1 / sqrt(weight[0].numel())
        return weight.uniform_(-bound, bound, generator=generator)
    gain = sqrt(2 / (1 + slope**2))
    if kind == "orthogonal":
        return nn.init.orthogonal_(weight, gain, generator=generator)
    return weight.normal_(0, gain / sqrt(_fan_in(layer)), generator=generator)


def _fan_in(layer: _Layer) -> float:
    """How many products an output is the sum of."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    window = prod(layer.kernel_size) * layer.in_channels / layer.groups
    return window / prod(layer.stride) if isinstance(layer, nn.ConvTranspose2d) else window


def _trained(layer: _Layer) -> Tensor:
    """The weight before it is normalised."""
    if not is_parametrized(layer, "weight"):
        return layer.weight
    return layer.get_parameter("parametrizations.weight.original")


def _restart_spectral_norm(layer: _Layer, generator: Generator) -> None:
    """Find the largest singular value of a new weight, from new random vectors."""
    training = layer.training
    for vector in layer.get_submodule("parametrizations.weight").buffers():
        drawn = torch.empty(vector.shape).normal_(generator=generator)
        vector.copy_(drawn / drawn.norm())
    layer.train()  # in which every look at the weight is a step of the iteration
    for _ in range(_POWER_ITERATIONS):
        _ = layer.weight
    layer.train(training)


def _seed(*key: int) -> int:
    """A seed from numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
