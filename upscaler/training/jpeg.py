"""What JPEG does to pictures, on tensors: baseline JPEG without the lossless coding.

ITU-T T.81 (the codec) and T.871 (JFIF, the colours), with 4:2:0 chroma and the conventions of libjpeg,
the encoder that most pictures have gone through: its quality rule, 2x2 averages of chroma, and
triangle-filtered chroma on the way back.
"""

from __future__ import annotations

from math import ceil, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from upscaler.transfers import constant, sent

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""ITU-T T.81, table K.1."""

_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""ITU-T T.81, table K.2."""

_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)
"""ITU-T T.871, section 7, for chroma around 0."""


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Compress every picture with its own quality and decode it again.

    Args:
        x: (N, 3, H, W), RGB, 0..1 (clamped and rounded to 255 levels first), any size.
        quality: (N,), 1..100, the scale of libjpeg.

    Returns:
        (N, 3, H, W), 0..1 in 255 levels. Not differentiable: rounding has no gradient.
    """
    height, width = x.shape[-2:]
    half_width = ceil(width / 2)
    to_ycbcr, to_rgb, bias = (constant(make, device=x.device, dtype=x.dtype) for make in (_to_ycbcr, _to_rgb, _bias))
    pixels = (x.clamp(0, 1) * 255).round()
    # libjpeg repeats the edge before it averages chroma: whole blocks to the right, but one row below.
    pixels = F.pad(pixels, (0, -width % 16, 0, height % 2), mode="replicate")
    ycbcr = (to_ycbcr @ pixels.flatten(2)).round().reshape(pixels.shape)
    luma = _code(ycbcr[:, :1] - 128, quantisation(_LUMA_TABLE, quality))[..., : 2 * half_width]

    # And it rounds the averages down and up in alternate columns, where they lie halfway.
    chroma = (F.avg_pool2d(ycbcr[:, 1:], 2) + bias.repeat(pixels.shape[-1] // 4)).floor()
    chroma = _code(chroma, quantisation(_CHROMA_TABLE, quality))[..., :half_width]
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()

    decoded = torch.cat([luma + 128, chroma], 1)
    pixels = (to_rgb @ decoded.flatten(2)).round().clamp(0, 255).reshape(decoded.shape)
    return pixels[..., :height, :width] / 255


def quantisation(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """A table of T.81, annex K, as libjpeg scales it to each quality.

    Args:
        table: 8x8.
        quality: (N,), 1..100.

    Returns:
        (N, 8, 8), whole numbers in 1..255.
    """
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()
    base = torch.tensor(table, dtype=quality.dtype, device=quality.device)
    return ((base * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)


def _code(planes: Tensor, tables: Tensor) -> Tensor:
    """Planes (N, C, H, W) around 0 through the cosine transform, quantisation and back."""
    count, channels, height, width = planes.shape
    planes = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    down, across = planes.shape[2] // 8, planes.shape[3] // 8
    blocks = planes.reshape(count, channels, down, 8, across, 8).transpose(3, 4).reshape(count, -1, 64)
    transform = constant(_cosine_transform, device=planes.device, dtype=planes.dtype)
    tables = sent(tables.to(planes.dtype), planes.device).reshape(count, 1, 64)
    coefficients = (blocks @ transform.T / tables).round() * tables
    blocks = (coefficients @ transform).round().clamp(-128, 127)
    planes = blocks.reshape(count, channels, down, across, 8, 8).transpose(3, 4).reshape(planes.shape)
    return planes[..., :height, :width]


def _to_ycbcr() -> Tensor:
    return torch.tensor(_TO_YCBCR, dtype=torch.float64)


def _to_rgb() -> Tensor:
    return _to_ycbcr().inverse()


def _bias() -> Tensor:
    return torch.tensor((0.25, 0.5))


def _cosine_transform() -> Tensor:
    """(64, 64), float64: a flattened 8x8 block to its coefficients (T.81, A.3.3); orthogonal.

    One product with 64 columns is faster than two with 8, on every device.
    """
    frequency = torch.arange(8, dtype=torch.float64)[:, None]
    position = torch.arange(8, dtype=torch.float64)[None]
    rows = torch.cos((2 * position + 1) * frequency * pi / 16) / 2
    rows[0] /= 2**0.5
    return torch.kron(rows, rows)
