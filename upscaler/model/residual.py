"""Residual blocks without normalisation at low resolution, and one enlargement.

The trunk is that of SRResNet (Ledig et al., CVPR 2017, arXiv:1609.04802) without its batch norm, as in EDSR (Lim et
al., CVPR Workshops 2017, arXiv:1707.02921). The tail is a single sub-pixel convolution (Shi et al., CVPR 2016,
arXiv:1609.05158), and the network learns only the difference to nearest-neighbour enlargement.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions with PReLU between them, added to what comes in."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.act = nn.PReLU(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features, H, W) to the same."""
        deep: Tensor = self.conv2(self.act(self.conv1(x)))
        return x + deep


class Residual(nn.Module):
    """A trunk of residual blocks with one enlargement at its end.

    Args:
        features: width of the trunk.
        blocks: number of residual blocks.
        scale: any whole number from 1.
        channels: picture channels, in and out.

    Raises:
        ValueError: a value outside the ones named here.
    """

    architecture = "residual"
    unshuffle = 1
    head_reach = 0

    def __init__(self, *, features: int = 64, blocks: int = 8, scale: int = 4, channels: int = 3) -> None:
        super().__init__()
        if min(features, blocks, scale, channels) < 1:
            raise ValueError("Residual needs at least one feature, block, picture channel and scale 1")
        self._settings = {"features": features, "blocks": blocks, "scale": scale, "channels": channels}
        self.scale = scale
        self.channels = channels

        self.conv_first = nn.Conv2d(channels, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, channels * scale**2, 3, padding=1)

        self.trunk_reach = 2 * blocks + 3
        # The trunk's skip, and of a block its skip, its input and output and one rearranged copy; at the end the
        # picture folded into channels in the place of some.
        self.trunk_floats = channels + 2 * features + 3 * max(features, channels * scale**2)
        self.head_floats = 2 * channels * scale**2
        self.feature_floats = channels * scale**2
        self.trunk_operations = sum(p.numel() for p in self.parameters() if p.dim() == 4)
        self.head_operations = 0

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that make this network again."""
        return dict(self._settings)

    def features(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels * scale^2, H, W): the picture, still folded into channels."""
        shallow: Tensor = self.conv_first(x)
        deep: Tensor = self.conv_after_body(self.body(shallow))
        residual: Tensor = self.conv_last(shallow + deep)
        return residual + x.repeat_interleave(self.scale**2, dim=1)

    def reconstruct(self, f: Tensor) -> Tensor:
        """(N, channels * scale^2, h, w) to (N, channels, h * scale, w * scale)."""
        return F.pixel_shuffle(f, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H * scale, W * scale)."""
        return self.reconstruct(self.features(x))
