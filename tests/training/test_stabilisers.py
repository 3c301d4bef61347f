from __future__ import annotations

import re
from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.training.discriminators import build_discriminator
from upscaler.training.stabilisers import Initialisation, Labels, fading, initialise, instance_noise, mixing, shifted

MANY = range(4000)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """New networks are the same in every run of a test."""
    torch.manual_seed(0)


def test_clean_labels_are_one_and_zero() -> None:
    assert torch.equal(Labels().real([3, 4]), torch.ones(2, 1))
    assert torch.equal(Labels().fake([3, 4]), torch.zeros(2, 1))


def test_smoothing_has_one_side() -> None:
    labels = Labels(smoothing=0.1)
    torch.testing.assert_close(labels.real([1, 2, 3]), torch.full((3, 1), 0.9))
    assert torch.equal(labels.fake([1, 2, 3]), torch.zeros(3, 1))


def test_noise_moves_labels_evenly_and_clips_them() -> None:
    labels = Labels(smoothing=0.3, noise=0.2)
    real, fake = labels.real(MANY), labels.fake(MANY)
    assert real.dtype == fake.dtype == torch.float32
    assert real.shape == fake.shape == (4000, 1)
    assert float(real.min()) == pytest.approx(0.5, abs=0.002)
    assert float(real.max()) == pytest.approx(0.9, abs=0.002)
    assert float(real.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(real.std()) == pytest.approx(0.4 / sqrt(12), rel=0.03)  # of an even distribution
    assert float((fake == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(fake[fake > 0].mean()) == pytest.approx(0.1, abs=0.01)
    assert float(fake.min()) == 0
    assert float(fake.max()) <= 0.2


def test_flips_give_the_label_of_the_other_kind_as_often_as_asked_for() -> None:
    labels = Labels(smoothing=0.1, flips=0.05)
    real, fake = labels.real(MANY), labels.fake(MANY)
    assert {round(label, 5) for label in real.flatten().tolist()} == {0.9, 0.0}
    assert {round(label, 5) for label in fake.flatten().tolist()} == {0.9, 0.0}
    assert float((real == 0).float().mean()) == pytest.approx(0.05, abs=0.012)
    assert float((fake != 0).float().mean()) == pytest.approx(0.05, abs=0.012)
    both = ((real == 0) & (fake != 0)).float().mean()
    assert float(both) < 0.01  # 0.0025 where they are independent


def test_flips_and_noise_are_independent() -> None:
    real = Labels(smoothing=0.3, noise=0.2, flips=0.3).real(MANY)
    kept, flipped = real[real > 0.45], real[real < 0.45]
    assert len(flipped) / len(real) == pytest.approx(0.3, abs=0.03)
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.01)
    assert float((flipped == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_labels_belong_to_samples_whatever_the_batch() -> None:
    labels = Labels(0.1, 0.05, 0.2)
    seeds = [5, 2**62 + 1, 0, 77]
    for draw in (labels.real, labels.fake):
        whole = draw(seeds)
        assert torch.equal(whole, draw(seeds))
        assert torch.equal(whole, torch.cat([draw(seeds[:1]), draw(seeds[1:])]))
        assert torch.equal(whole.flip(0), draw(seeds[::-1]))
        assert draw([]).shape == (0, 1)
    assert len(set(labels.real(range(100)).flatten().tolist())) > 70


def test_noise_of_real_and_fake_labels_is_independent() -> None:
    labels = Labels(smoothing=0.5, noise=0.5)
    real, fake = labels.real(MANY).flatten(), labels.fake(MANY).flatten()
    assert abs(float(torch.corrcoef(torch.stack([real, fake]))[0, 1])) < 0.05


@pytest.mark.parametrize("wrong", [{"smoothing": -0.1}, {"noise": 1.5}, {"flips": float("nan")}])
def test_labels_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="within 0 and 1"):
        Labels(**wrong)


def test_mixing_is_even_and_belongs_to_samples() -> None:
    mix = mixing(MANY)
    assert mix.shape == (4000, 1, 1, 1)
    assert mix.dtype == torch.float32
    assert float(mix.min()) >= 0
    assert float(mix.max()) <= 1
    assert float(mix.mean()) == pytest.approx(0.5, abs=0.015)
    assert float(mix.std()) == pytest.approx(1 / sqrt(12), rel=0.03)
    assert torch.equal(mix[10:20], mixing(range(10, 20)))
    labels = Labels(smoothing=0.5, noise=0.5).real(MANY).flatten()
    assert abs(float(torch.corrcoef(torch.stack([mix.flatten(), labels]))[0, 1])) < 0.05


def test_shifted_pictures_are_parts_at_places_of_their_seeds() -> None:
    """Positions as values tell where each part is from; the three by three places are met, and about as often."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    pictures = torch.stack([rows, columns]).expand(400, 2, 12, 10)
    parts = shifted(pictures, 3, range(400))
    assert parts.shape == (400, 2, 9, 7)
    places = parts[:, :, 0, 0]
    assert torch.equal(parts[:, :, -1, -1] - places, torch.tensor([8.0, 6.0]).expand(400, 2))
    found, counts = torch.unique(places, dim=0, return_counts=True)
    assert len(found) == 9
    assert counts.min() > 30
    assert torch.equal(shifted(pictures[:5], 3, range(7, 12)), parts[7:12])
    assert shifted(pictures, 0, range(400)) is pictures


def test_gradients_pass_through_a_shift() -> None:
    pictures = torch.rand(2, 3, 8, 8, requires_grad=True)
    shifted(pictures, 2, [1, 2]).sum().backward()  # type: ignore[no-untyped-call]
    assert pictures.grad is not None
    assert pictures.grad.sum() == 2 * 3 * 36


def test_instance_noise_has_its_sigma_and_passes_gradients() -> None:
    pictures = torch.rand(8, 3, 32, 32).requires_grad_()
    noisy = instance_noise(pictures, 0.1, range(8), 0)
    noise = (noisy - pictures).detach()
    torch.testing.assert_close(noise.std((1, 2, 3)), torch.full((8,), 0.1), atol=0.005, rtol=0)
    assert abs(float(noise.mean())) < 0.003
    (slope,) = torch.autograd.grad(noisy.sum(), pictures)
    assert torch.equal(slope, torch.ones_like(pictures))
    correlation = torch.corrcoef(noise.flatten(1)) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1


def test_no_instance_noise_gives_the_same_pictures_back() -> None:
    pictures = torch.rand(2, 3, 8, 8)
    assert instance_noise(pictures, 0.0, [1, 2], 0) is pictures


def test_instance_noise_belongs_to_samples_and_streams() -> None:
    pictures = torch.zeros(4, 3, 8, 8)
    seeds = [5, 2**62 + 1, 0, 77]
    whole = instance_noise(pictures, 1.0, seeds, 0)
    assert torch.equal(whole[1:3], instance_noise(pictures[:2], 1.0, seeds[1:3], 0))
    other = instance_noise(pictures, 1.0, seeds, 1)
    assert abs(float((whole * other).mean())) < 0.15
    assert not torch.equal(whole, other)


def test_instance_noise_is_the_same_in_every_memory_format() -> None:
    pictures = torch.rand(2, 3, 8, 8)
    last = pictures.to(memory_format=torch.channels_last)
    noisy = instance_noise(last, 0.1, [1, 2], 0)
    assert torch.equal(noisy, instance_noise(pictures, 0.1, [1, 2], 0))
    assert noisy.is_contiguous(memory_format=torch.channels_last)
    assert instance_noise(pictures.bfloat16(), 0.1, [1, 2], 0).dtype == torch.bfloat16


def test_every_picture_needs_its_seed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        instance_noise(torch.rand(2, 3, 8, 8), 0.1, [1], 0)


def test_fading_goes_straight_to_zero() -> None:
    assert fading(0.2, 0.5, 0.0) == 0.2
    assert fading(0.2, 0.5, 0.25) == pytest.approx(0.1)
    assert fading(0.2, 0.5, 0.5) == 0
    assert fading(0.2, 0.5, 1.0) == 0
    assert fading(0.2, 0.0, 0.0) == 0
    assert fading(0.2, 1.0, 0.75) == pytest.approx(0.05)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("kind", ["default", "kaiming", "orthogonal"])
def test_initialisation_depends_on_the_seed_alone(kind: Initialisation) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.rand(seed)  # a network made at another moment
        network = build_discriminator("vgg", features=2, kernel=3, norm="spectral")
        state = torch.get_rng_state()
        initialise(network, kind, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert network.training
        return dict(network.state_dict())

    a, b, c = weights(1), weights(1), weights(2)
    assert all(torch.equal(a[key], b[key]) for key in a)
    drawn = [key for key in a if kind == "default" or "bias" not in key]
    assert not any(torch.equal(a[key], c[key]) for key in drawn if a[key].numel() > 1)


def test_the_default_is_pytorchs_own_distribution() -> None:
    layer = nn.Conv2d(16, 64, 3)
    stock = layer.weight.detach().clone()
    initialise(nn.Sequential(layer), "default", seed=1)
    bound = 1 / sqrt(16 * 9)
    assert layer.bias is not None
    for drawn in (layer.weight.detach(), layer.bias.detach()):
        assert float(drawn.abs().max()) <= bound
        assert float(drawn.abs().max()) > 0.9 * bound
    assert float(layer.weight.detach().std()) == pytest.approx(float(stock.std()), rel=0.03)
    assert not torch.equal(layer.weight, stock)


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.25])
def test_kaiming_has_its_variance_and_no_biases(slope: float) -> None:
    network = Compact(features=64, convolutions=1)
    slopes = [module.weight.detach().clone() for module in network.modules() if isinstance(module, nn.PReLU)]
    initialise(network, "kaiming", seed=1, slope=slope, last_scale=0.1)
    first, middle, last = convolutions(network)
    for layer, fan_in, factor in ((first, 27, 1), (middle, 576, 1), (last, 576, 0.1)):
        expected = factor * sqrt(2 / (1 + slope**2) / fan_in)
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.06)
        assert layer.bias is not None
        assert float(layer.bias.detach().abs().max()) == 0
    after = [module.weight for module in network.modules() if isinstance(module, nn.PReLU)]
    assert all(torch.equal(a, b) for a, b in zip(slopes, after, strict=True))


def test_orthogonal_rows_are_orthogonal() -> None:
    network = Compact(features=16, convolutions=1)
    initialise(network, "orthogonal", seed=1, slope=0.25)
    rows = convolutions(network)[1].weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16) * (2 / (1 + 0.25**2)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "branch"),
    [
        (lambda: RRDBNet(features=4, growth=2, blocks=2), r"\.rdb\d\."),
        (lambda: Residual(features=4, blocks=2), r"^body\.\d\.conv2\."),
    ],
    ids=["rrdbnet", "residual"],
)
@pytest.mark.parametrize("kind", ["default", "kaiming", "orthogonal"])
def test_scales_reach_residual_branches_and_the_last_layer_alone(
    kind: Initialisation, make: Callable[[], nn.Module], branch: str
) -> None:
    def weights(scale: float, last_scale: float) -> dict[str, Tensor]:
        network = make()
        initialise(network, kind, seed=3, scale=scale, last_scale=last_scale)
        return dict(network.state_dict())

    plain, scaled = weights(1.0, 1.0), weights(0.1, 0.5)
    for key, weight in plain.items():
        factor = (
            1.0 if ".act." in key else 0.1 if re.search(branch, key) else 0.5 if key.startswith("conv_last") else 1.0
        )
        torch.testing.assert_close(scaled[key], weight * factor)
        assert "bias" in key or float(weight.abs().max()) > 0


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_kaiming_keeps_the_size_of_signals(upsampling: str) -> None:
    layer = nn.ConvTranspose2d(32, 32, 4, 2, 1) if upsampling == "transposed" else nn.Conv2d(32, 32, 3, padding=1)
    initialise(nn.Sequential(layer), "kaiming", seed=1, slope=1.0)  # with slope 1 there is no activation
    x = torch.randn(4, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(layer(x).detach()[..., 2:-2, 2:-2].var()) == pytest.approx(1, rel=0.1)


def test_spectral_norm_knows_new_weights_at_once() -> None:
    network = build_discriminator("unet", features=4, kernel=3, norm="spectral")
    initialise(network, "kaiming", seed=1)
    network.eval()
    largest = [float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]) for layer in convolutions(network)]
    assert largest[1:-1] == pytest.approx([1.0] * 8, rel=0.1)


def test_spectral_norm_stays_in_evaluation_mode() -> None:
    network = build_discriminator("unet", features=2, kernel=3, norm="spectral").eval()
    initialise(network, "kaiming", seed=1)
    assert not any(module.training for module in network.modules())


def test_an_initialisation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no initialisation xavier"):
        initialise(Compact(features=2, convolutions=0), "xavier", seed=0)  # type: ignore[arg-type]
