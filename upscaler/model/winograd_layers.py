"""What the accelerated networks are made of: single convolutions, and what all of them have."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from upscaler.model import winograd
from upscaler.model.layouts import Built

Worked = Callable[[int], None]
"""Told of multiplications that are done, in the number that direct convolutions need."""

Floats = NDArray[np.float32]


class Accelerated(ABC):
    """A network for inference, which keeps the ``Network`` protocol. Results are in channels_last."""

    trunk_floats: int
    head_floats: int

    def __init__(self, network: Built) -> None:
        self.architecture = network.architecture
        self.scale = network.scale
        self.channels = network.channels
        self.unshuffle = network.unshuffle
        self.trunk_reach = network.trunk_reach
        self.head_reach = network.head_reach
        self.feature_floats = network.feature_floats
        self.trunk_operations = network.trunk_operations
        self.head_operations = network.head_operations
        self._settings = network.settings()
        self._convolutions: list[Convolution] = []
        self._widest = 0  # channels that are made elsewhere

    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def reconstruct(self, f: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.unshuffle, 0, -height % self.unshuffle), mode="replicate")
        return self.reconstruct(self.features(x))[..., : height * self.scale, : width * self.scale]

    @property
    def weight_floats(self) -> int:
        """Floats of the transformed weights, which are held beside the network's own."""
        return sum(each.weight_floats for each in self._convolutions)

    def workspace_floats(self, width: int) -> int:  # noqa: ARG002
        """Floats of the buffers, whatever the number of pixels, for feature maps of that width."""
        modules = [each.module for each in self._convolutions if each.fast]
        inputs = max((module.in_channels for module in modules), default=0)
        outputs = max((module.out_channels for module in modules), default=0)
        return winograd.workspace_floats(inputs, max(outputs, self._widest))


class Convolution:
    """A convolution with its activation, its weights transformed once; PyTorch's own where no other is to be had.

    Args:
        module: the convolution.
        worked: told of the work as it is done.
        slope: by which negative results are multiplied: a number, or one for each channel; 1 for no activation.
        doubling: the input is first enlarged twice by nearest neighbour.
    """

    def __init__(
        self, module: nn.Module, worked: Worked, slope: float | Tensor = 1.0, *, doubling: bool = False
    ) -> None:
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            raise TypeError(f"{type(module)} is no convolution")
        self.worked, self.slope, self.doubling = worked, slope, doubling
        suits = isinstance(module, nn.Conv2d) and winograd.suits(module)
        self.fast = suits and module.in_channels >= winograd.FEWEST_CHANNELS
        # What PyTorch computes is laid out for it.
        self.module = module if self.fast else copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def weight_floats(self) -> int:
        """Floats of the transformed weights."""
        return winograd.transformed_floats(self.module.in_channels, self.module.out_channels) if self.fast else 0

    @cached_property
    def _transformed(self) -> tuple[Floats, Floats, Floats]:
        """The weights, and a bias and a slope for each channel."""
        outputs = self.module.out_channels
        slopes = self.slope if isinstance(self.slope, Tensor) else torch.full((outputs,), self.slope)
        return (
            winograd.transformed(self.module.weight.detach().double()).float().numpy(),
            winograd.padded(self.module.bias, outputs, 0),
            winograd.padded(slopes, outputs, 1),
        )

    def __call__(self, x: Tensor, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """(N, I, H, W) to (N, O, H, W), added to ``base`` where there is one.

        ``out`` is memory for the result, for which see ``winograd.convolve``; what PyTorch computes does without.
        """
        if self.fast:
            y = winograd.convolve(
                winograd.pixels(x),
                *self._transformed,
                self.module.out_channels,
                doubling=int(self.doubling),
                base=winograd.NOTHING if base is None else winograd.pixels(base),
                out=out,
            )
        else:
            x = F.interpolate(x, scale_factor=2, mode="nearest") if self.doubling else x
            y = self.module(x).contiguous(memory_format=torch.channels_last)
            y = F.prelu(y, self.slope) if isinstance(self.slope, Tensor) else F.leaky_relu_(y, self.slope)
            y = y if base is None else y + base
        positions = x if isinstance(self.module, nn.ConvTranspose2d) else y
        self.worked(positions.shape[-1] * positions.shape[-2] * self.module.weight.numel())
        return y
