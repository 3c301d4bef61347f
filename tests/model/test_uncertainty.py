from __future__ import annotations

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.sources import PixelSource
from upscaler.model.uncertainty import NoisySource, spread
from upscaler.model.upscaler import Size, Upscaler


def nearest() -> Compact:
    made = Compact(features=2, convolutions=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def test_a_network_that_repeats_pixels_spreads_as_the_noise_does() -> None:
    source = PixelSource(np.full((64, 64, 3), 128, np.uint8))
    moved = spread(Upscaler(nearest(), device="cpu"), source, Size(), sigma=4 / 255, samples=8, seed=3)
    assert moved.shape == (256, 256)
    assert np.sqrt((moved**2).mean()) * 255 == pytest.approx(4, rel=0.02)
    assert np.array_equal(moved[::4, ::4], moved[3::4, 3::4])


def test_black_moves_only_upwards_and_alpha_not_at_all() -> None:
    source = PixelSource(np.zeros((200, 8, 4), np.uint8))
    noisy = NoisySource(source, 2 / 255, (0,))
    pixels = np.concatenate(list(noisy.bands(128)))
    assert pixels.dtype == np.uint16
    assert pixels[..., :3].any()
    assert not pixels[..., 3].any()
    again = np.concatenate(list(noisy.bands(128)))
    assert np.array_equal(pixels, again)


def test_the_seed_decides() -> None:
    source = PixelSource(np.full((8, 8, 1), 128, np.uint8))
    upscaler = Upscaler(nearest(), device="cpu")
    first, same, other = (spread(upscaler, source, Size(), samples=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_map_that_does_not_fit_is_refused() -> None:
    source = PixelSource(np.zeros((1000, 1000, 3), np.uint8))
    upscaler = Upscaler(nearest(), device="cpu", memory=3 * 10**9)
    with pytest.raises(UserError, match="map of uncertainty needs"):
        spread(upscaler, source, Size(16))
