"""Networks that enlarge a turned or mirrored picture to the same result, turned or mirrored.

Every kernel stands in the network in all its eight turns, as in a group convolution (Cohen and Welling, "Group
Equivariant Convolutional Networks", ICML 2016, arXiv:1602.07576): eight channels in a row are one feature in the eight
turns. A group convolution is a convolution whose weights are bound to each other, so the network stays one of the known
architectures, with nothing new to compute, tile or export; only its training knows. What a patch teaches it, it learns
for all turns at once.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from upscaler.model.layouts import Built
from upscaler.model.turns import TURNS, Turn, turned

_ORDER = len(TURNS)
_MIRRORS = tuple(turn for turn in TURNS if sum(turn) == 1)
"""Every turn is some of these, one after the other."""

_ROUNDING = 1e-3


class _Bond(NamedTuple):
    """Weights are bound to themselves in a mirror, with channels in this order."""

    mirror: Turn
    out: Tensor
    into: Tensor | None = None


class Equivariance:
    """The bonds between the weights of a network.

    Args:
        network: a generator, on its device.

    Raises:
        ValueError: channels between its convolutions that are no multiple of 8.
    """

    def __init__(self, network: Built) -> None:
        self._bonds: list[tuple[nn.Parameter, list[_Bond]]] = []
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        for module in network.modules():
            colours = (network.channels * (module is layers[-1]), network.channels * (module is layers[0]))
            for parameter in module.parameters(recurse=False):
                bonds = [_bond(parameter, colours, mirror) for mirror in _MIRRORS]
                self._bonds.append((parameter, bonds))

    @torch.no_grad()
    def draw(self) -> None:
        """Bind weights that were drawn independently, with a mean of 0; their variance stays."""
        for parameter, bonds in self._bonds:
            bound = _bound(parameter, bonds)
            # The mean of eight values varies an eighth as much as each.
            parameter.copy_(bound * _ORDER**0.5 if parameter.dim() > 1 else bound)

    @torch.no_grad()
    def bind_gradients(self) -> None:
        """Make each gradient the mean of those in all turns: that of the loss over all turns of the pictures."""
        for parameter, bonds in self._bonds:
            if parameter.grad is not None:
                parameter.grad.copy_(_bound(parameter.grad, bonds))

    @torch.no_grad()
    def bind_weights(self) -> None:
        """Undo what rounding has moved apart, which an optimiser that scales small gradients up would add to."""
        for parameter, bonds in self._bonds:
            parameter.copy_(_bound(parameter, bonds))

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether the weights are bound, but for rounding."""
        return all(
            (_bound(parameter, bonds) - parameter).abs().max() <= _ROUNDING * parameter.abs().max()
            for parameter, bonds in self._bonds
        )


def is_equivariant(network: Built) -> bool:
    """Whether a network enlarges turned and mirrored pictures alike, because its weights are bound."""
    try:
        return Equivariance(network).holds()
    except ValueError:
        return False


def _bound(values: Tensor, bonds: list[_Bond]) -> Tensor:
    """The mean over all turns, as means over each mirror after the other."""
    for bond in bonds:
        other = values.index_select(0, bond.out)
        if bond.into is not None:
            other = turned(other.index_select(1, bond.into), bond.mirror)
        values = values.lerp(other, 0.5)
    return values


def _bond(parameter: nn.Parameter, colours: tuple[int, int], mirror: Turn) -> _Bond:
    """``colours``: those of the picture that is folded into what the parameter gives, and into what it reads, or 0."""
    ends = zip(parameter.shape[:2], colours, strict=False)  # slopes and biases have only what they give
    return _Bond(mirror, *(_mirrored(channels, folded, mirror).to(parameter.device) for channels, folded in ends))


def _mirrored(channels: int, colours: int, mirror: Turn) -> Tensor:
    """(channels,): of each channel the one that takes its place in a mirror.

    Args:
        channels: how many there are.
        colours: of a picture whose pixels are folded into the channels; 0 for channels within the network.
        mirror: which of the mirrors.
    """
    if colours:
        edge = isqrt(channels // colours)
        group = turned(torch.arange(edge**2).view(edge, edge), mirror).flatten()
    elif channels % _ORDER:
        raise ValueError(f"{channels} channels are no multiple of {_ORDER}")
    else:
        group = _followed(mirror)
    return (torch.arange(0, channels, len(group))[:, None] + group).flatten()


def _followed(mirror: Turn) -> Tensor:
    """(8,): for each turn the place of the one that it becomes with a mirror behind it."""
    square = torch.arange(4).view(2, 2)
    places = {tuple(turned(square, turn).flatten().tolist()): place for place, turn in enumerate(TURNS)}
    return torch.tensor([places[tuple(turned(turned(square, turn), mirror).flatten().tolist())] for turn in TURNS])
