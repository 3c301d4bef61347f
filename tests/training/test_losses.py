from __future__ import annotations

from collections.abc import Callable
from math import exp, log, sqrt
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from upscaler.training.losses import (
    Adversarial,
    discriminator_loss,
    evenness_loss,
    generator_loss,
    gradient_penalty,
    pixel_loss,
    r1_penalty,
)

KINDS: tuple[Adversarial, ...] = get_args(Adversarial)
SHAPES = [(5, 1), (5, 1, 2, 3)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """New networks are the same in every run of a test."""
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0, scale: float = 1.5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * scale


def labels_of(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Soft and flipped ones, different for each sample."""
    count = shape[0]
    return torch.linspace(0.9, 0.1, count)[:, None], torch.linspace(0.0, 1.0, count)[:, None] ** 2


def flat(out: Tensor, labels: Tensor) -> list[tuple[float, float]]:
    """Every output with the label of its sample."""
    return [
        (o, float(label)) for sample, label in zip(out, labels, strict=True) for o in sample.detach().flatten().tolist()
    ]


def sigmoid(o: float) -> float:
    return 1 / (1 + exp(-o))


def cross_entropy(o: float, y: float) -> float:
    return -y * log(sigmoid(o)) - (1 - y) * log(1 - sigmoid(o))


def average(values: list[float]) -> float:
    return sum(values) / len(values)


def discriminator_by_hand(kind: Adversarial, r: list[tuple[float, float]], f: list[tuple[float, float]]) -> float:
    if kind == "standard":
        return average([cross_entropy(o, y) for o, y in r]) + average([cross_entropy(o, y) for o, y in f])
    if kind == "relativistic":
        return average([cross_entropy(a - b, y) for (a, y), (b, _) in zip(r, f, strict=True)])
    if kind == "relativistic-average":
        mean_r, mean_f = average([o for o, _ in r]), average([o for o, _ in f])
        real_term = average([cross_entropy(o - mean_f, y) for o, y in r])
        return 0.5 * (real_term + average([cross_entropy(o - mean_r, y) for o, y in f]))
    if kind == "lsgan":
        return average([(o - y) ** 2 for o, y in r]) + average([(o - y) ** 2 for o, y in f])
    if kind == "hinge":
        return average([max(0, 1 - o) for o, _ in r]) + average([max(0, 1 + o) for o, _ in f])
    return average([o for o, _ in f]) - average([o for o, _ in r])


def generator_by_hand(kind: Adversarial, r: list[float], f: list[float]) -> float:
    if kind == "standard":
        return average([cross_entropy(o, 1) for o in f])
    if kind == "relativistic":
        return average([cross_entropy(b - a, 1) for a, b in zip(r, f, strict=True)])
    if kind == "relativistic-average":
        real_term = average([cross_entropy(o - average(f), 0) for o in r])
        return 0.5 * (real_term + average([cross_entropy(o - average(r), 1) for o in f]))
    if kind == "lsgan":
        return average([(o - 1) ** 2 for o in f])
    return -average(f)


def discriminator_slopes(kind: Adversarial, r: Tensor, f: Tensor, yr: Tensor, yf: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of the loss by each real and each fake output, from H'(o, y) = sigmoid(o) - y."""
    n = r.numel()
    if kind == "standard":
        return (r.sigmoid() - yr) / n, (f.sigmoid() - yf) / n
    if kind == "relativistic":
        slope = ((r - f).sigmoid() - yr) / n
        return slope, -slope
    if kind == "relativistic-average":
        by_real = (r - f.mean()).sigmoid() - yr
        by_fake = (f - r.mean()).sigmoid() - yf
        return (by_real - by_fake.mean()) / (2 * n), (by_fake - by_real.mean()) / (2 * n)
    if kind == "lsgan":
        return 2 * (r - yr) / n, 2 * (f - yf) / n
    if kind == "hinge":
        return -(r < 1).float() / n, (f > -1).float() / n
    return torch.full_like(r, -1 / n), torch.full_like(f, 1 / n)


def generator_slopes(kind: Adversarial, r: Tensor, f: Tensor) -> Tensor:
    n = f.numel()
    if kind == "standard":
        return (f.sigmoid() - 1) / n
    if kind == "relativistic":
        return ((f - r).sigmoid() - 1) / n
    if kind == "relativistic-average":
        return ((f - r.mean()).sigmoid() - 1) / (2 * n) - (r - f.mean()).sigmoid().mean() / (2 * n)
    if kind == "lsgan":
        return 2 * (f - 1) / n
    return torch.full_like(f, -1 / n)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_their_formulas(kind: Adversarial, shape: tuple[int, ...]) -> None:
    real, fake = normal(*shape), normal(*shape, seed=1) - 0.5
    yr, yf = labels_of(shape)
    pairs = flat(real, yr), flat(fake, yf)
    loss = discriminator_loss(kind, real, fake, yr, yf)
    assert loss.item() == pytest.approx(discriminator_by_hand(kind, *pairs), rel=1e-5)
    by_hand = generator_by_hand(kind, *([o for o, _ in side] for side in pairs))
    assert float(generator_loss(kind, real, fake)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_terms_of_the_discriminators_loss_reach_its_weights(kind: Adversarial) -> None:
    shape = (5, 3, 4, 4)
    x_real, x_fake = normal(*shape), normal(*shape, seed=1)
    yr, yf = labels_of(shape)
    linear = nn.Linear(48, 1)
    generator = nn.Parameter(torch.ones(()))
    fake_pictures = generator * x_fake
    real, fake = linear(x_real.flatten(1)), linear(fake_pictures.detach().flatten(1))
    by_real, by_fake = discriminator_slopes(kind, real.detach(), fake.detach(), yr, yf)
    torch.autograd.backward(discriminator_loss(kind, real, fake, yr, yf))
    from_real, from_fake = by_real.T @ x_real.flatten(1), by_fake.T @ x_fake.flatten(1)
    assert float(from_real.norm()) > 0.01
    assert float(from_fake.norm()) > 0.01
    torch.testing.assert_close(linear.weight.grad, from_real + from_fake, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(linear.bias.grad, (by_real + by_fake).sum(0), atol=1e-6, rtol=1e-4)
    assert generator.grad is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_by_every_output_are_those_of_their_formulas(kind: Adversarial, shape: tuple[int, ...]) -> None:
    real, fake = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    yr, yf = labels_of(shape)
    yr_map, yf_map = (y.view(-1, *[1] * (len(shape) - 1)).expand(shape) for y in (yr, yf))
    found = torch.autograd.grad(discriminator_loss(kind, real, fake, yr, yf), (real, fake))
    expected = discriminator_slopes(kind, real.detach(), fake.detach(), yr_map, yf_map)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
    (by_fake,) = torch.autograd.grad(generator_loss(kind, real.detach(), fake), fake)
    torch.testing.assert_close(by_fake, generator_slopes(kind, real.detach(), fake.detach()), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generators_gradient_passes_through_a_frozen_discriminator(kind: Adversarial) -> None:
    shape = (5, 3, 4, 4)
    x_real, x_fake = normal(*shape), normal(*shape, seed=1).requires_grad_()
    linear = nn.Linear(48, 1).requires_grad_(False)
    real, fake = linear(x_real.flatten(1)), linear(x_fake.flatten(1))
    torch.autograd.backward(generator_loss(kind, real, fake))
    expected = generator_slopes(kind, real, fake.detach()) * linear.weight
    assert float(expected.norm()) > 0.01
    torch.testing.assert_close(x_fake.grad, expected.view(shape), atol=1e-7, rtol=1e-4)
    assert all(parameter.grad is None for parameter in linear.parameters())


@pytest.mark.parametrize("kind", ["hinge", "wgan"])
def test_hinge_and_wgan_use_no_labels(kind: Adversarial) -> None:
    real, fake = normal(5, 1), normal(5, 1, seed=1)
    ones, zeros = torch.ones(5, 1), torch.zeros(5, 1)
    assert torch.equal(
        discriminator_loss(kind, real, fake, ones, zeros), discriminator_loss(kind, real, fake, zeros, ones)
    )


def test_processes_that_share_their_means_make_the_loss_of_the_whole_batch() -> None:
    real, fake = normal(6, 1, 2, 2).requires_grad_(), normal(6, 1, 2, 2, seed=1).requires_grad_()
    yr, yf = labels_of((6, 1))

    first, second, whole = slice(0, 3), slice(3, 6), slice(None)
    reals = {real[half].data_ptr() for half in (first, second)}

    def of_all(part: Tensor) -> Tensor:
        """What a mean over two processes gives: each has its half, and all of it is at hand here."""
        return (real if part.data_ptr() in reals else fake).mean()

    def discriminators(half: slice, mean: Callable[[Tensor], Tensor]) -> Tensor:
        return discriminator_loss("relativistic-average", real[half], fake[half], yr[half], yf[half], mean=mean)

    def generators(half: slice, mean: Callable[[Tensor], Tensor]) -> Tensor:
        return generator_loss("relativistic-average", real[half], fake[half], mean=mean)

    for loss in (discriminators, generators):
        shared = (loss(first, of_all) + loss(second, of_all)) / 2
        single = loss(whole, torch.mean)
        torch.testing.assert_close(shared, single)
        slopes = torch.autograd.grad(shared, (real, fake)), torch.autograd.grad(single, (real, fake))
        torch.testing.assert_close(*slopes, atol=1e-7, rtol=1e-4)
        apart = (loss(first, torch.mean) + loss(second, torch.mean)) / 2
        assert float((apart - single).detach().abs()) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_in_the_thousands_stay_finite(kind: Adversarial) -> None:
    real = torch.tensor([[5e4], [-5e4]]).requires_grad_()
    fake = torch.tensor([[-3e4], [3e4]]).requires_grad_()
    total = discriminator_loss(kind, real, fake, torch.full((2, 1), 0.9), torch.zeros(2, 1))
    total = total + generator_loss(kind, real, fake)
    for value in (total, *torch.autograd.grad(total, (real, fake))):
        assert value.isfinite().all()


def test_half_precision_outputs_are_reckoned_in_full() -> None:
    real, fake = normal(5, 1).half(), normal(5, 1, seed=1).half()
    for kind in KINDS:
        loss = discriminator_loss(kind, real, fake, *labels_of((5, 1)))
        assert loss.dtype == torch.float32
        assert torch.equal(loss, discriminator_loss(kind, real.float(), fake.float(), *labels_of((5, 1))))


def test_pixel_losses_are_means_over_everything() -> None:
    a, b = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    differences = (a - b).flatten().tolist()
    assert float(pixel_loss("l1", a, b)) == pytest.approx(average([abs(d) for d in differences]), rel=1e-5)
    assert float(pixel_loss("l2", a, b)) == pytest.approx(average([d * d for d in differences]), rel=1e-5)
    expected = average([sqrt(d * d + 1e-6) for d in differences])
    assert float(pixel_loss("charbonnier", a, b)) == pytest.approx(expected, rel=1e-5)


def test_charbonnier_is_smooth_where_pictures_agree() -> None:
    a = normal(1, 3, 4, 4).requires_grad_()
    loss = pixel_loss("charbonnier", a, a.detach())
    (slope,) = torch.autograd.grad(loss, a)
    assert torch.equal(slope, torch.zeros_like(slope))
    assert float(loss.detach()) == pytest.approx(1e-3)


def weave(height: float, batch: int = 2, edge: int = 24) -> Tensor:
    """(batch, 3, edge, edge): one sub-pixel of 16 raised in flat grey."""
    pictures = torch.full((batch, 3, edge, edge), 0.5)
    pictures[:, :, 1::4, 2::4] += height
    return pictures


def test_evenness_is_the_variance_of_both_measures_over_the_places() -> None:
    height, visible = 3 / 255, 4 / 255
    laplacians = [4 * height] + 4 * [-height] + 11 * [0.0]
    signs = [d / sqrt(d * d + visible**2) for d in laplacians]
    energies = [log(d * d + visible**2) / 2 for d in laplacians]
    expected = sum(average([(v - average(each)) ** 2 for v in each]) for each in (signs, energies))
    assert float(evenness_loss(weave(height), weave(0), 4)) == pytest.approx(expected, rel=1e-4)


def test_what_is_alike_in_the_target_does_not_count() -> None:
    texture = torch.rand(2, 3, 24, 24)
    texture[..., 8] = 1.0
    assert float(evenness_loss(texture, texture, 4)) == 0
    assert float(evenness_loss(weave(0.1), weave(0.1), 4)) == 0


def test_texture_on_either_side_does_not_hide_an_edge_along_the_grid() -> None:
    edges = torch.full((8, 3, 96, 96), 0.2)
    edges[..., 48:] = 0.7
    results = [edges + normal(8, 3, 96, 96, seed=seed, scale=0.01) for seed in (0, 1)]
    flat = torch.full((8, 3, 96, 96), 0.5) + normal(8, 3, 96, 96, seed=1, scale=0.01)
    assert float(evenness_loss(results[0], results[1], 4)) < 0.2 * float(evenness_loss(results[0], flat, 4))


@pytest.mark.parametrize("scale", [2, 3])
def test_a_weave_of_another_scale_counts_too(scale: int) -> None:
    flat = torch.full((2, 3, 36, 36), 0.5)
    woven = flat.clone()
    woven[:, 1, ::scale, ::scale] += 3 / 255
    assert float(evenness_loss(woven, flat, scale)) > 0.05
    assert float(evenness_loss(woven, flat, scale)) == pytest.approx(float(evenness_loss(flat, woven, scale)))


def test_evenness_is_of_all_pictures_together_wherever_they_are() -> None:
    target = torch.full((4, 3, 24, 24), 0.5)
    result = (target + normal(4, 3, 24, 24, scale=0.01)).requires_grad_()
    result_halves, target_halves = torch.split(result, 2), torch.split(target, 2)
    own: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        own.append(values)
        return values

    for half, aim in zip(result_halves, target_halves, strict=True):
        evenness_loss(half, aim, 4, keep)
    shared = evenness_loss(result_halves[0], target_halves[0], 4, lambda _: (own[0] + own[1]) / 2)
    whole = evenness_loss(result, target, 4)
    torch.testing.assert_close(shared, whole)
    torch.testing.assert_close(torch.autograd.grad(shared, result), torch.autograd.grad(whole, result))
    opposite = weave(3 / 255, 2), weave(-3 / 255, 2)
    together = evenness_loss(torch.cat(opposite), torch.cat([weave(0)] * 2), 4)
    assert float(together) < 0.5 * float(evenness_loss(opposite[0], weave(0), 4))


def test_a_weave_counts_far_more_than_as_much_noise() -> None:
    noise = normal(8, 3, 96, 96, scale=3 / 255 / 4)
    both = [float(evenness_loss(result, weave(0, 8, 96), 4)) for result in (weave(3 / 255, 8, 96), noise + 0.5)]
    assert both[0] > 100 * both[1]


def test_detail_that_is_missing_evenly_does_not_count() -> None:
    sharp = weave(0, 8, 96) + normal(8, 3, 96, 96, scale=0.05)
    soft = weave(0, 8, 96) + normal(8, 3, 96, 96, scale=0.01)
    assert float(evenness_loss(soft, sharp, 4)) < 0.01


def test_descending_on_evenness_takes_the_weave_away() -> None:
    pictures = weave(3 / 255).requires_grad_()
    first = evenness_loss(pictures, weave(0), 4)
    optimiser = torch.optim.Adam([pictures], 1e-4)
    for _ in range(100):
        optimiser.zero_grad()
        loss = evenness_loss(pictures, weave(0), 4)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss.detach()) < 0.01 * float(first.detach())


class Linear(nn.Module):
    """D(x) = <w, x>, whose slope is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(normal(3, 4, 4, scale=0.4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w).sum((1, 2, 3))[:, None]


def half_square(x: Tensor) -> Tensor:
    """D(x) = |x|^2 / 2, whose slope is x."""
    return x.square().sum((1, 2, 3))[:, None] / 2


def test_the_gradient_penalty_of_a_linear_discriminator_is_that_of_its_weight() -> None:
    network = Linear()
    norm = float(network.w.detach().norm())
    assert abs(norm - 1) > 0.3
    penalty = gradient_penalty(network, normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1), torch.rand(5, 1, 1, 1))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, rel=1e-5)
    torch.autograd.backward(penalty)
    torch.testing.assert_close(network.w.grad, 2 * (norm - 1) * network.w.detach() / norm)


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight() -> None:
    network = Linear()
    penalty = r1_penalty(network, normal(5, 3, 4, 4))
    assert penalty.item() == pytest.approx(float(network.w.detach().square().sum()) / 2, rel=1e-5)
    torch.autograd.backward(penalty)
    torch.testing.assert_close(network.w.grad, network.w.detach())


def test_penalties_look_where_they_should() -> None:
    real, fake = normal(4, 3, 2, 2, scale=1), normal(4, 3, 2, 2, seed=1, scale=0.3)
    mix = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(4, 1, 1, 1)
    norms = [
        float((share * r + (1 - share) * f).norm())
        for share, r, f in zip((0.0, 0.25, 0.5, 1.0), real, fake, strict=True)
    ]
    penalty = gradient_penalty(half_square, real, fake, mix)
    assert penalty.item() == pytest.approx(average([(norm - 1) ** 2 for norm in norms]), rel=1e-5)
    squares = [float(r.square().sum()) for r in real]
    assert r1_penalty(half_square, real).item() == pytest.approx(average(squares) / 2, rel=1e-5)


@pytest.mark.parametrize("edge", [4, 8])
def test_the_score_of_a_map_is_its_mean(edge: int) -> None:
    network = nn.Conv2d(3, 1, 1)
    norm = float(network.weight.detach().norm()) / edge  # each of edge^2 positions sees its pixel with w / edge^2
    x = normal(2, 3, edge, edge)
    assert gradient_penalty(network, x, x, torch.ones(2, 1, 1, 1)).item() == pytest.approx((norm - 1) ** 2, rel=1e-4)
    assert r1_penalty(network, x).item() == pytest.approx(norm**2 / 2, rel=1e-4)


PENALTIES: list[Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = [
    lambda network, x: gradient_penalty(network, x, x, torch.full((len(x), 1, 1, 1), 0.5)),
    r1_penalty,
]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_leave_pictures_alone_and_work_under_autocast(
    penalty: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4, 1, 3))
    x = normal(2, 3, 8, 8)
    whole = penalty(network, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(penalty(network, x), whole)
    with torch.no_grad():
        assert torch.equal(penalty(network, x), whole)
    assert not x.requires_grad
    assert x.grad is None
    grown = x.clone().requires_grad_()
    torch.autograd.backward(penalty(network, grown * 1))
    assert grown.grad is None


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_flat_discriminator_has_a_finite_penalty(
    penalty: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
) -> None:
    network = nn.Conv2d(3, 1, 3)
    nn.init.zeros_(network.weight)
    torch.autograd.backward(penalty(network, normal(2, 3, 8, 8)))
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite().all()


def test_kinds_that_do_not_exist_are_refused() -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="no pixel loss l3"):
        pixel_loss("l3", x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no adversarial loss non"):
        discriminator_loss("non", x, x, x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no adversarial loss non"):
        generator_loss("non", x, x)  # type: ignore[arg-type]
