"""RRDBNet, the generator of ESRGAN.

Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks", ECCVW 2018
(arXiv:1809.00219), section 3.1 and figure 4; the pixel-unshuffled input of scales 1 and 2 follows
Wang et al., "Real-ESRGAN", ICCVW 2021 (arXiv:2107.10833), section 4.1.
"""

from __future__ import annotations

from math import log2
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Upsampling = Literal["nearest", "pixelshuffle", "transposed"]
OutputActivation = Literal["none", "sigmoid", "tanh"]

SLOPE = 0.2
_HEAD = ("conv_up", "conv_hr", "conv_last")


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each fed with the input and every earlier result; the fifth fuses them (LFF)."""

    def __init__(self, features: int, growth: int, fusion_kernel: int, residual_scale: float) -> None:
        super().__init__()
        self.conv1 = _conv(features, growth)
        self.conv2 = _conv(features + growth, growth)
        self.conv3 = _conv(features + 2 * growth, growth)
        self.conv4 = _conv(features + 3 * growth, growth)
        self.conv5 = _conv(features + 4 * growth, features, fusion_kernel)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        dense = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense = torch.cat((dense, F.leaky_relu(conv(dense), SLOPE)), dim=1)
        fused: Tensor = self.conv5(dense)
        return x + self.residual_scale * fused


class RRDB(nn.Module):
    """Residual in residual: three dense blocks inside one more skip connection."""

    def __init__(self, features: int, growth: int, fusion_kernel: int, residual_scale: float) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(features, growth, fusion_kernel, residual_scale)
        self.rdb2 = ResidualDenseBlock(features, growth, fusion_kernel, residual_scale)
        self.rdb3 = ResidualDenseBlock(features, growth, fusion_kernel, residual_scale)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        deep: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + self.residual_scale * deep


class RRDBNet(nn.Module):
    """A trunk of RRDBs at low resolution and a head that doubles the size until the scale is reached.

    Args:
        features: width of the trunk.
        growth: channels that each convolution of a dense block adds.
        blocks: number of RRDBs; 64-32-23 is the published network of 16,697,987 parameters.
        scale: 1, 2, 4 or 8.
        unshuffle: input pixels folded into channels along each edge before the first convolution.
            1 is plain; Real-ESRGAN's x2 network has 2 and its x1 network 4, so that the head always
            enlarges four times.
        fusion_kernel: 1 or 3, the last convolution of a dense block (LFF).
        hr_kernel: 3 or 5, the convolution at full resolution.
        upsampling: nearest neighbour and convolution, sub-pixel convolution (Shi et al. 2016), or a
            transposed convolution of kernel 4 and stride 2.
        residual_scale: factor on every residual branch.
        output_activation: ``sigmoid`` gives 0..1; ``tanh`` is mapped from -1..1 to 0..1.
        channels: picture channels, in and out.

    Raises:
        ValueError: a value outside the ones named here.
    """

    architecture = "rrdbnet"

    def __init__(
        self,
        *,
        features: int = 64,
        growth: int = 32,
        blocks: int = 23,
        scale: int = 4,
        unshuffle: int = 1,
        fusion_kernel: int = 3,
        hr_kernel: int = 3,
        upsampling: Upsampling = "nearest",
        residual_scale: float = 0.2,
        output_activation: OutputActivation = "none",
        channels: int = 3,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4, 8) or unshuffle not in (1, 2, 4, 8) or scale * unshuffle > 8:
            raise ValueError(f"RRDBNet has no scale {scale} with unshuffle {unshuffle}")
        if fusion_kernel not in (1, 3) or hr_kernel not in (3, 5):
            raise ValueError(f"RRDBNet has no LFF kernel {fusion_kernel} with HR kernel {hr_kernel}")
        if upsampling not in get_args(Upsampling) or output_activation not in get_args(OutputActivation):
            raise ValueError(f"RRDBNet has no {upsampling} upsampling with {output_activation} output")
        if min(features, growth, blocks, channels) < 1:
            raise ValueError("RRDBNet needs at least one feature, growth channel, block and picture channel")
        self._settings = {
            "features": features,
            "growth": growth,
            "blocks": blocks,
            "scale": scale,
            "unshuffle": unshuffle,
            "fusion_kernel": fusion_kernel,
            "hr_kernel": hr_kernel,
            "upsampling": upsampling,
            "residual_scale": residual_scale,
            "output_activation": output_activation,
            "channels": channels,
        }
        self.scale = scale
        self.channels = channels
        self.unshuffle = unshuffle
        self.upsampling = upsampling
        self.output_activation = output_activation
        self.doublings = int(log2(scale * unshuffle))

        self.conv_first = _conv(channels * unshuffle**2, features)
        self.body = nn.Sequential(*(RRDB(features, growth, fusion_kernel, residual_scale) for _ in range(blocks)))
        self.conv_body = _conv(features, features)
        for step in range(1, self.doublings + 1):
            self.add_module(f"conv_up{step}", _up_convolution(features, upsampling))
        self.conv_hr = _conv(features, features, hr_kernel)
        self.conv_last = _conv(features, channels)

        dense_reach = 4 + fusion_kernel // 2
        self.trunk_reach = unshuffle * (3 * blocks * dense_reach + 2)
        self.head_reach = _head_reach(self.doublings, hr_kernel, upsampling)
        # The widest moment of a dense block: its input and the RRDB's and the trunk's skips, a
        # concatenation and the shorter one it is made from, and the new growth channels.
        self.trunk_floats = 3 * features + 2 * (features + 4 * growth) + growth
        # The last enlargement and the HR convolution hold two full pictures of features.
        self.head_floats = (scale * unshuffle) ** 2 * 3 * features
        self.feature_floats = features
        weights = {name: p.numel() for name, p in self.named_parameters() if p.dim() == 4}
        self.trunk_operations = sum(n for name, n in weights.items() if not name.startswith(_HEAD))
        self.head_operations = sum(n * self._positions(name) for name, n in weights.items() if name.startswith(_HEAD))

    def _positions(self, name: str) -> int:
        """Positions per feature pixel at which the head's convolution with this weight is applied."""
        if not name.startswith("conv_up"):
            return int(4**self.doublings)
        step = int(name[len("conv_up")])
        return int(4 ** (step if self.upsampling == "nearest" else step - 1))

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that make this network again."""
        return dict(self._settings)

    def features(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), H and W multiples of ``unshuffle``, to (N, features, H / u, W / u)."""
        shallow: Tensor = self.conv_first(F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x)
        deep: Tensor = self.conv_body(self.body(shallow))
        return shallow + deep

    def reconstruct(self, f: Tensor) -> Tensor:
        """(N, features, h, w) to (N, channels, h * s, w * s) with s = scale * unshuffle."""
        for step in range(1, self.doublings + 1):
            up = self.get_submodule(f"conv_up{step}")
            if self.upsampling == "nearest":
                f = up(F.interpolate(f, scale_factor=2, mode="nearest"))
            elif self.upsampling == "pixelshuffle":
                f = F.pixel_shuffle(up(f), 2)
            else:
                f = up(f)
            f = F.leaky_relu(f, SLOPE)
        out: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(f), SLOPE))
        if self.output_activation == "sigmoid":
            return torch.sigmoid(out)
        if self.output_activation == "tanh":
            return (torch.tanh(out) + 1) / 2
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H * scale, W * scale); any H and W of at least 1."""
        height, width = x.shape[-2:]
        down, right = -height % self.unshuffle, -width % self.unshuffle
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        return self.reconstruct(self.features(x))[..., : height * self.scale, : width * self.scale]


def _up_convolution(features: int, upsampling: Upsampling) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(features, features, kernel_size=4, stride=2, padding=1)
    return _conv(features, 4 * features if upsampling == "pixelshuffle" else features)


def _head_reach(doublings: int, hr_kernel: int, upsampling: Upsampling) -> int:
    """Feature pixels on each side of a feature pixel that its output pixels depend on.

    Followed back from the last convolution: the output pixels of feature pixel 0, then the rows each
    layer reads to make them.
    """
    reach = 1 + hr_kernel // 2
    first, last = -reach, int(2**doublings) - 1 + reach
    for _ in range(doublings):
        if upsampling == "nearest":
            first, last = (first - 1) // 2, (last + 1) // 2
        elif upsampling == "pixelshuffle":
            first, last = first // 2 - 1, last // 2 + 1
        else:  # kernel 4, stride 2: output row o reads the input rows (o - 1) // 2 and the next one
            first, last = (first - 1) // 2, (last - 1) // 2 + 1
    return max(-first, last)
