"""Discriminators: pictures (N, 3, H, W), RGB 0..1, to raw outputs without a sigmoid.

A high output says "real". Weights that a norm rescales are found by ``first_and_last`` as they are trained.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Kind = Literal["vgg", "unet", "patch"]
Norm = Literal["batch", "spectral", "none"]

_SLOPE = 0.2
_STRIDED_KERNEL = 4
"""Of convolutions with stride 2: a multiple of the stride, so that every pixel counts equally often."""


class VGGDiscriminator(nn.Module):
    """ESRGAN's discriminator: pairs of convolutions, the second of which halves the size, then two linear layers.

    After five halvings the features are averaged to 4 x 4 positions, so that patches of any size fit. For
    patches of 128 pixels that changes nothing: with the defaults it is the published network. The principle
    is that of Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
    Network", CVPR 2017 (arXiv:1609.04802), section 2.1 and figure 4; the layers are those of Wang et al.,
    "ESRGAN", ECCVW 2018 (arXiv:1809.00219).

    Args:
        features: width of the first convolution; it grows to eight times that.
        kernel: 3 or 5, of the convolutions that keep the size; those that halve it have 4.
        norm: ``batch`` after every convolution but the first, as published; ``spectral`` of all weights
            (Miyato et al., ICLR 2018, arXiv:1802.05957).
        channels: picture channels.

    Raises:
        ValueError: a value outside the ones named here.
    """

    smallest = 32

    def __init__(self, *, features: int = 64, kernel: int = 3, norm: Norm = "batch", channels: int = 3) -> None:
        super().__init__()
        _check(features, kernel, norm)
        bias = norm != "batch"
        first: Norm = "none" if norm == "batch" else norm
        layers = _layer(channels, features, kernel, 1, first, bias=True)
        layers += _layer(features, features, _STRIDED_KERNEL, 2, norm, bias=bias)
        width = features
        for factor in (2, 4, 8, 8):
            wider = factor * features
            layers += _layer(width, wider, kernel, 1, norm, bias=bias)
            layers += _layer(wider, wider, _STRIDED_KERNEL, 2, norm, bias=bias)
            width = wider
        self.body = nn.Sequential(*layers)
        linear = [nn.Linear(width * 4 * 4, 100), nn.Linear(100, 1)]
        hidden, last = map(spectral_norm, linear) if norm == "spectral" else linear
        self.head = nn.Sequential(hidden, nn.LeakyReLU(_SLOPE, inplace=True), last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), H and W at least 32, to (N, 1).

        Raises:
            ValueError: a smaller picture.
        """
        _check_size(x, self.smallest)
        features: Tensor = self.body(x)
        if features.shape[-2:] != (4, 4):
            features = F.adaptive_avg_pool2d(features, 4)
        out: Tensor = self.head(features.flatten(1))
        return out


