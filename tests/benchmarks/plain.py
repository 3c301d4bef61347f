"""Networks as their authors' scripts run them: plain PyTorch, NCHW, fp32.

As a program it does what Real-ESRGAN's script does for one picture, without srup:
`python -m tests.benchmarks.plain WEIGHTS.pth IN.png OUT.png`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.pixels import Floats, Run, enlarged


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(64, 32), conv(96, 32), conv(128, 32)
        self.conv4, self.conv5 = conv(160, 32), conv(192, 64)
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.activation(self.conv1(x))
        x2 = self.activation(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.activation(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.activation(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5: Tensor = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x5 * 0.2 + x


class RRDB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = DenseBlock(), DenseBlock(), DenseBlock()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * 0.2 + x


class PlainRRDBNet(nn.Module):
    """The x4 network of 64 features with so many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv_first, self.conv_body = conv(3, 64), conv(64, 64)
        self.body = nn.Sequential(*(RRDB() for _ in range(blocks)))
        self.conv_up1, self.conv_up2, self.conv_hr, self.conv_last = (
            conv(64, 64),
            conv(64, 64),
            conv(64, 64),
            conv(64, 3),
        )
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        f = self.conv_first(x)
        f = f + self.conv_body(self.body(f))
        f = self.activation(self.conv_up1(F.interpolate(f, scale_factor=2, mode="nearest")))
        f = self.activation(self.conv_up2(F.interpolate(f, scale_factor=2, mode="nearest")))
        out: Tensor = self.conv_last(self.activation(self.conv_hr(f)))
        return out


class PlainCompact(nn.Module):
    """The x4 network of 64 features with so many convolutions in the middle."""

    def __init__(self, convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 64), nn.PReLU(64)]
        for _ in range(convolutions):
            layers += [conv(64, 64), nn.PReLU(64)]
        self.body = nn.Sequential(*layers, conv(64, 48))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.pixel_shuffle(self.body(x), 4) + F.interpolate(x, scale_factor=4, mode="nearest")
        return out


def plain_network(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of these weights, ready to run."""
    if "conv_first.weight" in tensors:
        blocks = {key.split(".")[1] for key in tensors if key.startswith("body.")}
        network: nn.Module = PlainRRDBNet(len(blocks))
    else:
        network = PlainCompact(sum(tensor.dim() == 4 for tensor in tensors.values()) - 2)
    network.load_state_dict(tensors)
    return network.eval()


def runner(network: nn.Module) -> Run:
    """The network on arrays."""

    @torch.no_grad()
    def run(x: Floats) -> Floats:
        out: Floats = network(torch.from_numpy(x)).numpy()
        return out

    return run


def main(weights: str, picture: str, result: str) -> None:
    from PIL import Image

    stored: Any = torch.load(weights, weights_only=True)
    network = plain_network(stored["params_ema"])
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    # OpenCV, which the script writes with, compresses little too.
    Image.fromarray(enlarged(runner(network), pixels)).save(result, compress_level=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
