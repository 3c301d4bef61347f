from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.device import resident_memory
from upscaler.model.sources import PixelSource
from upscaler.model.uncertainty import NoisySource, estimate_spread, spread
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
    colours = pixels[..., :3]
    assert 0.45 < (colours == 0).mean() < 0.55
    assert 0 < colours.max() < 6 * 2 / 255 * 65535
    assert not pixels[..., 3].any()


def test_the_noise_is_the_same_in_bands_of_any_height() -> None:
    source = PixelSource(np.full((200, 8, 2), 128, np.uint8))
    noisy = NoisySource(source, 2 / 255, (0,))
    high, low = (np.concatenate(list(noisy.bands(rows))) for rows in (128, 7))
    assert np.array_equal(high, low)


def test_the_seed_decides() -> None:
    source = PixelSource(np.full((8, 8, 1), 128, np.uint8))
    upscaler = Upscaler(nearest(), device="cpu")
    first, same, other = (spread(upscaler, source, Size(), samples=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_map_that_does_not_fit_is_refused() -> None:
    source = PixelSource(np.zeros((1000, 1000, 3), np.uint8))
    upscaler = Upscaler(nearest(), device="cpu", memory=3 * 10**9)
    with pytest.raises(UserError, match="with the map of uncertainty, this picture needs --memory"):
        spread(upscaler, source, Size(16))


def test_the_map_takes_its_memory_from_the_tiles() -> None:
    source = PixelSource(np.zeros((1000, 1000, 3), np.uint8))
    network = Compact(features=64, convolutions=2)
    whole = Upscaler(network, device="cpu").estimate(source)
    upscaler = Upscaler(network, device="cpu", memory=resident_memory() + whole.memory)
    estimate = estimate_spread(upscaler, source, Size())
    assert (whole.passes[0].whole, estimate.passes[0].whole) == (True, False)
    assert estimate.memory <= whole.memory


def test_the_noisy_pictures_are_planned_for_what_they_are_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    source = PixelSource(np.full((8, 8, 3), 128, np.uint8))
    upscaler = Upscaler(nearest(), device="cpu")
    upscaler.dtype = torch.float16  # what "auto" is on a GPU
    dtypes = set()

    def noted(work: Any) -> Any:
        def work_on(*arguments: Any, dtype: torch.dtype, **named: Any) -> Any:
            dtypes.add(dtype)
            return work(*arguments, dtype=dtype, **named)

        return work_on

    monkeypatch.setattr(upscaler.engine, "plan", noted(upscaler.engine.plan))
    monkeypatch.setattr(upscaler.engine, "run", noted(upscaler.engine.run))
    spread(upscaler, source, Size(), samples=2)
    upscaler.seconds(estimate_spread(upscaler, source, Size()))
    assert dtypes == {torch.float32}
