"""Compact and Residual by fast convolutions: every layer reads the whole of the one before."""

from __future__ import annotations

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.model import winograd
from upscaler.model.compact import Compact
from upscaler.model.residual import Residual, ResidualBlock
from upscaler.model.winograd_layers import Accelerated, Convolution, Worked


class _Chain(Accelerated):
    """A network whose head only unfolds the picture."""

    def __init__(self, network: Compact | Residual) -> None:
        super().__init__(network)
        self.head_floats = network.head_floats

    def reconstruct(self, f: Tensor) -> Tensor:
        return F.pixel_shuffle(f, self.scale)


class AcceleratedCompact(_Chain):
    """``Compact``."""

    def __init__(self, network: Compact, worked: Worked) -> None:
        super().__init__(network)
        layers = list(network.body)
        slopes = [_slope(activation) for activation in layers[1::2]]
        self._convolutions = [
            Convolution(module, worked, slope) for module, slope in zip(layers[::2], [*slopes, 1.0], strict=True)
        ]
        # The input and output of a layer; at the end also the picture folded into channels.
        features, folded = network.settings()["features"], network.feature_floats
        self.trunk_floats = self.channels + max(2 * features, features + 2 * folded)

    def features(self, x: Tensor) -> Tensor:
        first, *hidden, last = self._convolutions
        y, spare = first(x), None
        for convolution in hidden:
            y, spare = convolution(y, out=spare), y
        del spare
        return last(y, base=_nearest(x, self.scale))


class AcceleratedResidual(_Chain):
    """``Residual``."""

    def __init__(self, network: Residual, worked: Worked) -> None:
        super().__init__(network)
        blocks = [block for block in network.body if isinstance(block, ResidualBlock)]
        self._first = Convolution(network.conv_first, worked)
        self._blocks = [
            (Convolution(block.conv1, worked, _slope(block.act)), Convolution(block.conv2, worked)) for block in blocks
        ]
        self._body, self._last = Convolution(network.conv_after_body, worked), Convolution(network.conv_last, worked)
        self._convolutions = [self._first, *chain.from_iterable(self._blocks), self._body, self._last]
        features, folded = network.settings()["features"], network.feature_floats
        # The trunk's skip, a block's input and middle; at the end the picture folded into channels, twice.
        self.trunk_floats = self.channels + max(3 * features, features + 2 * folded)

    def features(self, x: Tensor) -> Tensor:
        shallow = self._first(x)
        deep, middle = shallow.clone(), None
        for first, second in self._blocks:
            middle = first(deep, out=middle)
            deep = second(middle, base=deep, out=deep)
        joined = self._body(deep, base=shallow, out=shallow)
        del deep, middle
        return self._last(joined, base=_nearest(x, self.scale))


def _nearest(x: Tensor, scale: int) -> Tensor:
    """A picture enlarged by nearest neighbour and folded into channels, in channels_last."""
    return torch.from_numpy(winograd.pixels(x).repeat(scale**2, axis=3)).permute(0, 3, 1, 2)


def _slope(activation: nn.Module) -> float | Tensor:
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().clone()
    return float(activation.negative_slope) if isinstance(activation, nn.LeakyReLU) else 0.0
