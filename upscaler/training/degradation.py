"""How training pictures are made worse: LR pictures from HR pictures, in batches, on their device.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021 (arXiv:2107.10833), section 3, and the classical ways to make LR pictures.

What is drawn for each picture of a batch, independently: every kernel, whether the second blur
happens, kind, strength and colour of the noise, the JPEG qualities, the final sinc filter, and which
of that filter and the last JPEG comes first. Factor and method of a resize are shared by ``group``
neighbours in the batch, because the tensors of a batch have one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import ceil, pi
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from upscaler.errors import UserError
from upscaler.images.resize import resize_tensor
from upscaler.images.sheets import crops_sheet, most_detailed
from upscaler.training.jpeg import jpeg
from upscaler.training.kernels import (
    Blur,
    Range,
    chance,
    choice,
    draw_sizes,
    filter_each,
    gaussian_averages,
    sinc,
    sometimes,
    uniform,
)
from upscaler.training.noise import Noise
from upscaler.transfers import sent

_SHEET_SIDE = 384
_SHEET_DRAWS = {"noise": 2, "jpeg": 2, "realesrgan": 4}
_METHODS = ("area", "bilinear", "bicubic")


class Degrade(Protocol):
    """A way to make LR pictures."""

    def __call__(self, hr: Tensor, scale: int, generator: Generator) -> Tensor:
        """Make LR pictures.

        Args:
            hr: (N, 3, H, W), float32, RGB, 0..1; H and W multiples of ``scale``.
            scale: HR pixels per LR pixel along each axis.
            generator: of all that is random; the same state gives the same result on the same kind of
                device. It may live on another device than ``hr``: on the CPU it saves waiting for the GPU.

        Returns:
            (N, 3, H / scale, W / scale) on the device of ``hr``, 0..1 in 255 levels, without gradient.

        Raises:
            ValueError: H or W is not a multiple of ``scale``, or ``scale`` is below 1.
        """


@dataclass(frozen=True)
class Stage:
    """Blur, resize and noise, then JPEG; the defaults are Real-ESRGAN's first stage.

    Attributes:
        blur: the kernels.
        blur_probability: how often a picture is blurred at all.
        resize_shares: how often a batch grows, shrinks and keeps its size.
        resize_range: the least and the largest resize factor, evenly distributed on both sides of 1.
        noise: the noise.
        jpeg_quality: on libjpeg's scale.
    """

    blur: Blur = field(default_factory=Blur)
    blur_probability: float = 1.0
    resize_shares: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: Range = (0.15, 1.5)
    noise: Noise = field(default_factory=Noise)
    jpeg_quality: Range = (30.0, 95.0)

    def distort(self, x: Tensor, height: int, width: int, generator: Generator) -> Tensor:
        """Blur, resize to a random factor of (height, width), add noise: all of the stage but JPEG.

        Args:
            x: (N, 3, H, W), 0..1.
            height: that a resize factor of 1 gives.
            width: the same.
            generator: of all that is random.

        Returns:
            (N, 3, H', W'), 0..1.
        """
        kernels = self.blur.draw(len(x), generator)
        x = filter_each(x, sometimes(kernels, self.blur_probability, generator))
        factor = self.draw_factor(generator)
        x = _resize(x, max(round(height * factor), 1), max(round(width * factor), 1), generator)
        return self.noise.add(x, generator).clamp(0, 1)

    def draw_factor(self, generator: Generator) -> float:
        """A resize factor: above 1, below 1 or exactly 1 in the shares asked for."""
        low, high = self.resize_range
        bounds = ((1.0, high), (low, 1.0), (1.0, 1.0))[int(choice(self.resize_shares, 1, generator))]
        return float(uniform(bounds, 1, generator))


@dataclass(frozen=True)
class Degradation:
    """Real-ESRGAN's second-order degradation (section 3.2, figure 2).

    Blur, resize, noise and JPEG, all of it twice; the second time the resize aims at the LR size, and
    after the noise come the resize to exactly the LR size with a sinc filter, and JPEG, in random order.

    Attributes:
        first: the first stage.
        second: the second stage.
        final_sinc_probability: how often the final sinc filter is used.
        final_sinc_cutoff: its cutoff frequencies in radians per pixel.
        group: pictures that share a resize. Fewer make a batch more diverse, but are slower on a GPU.
    """

    first: Stage = Stage()
    second: Stage = Stage(
        blur=Blur(sigma=(0.2, 1.5)),
        blur_probability=0.8,
        resize_shares=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise=Noise(gaussian_sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    )
    final_sinc_probability: float = 0.8
    final_sinc_cutoff: Range = (pi / 3, pi)
    group: int = 4

    @torch.no_grad()
    def __call__(self, hr: Tensor, scale: int, generator: Generator) -> Tensor:
        """Make LR pictures; see ``Degrade``."""
        _check(hr, scale)
        with torch.autocast(hr.device.type, enabled=False):
            return torch.cat([self._degrade(part, scale, generator) for part in torch.split(hr, self.group)])

    def _degrade(self, hr: Tensor, scale: int, generator: Generator) -> Tensor:
        count, _, height, width = hr.shape
        x = self.first.distort(hr, height, width, generator)
        x = jpeg(x, uniform(self.first.jpeg_quality, count, generator))
        height, width = height // scale, width // scale
        x = self.second.distort(x, height, width, generator)

        quality = uniform(self.second.jpeg_quality, count, generator)
        jpeg_first = chance(0.5, count, generator)
        sizes = draw_sizes(self.second.blur.sizes, count, generator)
        kernels = sinc(uniform(self.final_sinc_cutoff, count, generator), sizes)
        kernels = sometimes(kernels, self.final_sinc_probability, generator)
        x = _jpeg_some(x, quality, jpeg_first)
        x = filter_each(_resize(x, height, width, generator), kernels)
        return _levels(_jpeg_some(x, quality, ~jpeg_first))


@dataclass(frozen=True)
class Classic:
    """One reduction, then noise and JPEG.

    Attributes:
        method: "bicubic" is MATLAB's antialiased ``imresize``; "nearest" takes the pixel at
            ``scale // 2`` of every ``scale``; "gaussian" takes Gaussian averages around the centres of
            the LR pixels out to 4 sigma, so that the picture does not move at even scales either.
        blur_sigma: of the Gaussian averages, in HR pixels.
        noise: what is added to the LR pictures, if anything.
        jpeg_quality: on libjpeg's scale.
        jpeg_probability: how often an LR picture becomes a JPEG.
    """

    method: Literal["bicubic", "nearest", "gaussian"]
    blur_sigma: float = 1.6
    noise: Noise | None = None
    jpeg_quality: Range = (75.0, 100.0)
    jpeg_probability: float = 0.0

    @torch.no_grad()
    def __call__(self, hr: Tensor, scale: int, generator: Generator) -> Tensor:
        """Make LR pictures; see ``Degrade``."""
        _check(hr, scale)
        if self.method == "bicubic":
            x = resize_tensor(hr, hr.shape[-2] // scale, hr.shape[-1] // scale)
        elif self.method == "nearest":
            x = hr[..., scale // 2 :: scale, scale // 2 :: scale]
        else:
            x = gaussian_averages(hr, self.blur_sigma, ceil(4 * self.blur_sigma), scale)
        if self.noise is not None:
            x = self.noise.add(x, generator)
        if self.jpeg_probability:
            quality = uniform(self.jpeg_quality, len(x), generator)
            x = _jpeg_some(x, quality, chance(self.jpeg_probability, len(x), generator))
        return _levels(x)


PRESETS: Mapping[str, Degrade] = MappingProxyType(
    {
        "bicubic": Classic("bicubic"),
        "nearest": Classic("nearest"),
        "blur": Classic("gaussian"),
        "noise": Classic(
            "bicubic", noise=Noise(gaussian_probability=1.0, gaussian_sigma=(1.0, 25.0), grey_probability=0.0)
        ),
        "jpeg": Classic("bicubic", jpeg_probability=0.5),
        "realesrgan": Degradation(),
    }
)
"""By name. "blur" is the benchmark known as BD (sigma 1.6); "noise" has the sigmas of Real-ESRGAN's second stage,
"jpeg" the qualities of cameras and of the web in every other picture."""


def find_preset(name: str) -> Degrade:
    """The preset of that name.

    Raises:
        UserError: there is none; the message offers those with a similar name.
    """
    if name not in PRESETS:
        near = get_close_matches(name.lower(), PRESETS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}"
        raise UserError(f"no degradation is called {name!r}; {hint}")
    return PRESETS[name]


def preset_sheet(picture: NDArray[np.uint8], scale: int, seed: int) -> NDArray[np.uint8]:
    """One picture through every preset, several times through those that are random.

    LR pixels are shown as squares of ``scale`` pixels. Of a large picture the part with the most detail
    is shown, up to 384x384 pixels.

    Args:
        picture: (H, W, 3), the HR picture.
        scale: HR pixels per LR pixel along each axis.
        seed: of what is random.

    Returns:
        (H', W', 3), four labelled pictures a row, the HR picture first.

    Raises:
        ValueError: the picture is smaller than one LR pixel.
    """
    side = max(_SHEET_SIDE // scale, 1) * scale
    height, width = (min(length // scale * scale, side) for length in picture.shape[:2])
    if not height or not width:
        raise ValueError(f"a picture of {picture.shape[0]}x{picture.shape[1]} cannot be reduced by {scale}")
    top, left = most_detailed(picture, height, width)
    window = picture[top : top + height, left : left + width]
    hr = torch.from_numpy(window.copy()).permute(2, 0, 1)[None].float() / 255
    generator = Generator().manual_seed(seed)
    cells = [("HR", window)]
    for name, degrade in PRESETS.items():
        draws = _SHEET_DRAWS.get(name, 1)
        for draw in range(draws):
            lr = (degrade(hr, scale, generator)[0] * 255).round().byte().permute(1, 2, 0).numpy()
            label = f"{name} {draw + 1}" if draws > 1 else name
            cells.append((label, lr.repeat(scale, axis=0).repeat(scale, axis=1)))
    return crops_sheet([cells[first : first + 4] for first in range(0, len(cells), 4)])


def _check(hr: Tensor, scale: int) -> None:
    height, width = hr.shape[-2:]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(f"pictures of {height}x{width} cannot be reduced by {scale}")


def _levels(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def _resize(x: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    # Without antialiasing, as in the original: aliased pictures are among what is to be restored.
    method = _METHODS[int(choice((1.0,) * len(_METHODS), 1, generator))]
    return F.interpolate(x, (height, width), mode=method)


def _jpeg_some(x: Tensor, quality: Tensor, chosen: Tensor) -> Tensor:
    if not chosen.any():
        return x
    indices = chosen.nonzero().flatten()
    where = sent(indices, x.device)
    return x.index_copy(0, where, jpeg(x[where], quality[indices]))
