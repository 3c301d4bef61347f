"""Networks that enlarge a turned or mirrored picture to the same result, turned or mirrored.

Eight channels in a row are one feature, seen in the eight turns of a square (``turns.TURNS``). In a first layer of 8
outputs the kernel of output 1 is that of output 0 mirrored left to right, that of output 2 is mirrored up and down, and
so on; deeper layers also read the channels in the order in which a turn puts them. That is a group convolution
(Cohen and Welling, "Group Equivariant Convolutional Networks", ICML 2016, arXiv:1602.07576) written as a plain one,
whose weights are bound to each other. The network stays one of the known architectures, and is run as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from upscaler.model.layouts import Built
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.turns import TURNS, Turn, turned

_MIRRORS = tuple(turn for turn in TURNS if sum(turn) == 1)
"""Each of the eight turns is one choice of these three, so three means over two are the mean over eight."""

_ROUNDING = 1e-3
"""Of the largest value of a tensor."""


class _Channels(NamedTuple):
    """What lies in the channels at one end of a layer: features or colours, of each ``edge`` x ``edge`` pixels."""

    colours: bool = False
    edge: int = 1


class _Bond(NamedTuple):
    """Weights equal themselves with the channels at both ends in this order and kernels mirrored.

    A mirror undoes itself, so one order serves to read and to write. Slopes and biases have one end.
    """

    mirror: Turn
    out: Tensor
    into: Tensor | None = None


class Equivariance:
    """The bonds between the weights of a network.

    Args:
        network: a generator, on its device.

    Raises:
        ValueError: a number of features that is no multiple of 8.
    """

    def __init__(self, network: Built) -> None:
        known: dict[tuple[torch.Size, _Channels, _Channels], list[_Bond]] = {}
        self._bonds: list[tuple[nn.Parameter, list[_Bond]]] = []
        for module, out, into in _layers(network):
            for parameter in module.parameters(recurse=False):
                key = (parameter.shape, out, into)
                if key not in known:
                    known[key] = [_bond(parameter, (out, into), mirror) for mirror in _MIRRORS]
                self._bonds.append((parameter, known[key]))

    @torch.no_grad()
    def bind_drawn(self) -> None:
        """Bind a new network. Its kernels were drawn independently with a mean of 0 and keep their variance."""
        for parameter, bonds in self._bonds:
            # A mean of eight has an eighth of the variance. Slopes have another mean, biases mostly begin as 0.
            gain = len(TURNS) ** 0.5 if parameter.dim() > 1 else 1
            parameter.copy_(_bound(parameter, bonds) * gain)

    @torch.no_grad()
    def bind_weights(self) -> None:
        """Replace weights by their mean over all turns: undo what rounding has moved apart."""
        for parameter, bonds in self._bonds:
            parameter.copy_(_bound(parameter, bonds))

    @torch.no_grad()
    def bind_gradients(self) -> None:
        """Replace gradients by their mean over all turns, which leaves bound weights bound.

        Of a loss that stays the same when result and target are turned, as L1 and L2 do, that is the
        gradient for the pictures in all eight turns.
        """
        for parameter, bonds in self._bonds:
            if parameter.grad is not None:
                parameter.grad.copy_(_bound(parameter.grad, bonds))

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether the weights are bound, but for rounding."""
        return all(
            (_bound(parameter, bonds) - parameter).abs().max() <= _ROUNDING * parameter.abs().max()
            for parameter, bonds in self._bonds
        )


def is_equivariant(network: Built) -> bool:
    """Whether a network enlarges every turned picture alike.

    One that folds pixels into channels first does not: pictures are padded at the right and below until they can be.
    """
    try:
        return network.unshuffle == 1 and Equivariance(network).holds()
    except ValueError:
        return False


def _layers(network: Built) -> list[tuple[nn.Module, _Channels, _Channels]]:
    """Every module, with what it gives and what it reads."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    out, into = dict.fromkeys(network.modules(), _Channels()), dict.fromkeys(network.modules(), _Channels())
    into[layers[0]] = _Channels(colours=True, edge=network.unshuffle)
    out[layers[-1]] = _Channels(colours=True, edge=isqrt(layers[-1].out_channels // network.channels))
    if isinstance(network, RRDBNet) and network.upsampling == "pixelshuffle":
        for step in range(1, network.doublings + 1):
            out[network.get_submodule(f"conv_up{step}")] = _Channels(edge=2)
    return [(module, out[module], into[module]) for module in network.modules()]


def _bond(parameter: nn.Parameter, ends: Sequence[_Channels], mirror: Turn) -> _Bond:
    orders = (_order(channels, end, mirror) for channels, end in zip(parameter.shape[:2], ends, strict=False))
    return _Bond(mirror, *(order.to(parameter.device) for order in orders))


def _order(channels: int, end: _Channels, mirror: Turn) -> Tensor:
    """(channels,): for each channel the one that takes its place in a mirror."""
    pixels = turned(torch.arange(end.edge**2).view(end.edge, end.edge), mirror).flatten()
    maps = channels // len(pixels)
    order = torch.arange(maps)
    if not end.colours:
        if maps % len(TURNS):
            raise ValueError(f"{maps} features are no multiple of {len(TURNS)}")
        order = (order[:: len(TURNS), None] + _followed(mirror)).flatten()
    return (order[:, None] * len(pixels) + pixels).flatten()


def _followed(mirror: Turn) -> Tensor:
    """(8,): where in ``TURNS`` each of them stands when the mirror is added behind it."""
    square = torch.arange(4).view(2, 2)
    places = {tuple(turned(square, turn).flatten().tolist()): place for place, turn in enumerate(TURNS)}
    return torch.tensor([places[tuple(turned(turned(square, turn), mirror).flatten().tolist())] for turn in TURNS])


def _bound(values: Tensor, bonds: Sequence[_Bond]) -> Tensor:
    """The mean over all turns, equal to the bit where values are bound to each other."""
    for bond in bonds:
        other = values.index_select(0, bond.out)
        if bond.into is not None:
            other = turned(other.index_select(1, bond.into), bond.mirror)
        values = (values + other) / 2
    return values
