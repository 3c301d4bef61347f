"""Compact, the plain chain of convolutions that Real-ESRGAN publishes as SRVGGNetCompact.

All work is done at low resolution; sub-pixel convolution (Shi et al., CVPR 2016, arXiv:1609.05158)
makes the large picture, and the network learns only the difference to nearest-neighbour enlargement.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["prelu", "relu", "leakyrelu"]


def _activation(kind: Activation, features: int) -> nn.Module:
    if kind == "prelu":
        return nn.PReLU(features)
    return nn.ReLU() if kind == "relu" else nn.LeakyReLU(0.1)


class Compact(nn.Module):
    """A chain of 3x3 convolutions with one enlargement at its end.

    Args:
        features: width of the chain.
        convolutions: number of convolutions between the first and the last one.
        scale: any whole number from 1.
        activation: after every convolution but the last.
        channels: picture channels, in and out.

    Raises:
        ValueError: a value outside the ones named here.
    """

    architecture = "compact"
    unshuffle = 1
    head_reach = 0

    def __init__(
        self,
        *,
        features: int = 64,
        convolutions: int = 16,
        scale: int = 4,
        activation: Activation = "prelu",
        channels: int = 3,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(f"Compact has no activation {activation}")
        if min(features, scale, channels) < 1 or convolutions < 0:
            raise ValueError("Compact needs at least one feature, picture channel and scale 1")
        self._settings = {
            "features": features,
            "convolutions": convolutions,
            "scale": scale,
            "activation": activation,
            "channels": channels,
        }
        self.scale = scale
        self.channels = channels

        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), _activation(activation, features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), _activation(activation, features)]
        self.body = nn.Sequential(*layers, nn.Conv2d(features, channels * scale**2, 3, padding=1))

        self.trunk_reach = convolutions + 2
        # A layer's input and output, with room for one rearranged copy.
        self.trunk_floats = channels + 3 * max(features, channels * scale**2)
        self.head_floats = 2 * channels * scale**2
        self.feature_floats = channels * scale**2
        self.trunk_operations = sum(p.numel() for p in self.parameters() if p.dim() == 4)
        self.head_operations = 0

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that make this network again."""
        return dict(self._settings)

    def features(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels * scale^2, H, W): the picture, still folded into channels."""
        residual: Tensor = self.body(x)
        return residual + x.repeat_interleave(self.scale**2, dim=1)

    def reconstruct(self, f: Tensor) -> Tensor:
        """(N, channels * scale^2, h, w) to (N, channels, h * scale, w * scale)."""
        return F.pixel_shuffle(f, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H * scale, W * scale)."""
        return self.reconstruct(self.features(x))
