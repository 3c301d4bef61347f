"""RRDBNet and Compact by the convolutions of ``winograd.py``: the same numbers, for inference on the CPU in float32."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from upscaler.model import winograd
from upscaler.model.compact import Compact
from upscaler.model.layouts import Built
from upscaler.model.network import Network
from upscaler.model.residual import Residual, ResidualBlock
from upscaler.model.rrdbnet import RRDB, ResidualDenseBlock, RRDBNet

Worked = Callable[[int], None]
"""Told of multiplications that are done, in the number that direct convolutions need."""

_Floats = NDArray[np.float32]
_SLOPE = 0.2


def accelerated(network: Network, worked: Worked = lambda _: None) -> Accelerated | None:
    """What computes the same as a network, faster; None where there is no such thing.

    The weights are transformed, and so copied, at the first use; the network must not change before. What it needs
    of ``winograd`` must be ``usable``.

    Args:
        network: on the CPU, in float32.
        worked: told of the work as it is done.
    """
    # Networks derived from these may compute something else.
    if type(network) is RRDBNet:
        return AcceleratedRRDBNet(network, worked)
    if type(network) is Compact:
        return AcceleratedCompact(network, worked)
    return AcceleratedResidual(network, worked) if type(network) is Residual else None


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
        return winograd.workspace_floats(inputs, outputs)


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
    def _transformed(self) -> tuple[_Floats, _Floats, _Floats]:
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


class AcceleratedCompact(Accelerated):
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
        self.head_floats = network.head_floats

    def features(self, x: Tensor) -> Tensor:
        first, *hidden, last = self._convolutions
        y, spare = first(x), None
        for convolution in hidden:
            y, spare = convolution(y, out=spare), y
        del spare
        return last(y, base=_nearest(x, self.scale))

    def reconstruct(self, f: Tensor) -> Tensor:
        return F.pixel_shuffle(f, self.scale)


class AcceleratedResidual(Accelerated):
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
        # The trunk's skip, a block's input, middle and output; at the end the picture folded into channels, twice.
        self.trunk_floats = self.channels + max(4 * features, features + 2 * folded)
        self.head_floats = network.head_floats

    def features(self, x: Tensor) -> Tensor:
        shallow = self._first(x)
        deep, middle = shallow.clone(), None
        for first, second in self._blocks:
            middle = first(deep, out=middle)
            deep = second(middle, base=deep, out=deep)
        return self._last(self._body(deep, base=shallow, out=shallow), base=_nearest(x, self.scale))

    def reconstruct(self, f: Tensor) -> Tensor:
        return F.pixel_shuffle(f, self.scale)


def _nearest(x: Tensor, scale: int) -> Tensor:
    """A picture enlarged by nearest neighbour and folded into channels, in channels_last."""
    return torch.from_numpy(winograd.pixels(x).repeat(scale**2, axis=3)).permute(0, 3, 1, 2)


def _slope(activation: nn.Module) -> float | Tensor:
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().clone()
    return float(activation.negative_slope) if isinstance(activation, nn.LeakyReLU) else 0.0


class _Dense:
    """A residual dense block, in which what a convolution makes is transformed once for all that read it.

    All convolutions run over the picture together, a few bands of tiles apart, so that what is transformed need not be
    kept for longer than the last of them takes to come by.
    """

    def __init__(self, block: ResidualDenseBlock, worked: Worked) -> None:
        convolutions = [block.conv1, block.conv2, block.conv3, block.conv4, block.conv5]
        self.fusion = None if block.conv5.kernel_size == (3, 3) else copy.deepcopy(block.conv5)
        self.residual_scale, self.worked = block.residual_scale, worked
        features, growth = block.conv1.in_channels, block.conv1.out_channels
        self._fast = convolutions[: 4 if self.fusion else 5]
        self._widths = ([features] + 4 * [growth])[: len(self._fast)]
        *self.starts, self.wide = accumulate(map(winograd.rounded, self._widths), initial=0)
        self.operations = sum(convolution.weight.numel() for convolution in convolutions)

    @property
    def weight_floats(self) -> int:
        """Floats of the transformed weights."""
        ends = [*self.starts[1:], self.wide]
        return sum(
            winograd.transformed_floats(end, convolution.out_channels)
            for end, convolution in zip(ends, self._fast, strict=True)
        )

    @cached_property
    def stages(self) -> list[tuple[_Floats, _Floats, _Floats]]:
        """Of each convolution the transformed weights, and a bias and a slope for each channel."""
        return [self._stage(number, convolution) for number, convolution in enumerate(self._fast)]

    def _stage(self, number: int, convolution: nn.Conv2d) -> tuple[_Floats, _Floats, _Floats]:
        parts = torch.split(convolution.weight.detach().double(), self._widths[: number + 1], dim=1)
        u = torch.cat([winograd.transformed(part) for part in parts], dim=2).float().numpy()
        bias = winograd.padded(convolution.bias, convolution.out_channels, 0)
        return u, bias, np.full(len(bias), _SLOPE if number < 4 else 1, np.float32)

    @staticmethod
    def lag(width: int) -> int:
        """Bands by which a convolution follows the one before, so that the pixels around a band are there."""
        return -(-(-(-width // 4) + 1) // winograd.band())

    def ring(self, width: int) -> tuple[int, int]:
        """Bands whose transformed inputs are held for pictures of that width, and the floats of one."""
        return 4 * self.lag(width) + 1, winograd.PLACES * winograd.band() * self.wide

    def __call__(self, x: _Floats, grown: Sequence[_Floats], y: _Floats) -> None:
        """(N, H, W, features) to ``y``, which is of the same shape; ``grown`` has room for the four growths."""
        use, _ = winograd.shared_out()
        n, height, width, _ = x.shape
        lag, band, tiles = self.lag(width), winograd.band(), n * winograd.tiles_of(height, width)
        slots, _ = self.ring(width)
        ring = winograd.WORKSPACE.floats("dense", slots, 1, winograd.PLACES, band, self.wide)
        bands, stages = -(-tiles // band), self.stages
        targets = [*grown, y]
        for step in range(bands + (len(stages) - 1) * lag):
            for number, (u, bias, slope) in enumerate(stages):
                current = step - number * lag
                if not 0 <= current < bands:
                    continue
                source, base, factor = (x if number == 0 else grown[number - 1]), winograd.NOTHING, 1.0
                if number == 4:
                    base, factor = x, self.residual_scale
                v, m = ring[current % slots], winograd.products(len(bias))
                first, start = current * band, self.starts[number]
                count = min(band, tiles - first)
                use.convolve(
                    source,
                    0,
                    first,
                    count,
                    v,
                    start,
                    True,
                    u,
                    m,
                    bias,
                    slope,
                    base,
                    np.float32(factor),
                    targets[number],
                )
        if self.fusion is not None:
            dense = torch.from_numpy(np.concatenate((x, *grown), axis=3)).permute(0, 3, 1, 2)
            fused = self.fusion(dense).permute(0, 2, 3, 1)
            torch.add(torch.from_numpy(x), fused, alpha=self.residual_scale, out=torch.from_numpy(y))
        self.worked(height * width * self.operations)


class AcceleratedRRDBNet(Accelerated):
    """``RRDBNet``."""

    def __init__(self, network: RRDBNet, worked: Worked) -> None:
        super().__init__(network)
        settings = network.settings()
        self.upsampling, self.output_activation = network.upsampling, network.output_activation
        self._growth, self._residual_scale = settings["growth"], settings["residual_scale"]
        blocks = [block for block in network.body if isinstance(block, RRDB)]
        self._blocks = [[_Dense(dense, worked) for dense in (each.rdb1, each.rdb2, each.rdb3)] for each in blocks]
        self._first, self._body = Convolution(network.conv_first, worked), Convolution(network.conv_body, worked)
        self._ups = [
            Convolution(network.get_submodule(f"conv_up{step}"), worked, _SLOPE, doubling=self.upsampling == "nearest")
            for step in range(1, network.doublings + 1)
        ]
        self._hr, self._last = Convolution(network.conv_hr, worked, _SLOPE), Convolution(network.conv_last, worked)
        self._convolutions = [self._first, self._body, *self._ups, self._hr, self._last]
        features = settings["features"]
        # What comes in, the trunk's skip, the RRDB's, two dense blocks and the growths; a fusion of 1x1 joins them.
        joined = 0 if settings["fusion_kernel"] == 3 else 2 * features + 4 * self._growth
        self.trunk_floats = self.channels * self.unshuffle**2 + 4 * features + 4 * self._growth + joined
        # The HR convolution's input and output.
        self.head_floats = (self.scale * self.unshuffle) ** 2 * (2 * features + self.channels)

    @property
    def weight_floats(self) -> int:
        return super().weight_floats + sum(each.weight_floats for block in self._blocks for each in block)

    def workspace_floats(self, width: int) -> int:
        return super().workspace_floats(width) + int(np.prod(self._blocks[0][0].ring(width)))

    def features(self, x: Tensor) -> Tensor:
        shallow = self._first(F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x)
        deep = winograd.pixels(shallow.clone())
        one, other = winograd.empty(*deep.shape), winograd.empty(*deep.shape)
        grown = [winograd.empty(*deep.shape[:3], self._growth) for _ in range(4)]
        for first, second, third in self._blocks:
            first(deep, grown, one)
            second(one, grown, other)
            third(other, grown, one)
            torch.from_numpy(deep).add_(torch.from_numpy(one), alpha=self._residual_scale)
        del one, other, grown
        return self._body(torch.from_numpy(deep).permute(0, 3, 1, 2), base=shallow)

    def reconstruct(self, f: Tensor) -> Tensor:
        for up in self._ups:
            f = up(f)
            if self.upsampling == "pixelshuffle":
                f = F.pixel_shuffle(f, 2)
        out = self._last(self._hr(f))
        if self.output_activation == "sigmoid":
            return torch.sigmoid(out)
        if self.output_activation == "tanh":
            return (torch.tanh(out) + 1) / 2
        return out
