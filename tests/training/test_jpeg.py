from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from upscaler.training.jpeg import jpeg, quantisation

BASE = ((16, 11, 10, 16, 24, 40, 51, 61), *(((99,) * 8,) * 7))


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colours, an edge, stripes and some noise: (height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    picture = np.stack([128 + 90 * np.sin(x / 19 + phase) * np.cos(y / 23 - phase) for phase in (0, 1, 2)], axis=2)
    picture[(x + y) % 60 < 6] = (230, 60, 40)
    picture[:, width // 2 :] *= 0.6
    picture += np.random.default_rng(0).normal(0, 6, picture.shape)
    return picture.clip(0, 255).round().astype(np.uint8)


def tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def through_libjpeg(picture: NDArray[np.uint8], quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    return tensor(np.array(Image.open(file)))


@pytest.mark.parametrize("size", [(128, 128), (117, 133), (40, 95), (24, 8)])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
def test_it_does_what_libjpeg_does(size: tuple[int, int], quality: int) -> None:
    """Mean difference below one level of 255 and an eighth of what compression itself changes.

    What is left comes from libjpeg's integer arithmetic, which now and then rounds a coefficient the other way.
    """
    picture = scene(*size)
    reference = through_libjpeg(picture, quality)
    ours = jpeg(tensor(picture), torch.tensor([float(quality)]))
    assert ours.shape == reference.shape
    difference = (ours - reference).abs().mean() * 255
    damage = (tensor(picture) - reference).abs().mean() * 255
    assert float(difference) < min(1.0, float(damage) / 8)
    assert abs(float((ours - reference).mean())) * 255 < 0.25


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (7, 5), (16, 16)])
def test_any_size_is_padded_and_cut_back(size: tuple[int, int]) -> None:
    picture = scene(*size)
    ours = jpeg(tensor(picture), torch.tensor([90.0]))
    assert ours.shape == (1, 3, *size)
    assert float((ours - through_libjpeg(picture, 90)).abs().mean()) * 255 < 1.5


def test_every_picture_has_its_own_quality() -> None:
    x = tensor(scene(48, 40)).expand(3, -1, -1, -1)
    quality = torch.tensor([30.0, 60.0, 95.0])
    together = jpeg(x, quality)
    for number in range(3):
        torch.testing.assert_close(together[number], jpeg(x[:1], quality[number : number + 1])[0])
    errors = (together - x).abs().mean((1, 2, 3))
    assert errors[0] > errors[1] > errors[2]


def test_colours_outside_0_to_1_are_clamped_and_results_are_whole_levels() -> None:
    x = torch.randn(2, 3, 33, 20, generator=torch.Generator().manual_seed(0))
    out = jpeg(x, torch.tensor([40.0, 90.0]))
    torch.testing.assert_close(out, jpeg(x.clamp(0, 1), torch.tensor([40.0, 90.0])))
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    torch.testing.assert_close(out * 255, (out * 255).round(), atol=1e-4, rtol=0)


def test_a_flat_grey_picture_survives_unchanged() -> None:
    x = torch.full((1, 3, 20, 20), 200 / 255)
    torch.testing.assert_close(jpeg(x, torch.tensor([95.0])), x)


def test_fine_chroma_is_lost_and_luma_kept() -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    x[:, 0, :, ::2] += 0.2
    x[:, 2, :, ::2] -= 0.2
    out = jpeg(x, torch.tensor([95.0]))
    assert float(out[:, 2].std()) < 0.5 * float(x[:, 2].std())
    stripes = torch.full((1, 3, 32, 32), 0.4)
    stripes[..., ::2] = 0.6
    torch.testing.assert_close(jpeg(stripes, torch.tensor([95.0])), stripes, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("quality", "corner", "last"),
    [(1, 255, 255), (25, 32, 198), (50, 16, 99), (75, 8, 50), (90, 3, 20), (100, 1, 1)],
)
def test_tables_follow_libjpegs_quality_rule(quality: float, corner: int, last: int) -> None:
    table = quantisation(BASE, torch.tensor([float(quality)]))[0]
    assert (int(table[0, 0]), int(table[7, 7])) == (corner, last)


def test_tables_are_those_libjpeg_writes() -> None:
    from upscaler.training.jpeg import _CHROMA_TABLE, _LUMA_TABLE

    for quality in (10, 37, 50, 83, 95):
        file = io.BytesIO()
        Image.fromarray(scene(16, 16)).save(file, "jpeg", quality=quality)
        written = Image.open(file).quantization  # type: ignore[attr-defined]
        for number, table in enumerate((_LUMA_TABLE, _CHROMA_TABLE)):
            ours = quantisation(table, torch.tensor([float(quality)]))[0].flatten().int()
            assert sorted(ours.tolist()) == sorted(written[number])
