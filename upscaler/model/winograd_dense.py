"""RRDBNet by fast convolutions: what is transformed once serves all later convolutions of its dense block."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.model import winograd
from upscaler.model.rrdbnet import RRDB, SLOPE, ResidualDenseBlock, RRDBNet
from upscaler.model.winograd_layers import Accelerated, Convolution, Floats, Worked


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
    def stages(self) -> list[tuple[Floats, Floats, Floats]]:
        """Of each convolution the transformed weights, and a bias and a slope for each channel."""
        return [self._stage(number, convolution) for number, convolution in enumerate(self._fast)]

    def _stage(self, number: int, convolution: nn.Conv2d) -> tuple[Floats, Floats, Floats]:
        parts = torch.split(convolution.weight.detach().double(), self._widths[: number + 1], dim=1)
        u = torch.cat([winograd.transformed(part) for part in parts], dim=2).float().numpy()
        bias = winograd.padded(convolution.bias, convolution.out_channels, 0)
        return u, bias, np.full(len(bias), SLOPE if number < 4 else 1, np.float32)

    @staticmethod
    def lag(width: int) -> int:
        """Bands by which a convolution follows the one before, so that the pixels around a band are there."""
        return -(-(-(-width // 4) + 1) // winograd.band())

    def ring(self, width: int) -> tuple[int, int]:
        """Bands whose transformed inputs are held for pictures of that width, and the floats of one."""
        return 4 * self.lag(width) + 1, winograd.PLACES * winograd.band() * self.wide

    def __call__(self, x: Floats, grown: Sequence[Floats], y: Floats) -> None:
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
            Convolution(network.get_submodule(f"conv_up{step}"), worked, SLOPE, doubling=self.upsampling == "nearest")
            for step in range(1, network.doublings + 1)
        ]
        self._hr, self._last = Convolution(network.conv_hr, worked, SLOPE), Convolution(network.conv_last, worked)
        self._convolutions = [self._first, self._body, *self._ups, self._hr, self._last]
        self._widest = self._growth
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