class UNetDiscriminator(nn.Module):
    """Real-ESRGAN's discriminator: a U-Net that judges every pixel.

    Three halvings, three bilinear enlargements, and skip connections that are added. Wang et al.,
    "Real-ESRGAN", ICCVW 2021 (arXiv:2107.10833), section 3.4 and figure 6; the U-Net for GANs is Schonfeld
    et al., CVPR 2020 (arXiv:2002.12655). With the defaults it is the published network.

    Args:
        features: width at full resolution; it grows to eight times that.
        kernel: 3 or 5, of the convolutions that keep the size; those that halve it have 4.
        norm: of all convolutions but the first and the last; ``spectral`` is the published one.
        channels: picture channels.

    Raises:
        ValueError: a value outside the ones named here.
    """

    smallest = 16

    def __init__(self, *, features: int = 64, kernel: int = 3, norm: Norm = "spectral", channels: int = 3) -> None:
        super().__init__()
        _check(features, kernel, norm)

        def layer(inputs: int, outputs: int, size: int = kernel, stride: int = 1) -> nn.Module:
            # The published convolutions have no bias where they are normalised.
            layers = _layer(inputs * features, outputs * features, size, stride, norm, bias=norm == "none")
            return nn.Sequential(*layers)

        self.first = nn.Sequential(*_layer(channels, features, kernel, 1, "none", bias=True))
        self.down1 = layer(1, 2, _STRIDED_KERNEL, 2)
        self.down2 = layer(2, 4, _STRIDED_KERNEL, 2)
        self.down3 = layer(4, 8, _STRIDED_KERNEL, 2)
        self.up1 = layer(8, 4)
        self.up2 = layer(4, 2)
        self.up3 = layer(2, 1)
        self.fuse1 = layer(1, 1)
        self.fuse2 = layer(1, 1)
        self.last = nn.Conv2d(features, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), H and W at least 16, to (N, 1, H, W).

        Edges that are no multiples of 8 are mirrored up to the next one for the time being.

        Raises:
            ValueError: a smaller picture.
        """
        _check_size(x, self.smallest)
        height, width = x.shape[-2:]
        if height % 8 or width % 8:
            x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="reflect")
        full = self.first(x)
        half = self.down1(full)
        quarter = self.down2(half)
        deepest = self.down3(quarter)
        quarter = self.up1(_doubled(deepest)) + quarter
        half = self.up2(_doubled(quarter)) + half
        full = self.up3(_doubled(half)) + full
        out: Tensor = self.last(self.fuse2(self.fuse1(full)))
        return out[..., :height, :width]


class PatchDiscriminator(nn.Module):
    """PatchGAN, pix2pix's discriminator: every output judges a patch, independently of all that is outside.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017
    (arXiv:1611.07004), section 3.2.2: three convolutions that halve the size and two that keep it. The
    published network judges 70 x 70 pixels, all its kernels being 4; here the last two are 3, which makes
    54 x 54, or 5, which makes 86 x 86, so that a picture's size is halved exactly.

    Args:
        features: width of the first convolution; it grows to eight times that.
        kernel: 3 or 5, of the convolutions that keep the size.
        norm: ``batch`` after all convolutions but the first and the last, as published; ``spectral`` of all.
        channels: picture channels.

    Raises:
        ValueError: a value outside the ones named here.
    """

    smallest = 16

    def __init__(self, *, features: int = 64, kernel: int = 3, norm: Norm = "batch", channels: int = 3) -> None:
        super().__init__()
        _check(features, kernel, norm)
        bias = norm != "batch"
        outer: Norm = "none" if norm == "batch" else norm
        last = nn.Conv2d(8 * features, 1, kernel, padding=kernel // 2)
        self.body = nn.Sequential(
            *_layer(channels, features, _STRIDED_KERNEL, 2, outer, bias=True),
            *_layer(features, 2 * features, _STRIDED_KERNEL, 2, norm, bias=bias),
            *_layer(2 * features, 4 * features, _STRIDED_KERNEL, 2, norm, bias=bias),
            *_layer(4 * features, 8 * features, kernel, 1, norm, bias=bias),
            spectral_norm(last) if norm == "spectral" else last,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), H and W at least 16, to (N, 1, H // 8, W // 8).

        Raises:
            ValueError: a smaller picture.
        """
        _check_size(x, self.smallest)
        out: Tensor = self.body(x)
        return out


def build_discriminator(
    kind: Kind, *, features: int, kernel: int, norm: Norm
) -> VGGDiscriminator | UNetDiscriminator | PatchDiscriminator:
    """A discriminator of pictures with three channels; the arguments are those of its class."""
    if kind == "vgg":
        return VGGDiscriminator(features=features, kernel=kernel, norm=norm)
    if kind == "unet":
        return UNetDiscriminator(features=features, kernel=kernel, norm=norm)
    if kind == "patch":
        return PatchDiscriminator(features=features, kernel=kernel, norm=norm)
    raise ValueError(f"there is no discriminator {kind}")


def first_and_last(network: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """The weights of the first and of the last convolution or linear layer, as they are trained.

    Under spectral norm that is the weight before it is normalised, the one that has a gradient. Networks
    here register their layers in the order in which they use them.

    Args:
        network: a discriminator or a generator.

    Raises:
        ValueError: it has no such layer.
    """
    weights = [parameter for parameter in network.parameters() if parameter.dim() >= 2]
    if not weights:
        raise ValueError("a network without convolutions and linear layers has no first and last one")
    return weights[0], weights[-1]


def _layer(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm, *, bias: bool) -> list[nn.Module]:
    """A convolution, its norm and its activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=bias)
    activation = nn.LeakyReLU(_SLOPE, inplace=True)
    if norm == "batch":
        return [convolution, nn.BatchNorm2d(outputs), activation]
    return [spectral_norm(convolution) if norm == "spectral" else convolution, activation]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _check(features: int, kernel: int, norm: str) -> None:
    if features < 1 or kernel not in (3, 5) or norm not in get_args(Norm):
        raise ValueError(f"there is no discriminator with {features} features, kernel {kernel} and {norm} norm")


def _check_size(x: Tensor, smallest: int) -> None:
    if min(x.shape[-2:]) < smallest:
        height, width = x.shape[-2:]
        raise ValueError(f"this discriminator judges pictures from {smallest} x {smallest}, not {width} x {height}")
