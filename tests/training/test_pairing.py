from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from upscaler.images.resize import resize
from upscaler.training.fingerprints import luma
from upscaler.training.pairing import Partners, pair_problem


@pytest.mark.parametrize(
    ("hr", "found"),
    [
        ("a/1.png", ["a/1x4.png"]),
        ("b/1.png", ["b/1.jpg"]),
        ("c/2_HR.png", ["2_SRF_4_LR.png"]),
        ("c/1.png", ["b/1.jpg"]),
        ("c/5.png", ["a/5x4.png", "b/5-lr.png"]),
        ("3.png", []),
        ("4.png", ["4.jpg", "4.png"]),
    ],
)
def test_partners_by_name(hr: str, found: list[str]) -> None:
    names = [
        "a/1x4.png",
        "b/1.jpg",
        "2_SRF_4_LR.png",
        "2x2.png",
        "3x2.png",
        "4.jpg",
        "4.png",
        "a/5x4.png",
        "b/5-lr.png",
    ]
    assert Partners(names, 4).find(hr) == found


@pytest.fixture(scope="module")
def pair(scene: Any) -> tuple[Any, Any]:
    hr = scene(1, 256, 320)
    return luma(hr), luma(resize(hr, 64, 80))


def test_a_pair(pair: tuple[Any, Any]) -> None:
    assert pair_problem(*pair, 4) is None


def test_a_pair_made_by_taking_pixels_or_with_noise(pair: tuple[Any, Any]) -> None:
    hr, lr = pair
    assert pair_problem(hr, hr[2::4, 2::4], 4) is None
    noise = np.random.default_rng(0).normal(0, 15, lr.shape)
    assert pair_problem(hr, np.clip(lr + noise, 0, 255).astype(np.uint8), 4) is None


def test_a_flat_pair_cannot_be_judged() -> None:
    assert pair_problem(np.full((64, 64), 9, np.uint8), np.full((16, 16), 9, np.uint8), 4) is None


def test_another_size(pair: tuple[Any, Any]) -> None:
    hr, lr = pair
    assert pair_problem(hr, lr[:-1], 4) == (
        "HR of 320 x 256 is not 4 times LR of 80 x 63; give the right --scale, or the right picture"
    )


def test_another_picture(pair: tuple[Any, Any], scene: Any) -> None:
    assert pair_problem(pair[0], luma(scene(2, 64, 80)), 4) == "LR does not show what HR shows"


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_mirrored_picture(scene: Any, symmetric: bool) -> None:
    hr = scene(1, 256, 320)
    if symmetric:  # all but the finest: a meadow under a sky
        sky = np.linspace(0, 200, 256)[:, None, None]
        hr = (hr * 0.2 + sky).astype(np.uint8)
    lr = luma(resize(hr, 64, 80))
    assert pair_problem(luma(hr), lr, 4) is None
    for turned in (lr[:, ::-1], lr[::-1, ::-1]):
        assert pair_problem(luma(hr), turned, 4) == "LR is mirrored or turned"


@pytest.mark.parametrize(
    ("shift", "words"), [((1, 0), "1 down and 0 right"), ((0, -1), "0 down and 1 left"), ((-3, 2), "3 up and 2 right")]
)
def test_a_shift(scene: Any, shift: tuple[int, int], words: str) -> None:
    large = luma(scene(1, 320, 384))
    hr = large[32:288, 32:352]
    down, across = (32 - 4 * amount for amount in shift)
    moved = large[down : down + 256, across : across + 320]
    lr = resize(np.ascontiguousarray(moved)[..., None], 64, 80)[..., 0]
    assert pair_problem(hr, lr, 4) == f"LR is shifted by {words} LR pixels"
