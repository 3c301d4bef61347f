from __future__ import annotations

from math import exp

import pytest
import torch
from torch import Generator, Tensor

from upscaler.training.noise import Noise, normal, shot_noise


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(noise: Noise, count: int = 400, level: float = 0.5, side: int = 16) -> Tensor:
    """What is added to flat pictures, in levels of 255."""
    x = torch.full((count, 3, side, side), level)
    return (noise.add(x, seeded()) - x) * 255


def test_gaussian_noise_has_its_sigma_in_every_picture() -> None:
    added = noise_of(Noise(1.0, (12.0, 12.0), grey_probability=0.0), count=50, side=64)
    torch.testing.assert_close(added.std((1, 2, 3)), torch.full((50,), 12.0), atol=0.4, rtol=0)
    assert abs(float(added.mean())) < 0.1


def test_sigmas_fill_their_range_and_differ_from_picture_to_picture() -> None:
    sigmas = noise_of(Noise(1.0, (1.0, 30.0), grey_probability=0.0), side=32).std((1, 2, 3))
    assert float(sigmas.min()) < 2
    assert float(sigmas.max()) > 28
    assert float(sigmas.mean()) == pytest.approx(15.5, abs=1.5)
    assert len(set(sigmas.tolist())) == len(sigmas)


@pytest.mark.parametrize("gaussian_probability", [0.0, 1.0])
def test_grey_noise_is_the_same_in_all_channels_and_as_common_as_asked_for(gaussian_probability: float) -> None:
    added = noise_of(Noise(gaussian_probability, grey_probability=0.4), count=2000, side=8)
    difference = (added - added[:, :1]).abs().amax((1, 2, 3))
    grey = difference < 1e-3
    assert float(grey.double().mean()) == pytest.approx(0.4, abs=0.04)
    assert float(added[grey].abs().amax((1, 2, 3)).min()) > 0


def test_colour_noise_is_independent_between_channels() -> None:
    added = noise_of(Noise(1.0, (10.0, 10.0), grey_probability=0.0), count=100).transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(added) - torch.eye(3)
    assert float(correlation.abs().max()) < 0.03


def test_gaussian_noise_is_as_common_as_asked_for() -> None:
    # Poisson noise leaves black alone, Gaussian noise does not.
    added = noise_of(Noise(0.3), count=3000, level=0.0, side=4)
    assert float((added.abs().amax((1, 2, 3)) > 0).double().mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("level", [1, 5, 40, 128, 255])
def test_shot_noise_has_the_moments_of_counted_photons(level: int) -> None:
    x = torch.full((400_000,), level / 255)
    noise = shot_noise(x, normal(x, seeded()))
    photons = level * 256 / 255
    assert float(noise.mean()) * 256 == pytest.approx(0, abs=0.03 + 0.005 * photons**0.5)
    assert float(noise.var()) * 256**2 == pytest.approx(photons, rel=0.06)
    counts = noise * 256 + photons
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    assert float(counts.min()) >= -1e-3


@pytest.mark.parametrize("level", [1, 2, 4])
def test_shot_noise_has_the_poisson_distribution_in_the_dark(level: int) -> None:
    x = torch.full((400_000,), level / 255)
    photons = level * 256 / 255
    counts = (shot_noise(x, normal(x, seeded())) * 256 + photons).round()
    probability = exp(-photons)
    for count in range(8):
        assert float((counts == count).double().mean()) == pytest.approx(probability, abs=0.015)
        probability *= photons / (count + 1)


def test_shot_noise_grows_with_its_scale() -> None:
    weak = noise_of(Noise(0.0, poisson_scale=(0.5, 0.5), grey_probability=0.0))
    strong = noise_of(Noise(0.0, poisson_scale=(2.0, 2.0), grey_probability=0.0))
    torch.testing.assert_close(strong, weak * 4, atol=1e-3, rtol=0)


def test_later_draws_do_not_depend_on_the_size_of_the_pictures() -> None:
    generator, other = seeded(), seeded()
    Noise().add(torch.rand(4, 3, 8, 8), generator)
    Noise().add(torch.rand(4, 3, 31, 17), other)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=other))
