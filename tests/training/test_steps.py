"""A step of training: what it moves, what it leaves alone, and that how it is computed does not matter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.layouts import Built
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.training.config import Stage
from upscaler.training.degradation import find_preset
from upscaler.training.kernels import sharpen
from upscaler.training.layering import load_config
from upscaler.training.losses import evenness_loss
from upscaler.training.pairs import Batch
from upscaler.training.perceptual import VGGFeatures
from upscaler.training.players import make_discriminator, placed
from upscaler.training.processes import Processes
from upscaler.training.stabilisers import initialise
from upscaler.training.steps import Steps

CPU = torch.device("cpu")


def stage(*settings: str, last: bool = True) -> Stage:
    small = ("data.batch=4", "data.patch=32", "gan.discriminator.features=4", "engine.channels_last=false")
    return load_config("quick", settings=[*small, *settings]).stages[-1 if last else 0]


def batches(count: int = 100) -> Iterator[Batch]:
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        hr = torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
        lr = torch.nn.functional.avg_pool2d(hr.float(), 4).to(torch.uint8)
        yield Batch(hr, lr, tuple(range(4 * number, 4 * number + 4)))


def make(chosen: Stage, generator: Built | None = None, vgg: VGGFeatures | None = None) -> Steps:
    if generator is None:
        generator = Compact(features=4, convolutions=1)
        initialise(generator, "kaiming", seed=0, slope=0.25)
    discriminator = make_discriminator(chosen, seed=1)
    return Steps(
        chosen,
        4,
        placed(copy.deepcopy(generator), chosen.engine, CPU),
        copy.deepcopy(generator).eval().requires_grad_(False),
        None if discriminator is None else placed(discriminator, chosen.engine, CPU),
        vgg,
        find_preset("bicubic"),
        Processes(),
        equivariant=False,
    )


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> float:
    """The largest change of a parameter."""
    return max(float((before[name] - tensor.detach()).abs().max()) for name, tensor in network.named_parameters())


def one_step(steps: Steps, count: int = 1, **options: bool) -> Steps:
    source = batches()
    for _ in range(count):
        steps.make(source, **({"watch": False, "histograms": False} | options))
    return steps


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which network each update moved, in order, and that no other moved with it."""
    seen: list[str] = []
    for name in ("_teach_generator", "_teach_discriminator"):
        teach = getattr(Steps, name)

        def watched(self: Steps, *arguments: Any, teach: Any = teach, name: str = name, **options: Any) -> Any:
            assert self.discriminator is not None
            networks = {"generator": self.generator.network, "discriminator": self.discriminator.network}
            before = {each: copied(network) for each, network in networks.items()}
            result = teach(self, *arguments, **options)
            moves = [each for each, network in networks.items() if moved(before[each], network) > 0]
            assert moves == [name.removeprefix("_teach_")]
            seen.extend(moves)
            return result

        monkeypatch.setattr(Steps, name, watched)
    return seen


def test_each_update_moves_one_network(judged: list[str]) -> None:
    one_step(make(stage()), 2)
    assert judged == ["generator", "discriminator"] * 2


def test_the_discriminator_can_learn_more_often(judged: list[str]) -> None:
    steps = one_step(make(stage("gan.discriminator.steps=3")), 1)
    assert judged == ["discriminator", "discriminator", "generator", "discriminator"]
    assert steps.batches == 3


def test_the_discriminator_can_learn_less_often(judged: list[str]) -> None:
    one_step(make(stage("gan.discriminator.every=3")), 7)
    assert judged == [*["generator"] * 3, "discriminator", *["generator"] * 3, "discriminator", "generator"]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_readings_at_multiples_of_its_updates_measure_the_discriminator(every: int) -> None:
    steps, source = make(stage(f"gan.discriminator.every={every}")), batches()
    for step in range(1, 5):
        steps.make(source, watch=step == 4, histograms=step == 4)
    values, histograms = steps.reading()
    assert values["gradient/discriminator"] > 0
    assert "gradient/discriminator_last" in histograms


def test_the_adversarial_loss_reaches_the_generator_through_the_discriminator() -> None:
    steps = make(stage("gan.losses.pixel_weight=0", "gan.losses.adversarial_weight=1"))
    before = copied(steps.generator.network)
    one_step(steps, watch=True)
    assert moved(before, steps.generator.network) > 1e-5
    values, _ = steps.reading()
    assert values["picture_gradient/adversarial"] > 0
    assert values["gradient/generator_first"] > 0


def test_the_first_update_of_both_by_formulas() -> None:
    """Relativistic average, plain SGD: new weights = old weights - rate * gradient of the written out losses."""
    chosen = stage(
        "gan.losses.pixel_weight=0.5",
        "gan.losses.adversarial_weight=0.25",
        "generator.optimiser=sgd",
        "generator.betas=[0, 0]",
        "generator.schedule=constant",
        "discriminator.optimiser=sgd",
        "discriminator.betas=[0, 0]",
        "discriminator.schedule=constant",
        "discriminator.norm=none",
        "average=0",
    )
    steps = make(chosen)
    assert steps.discriminator is not None
    g, d = copy.deepcopy(steps.generator.network), copy.deepcopy(steps.discriminator.network)
    batch = next(batches())
    assert batch.lr is not None
    real, lr = batch.hr / 255, batch.lr / 255
    one_step(steps)

    fake = g(lr)
    on_real, on_fake = d(real), d(fake)
    real_side = -torch.log(1 - torch.sigmoid(on_real - on_fake.mean())).mean()
    fake_side = -torch.log(torch.sigmoid(on_fake - on_real.mean())).mean()
    loss = 0.5 * (fake - real).abs().mean() + 0.25 * (real_side + fake_side) / 2
    expected = [p - chosen.generator.learning_rate * q for p, q in _with_gradients(loss, g)]
    for new, wanted in zip(steps.generator.network.parameters(), expected, strict=True):
        torch.testing.assert_close(new, wanted, rtol=1e-4, atol=1e-7)

    on_real, on_fake = d(real), d(fake.detach())
    real_side = -torch.log(torch.sigmoid(on_real - on_fake.mean())).mean()
    fake_side = -torch.log(1 - torch.sigmoid(on_fake - on_real.mean())).mean()
    expected = [p - chosen.discriminator.learning_rate * q for p, q in _with_gradients((real_side + fake_side) / 2, d)]
    for new, wanted in zip(steps.discriminator.network.parameters(), expected, strict=True):
        torch.testing.assert_close(new, wanted, rtol=1e-4, atol=1e-7)
    assert moved(copied(steps.average), steps.generator.network) == 0  # with a decay of 0


def _with_gradients(loss: Tensor, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    parameters = list(network.parameters())
    return list(zip(parameters, torch.autograd.grad(loss, parameters), strict=True))


PLAIN = tuple(
    f"{network}.{setting}"
    for network in ("generator", "discriminator")
    for setting in ("optimiser=sgd", "learning_rate=0.1")
)
"""Adam makes steps of one size of gradients that are all but 0, and so much of their rounding."""


def close(one: Steps, other: Steps) -> None:
    for a, b in zip(one.generator.network.parameters(), other.generator.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)
    assert one.discriminator is not None
    assert other.discriminator is not None
    pairs = zip(one.discriminator.network.parameters(), other.discriminator.network.parameters(), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_are_the_whole_batch(parts: int) -> None:
    settings = (
        "gan.losses.adversarial=standard",
        "gan.stabilisers.instance_noise=10",
        "gan.stabilisers.shift=3",
        "discriminator.norm=none",
        *PLAIN,
    )
    close(one_step(make(stage(*settings)), 2), one_step(make(stage(*settings, f"data.accumulate={parts}")), 2))


@pytest.mark.parametrize(
    ("settings", "shares"),
    [((), 4), (("data.accumulate=4",), 1), (("data.accumulate=2", "data.patch=[[0,64],[1,60]]"), 2)],
)
def test_batch_norm_of_a_single_value_is_refused(settings: tuple[str, ...], shares: int) -> None:
    """A VGG discriminator's last has one position for each pair at less than 64 pixels."""
    with pytest.raises(UserError, match="with batch norm needs two pairs at a time below 64 pixels"):
        make_discriminator(stage("gan.discriminator.kind=vgg", "gan.discriminator.norm=batch", *settings), 1, shares)


@pytest.mark.parametrize(
    "settings",
    [
        ("gan.discriminator.kind=vgg", "data.accumulate=2"),
        ("gan.discriminator.kind=vgg", "data.accumulate=4", "gan.discriminator.norm=spectral"),
        ("gan.discriminator.kind=unet", "data.accumulate=4", "stabilisers.shift=16"),
        ("gan.discriminator.kind=patch", "data.accumulate=4", "stabilisers.shift=16"),
    ],
)
def test_other_small_parts_are_learnt_from(settings: tuple[str, ...]) -> None:
    one_step(make(stage("gan.discriminator.norm=batch", *settings)))


def test_the_layout_of_memory_does_not_matter() -> None:
    close(one_step(make(stage(*PLAIN)), 2), one_step(make(stage(*PLAIN, "engine.channels_last=true")), 2))


@pytest.mark.parametrize("network", [RRDBNet(features=4, growth=2, blocks=2), Residual(features=4, blocks=2)])
def test_blocks_computed_again_give_the_same_gradients(network: RRDBNet | Residual) -> None:
    computed: list[nn.Module] = []
    for block in network.body:
        block.register_forward_pre_hook(lambda block, _: computed.append(block))
    plain, again = make(stage(*PLAIN), network), make(stage(*PLAIN, "engine.checkpointing=true"), network)
    for steps, times in ((plain, 1), (again, 2)):
        computed.clear()
        one_step(steps, 2)
        assert len(computed) == 2 * 2 * times
    close(plain, again)
    assert again.generator.network.state_dict().keys() == network.state_dict().keys()


def test_bfloat16_learns_about_the_same() -> None:
    full, half = (one_step(make(stage(f"engine.precision={kind}")), 2) for kind in ("fp32", "bf16"))
    for a, b in zip(full.generator.network.parameters(), half.generator.network.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=2.5e-3)


def test_watching_changes_nothing() -> None:
    plain, watched = one_step(make(stage()), 3), one_step(make(stage()), 3, watch=True, histograms=True)
    for a, b in zip(plain.generator.network.parameters(), watched.generator.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_reading_tells() -> None:
    steps = make(stage("gan.stabilisers.instance_noise=10"))
    source = batches()
    losses = []
    for number in range(3):
        steps.make(source, watch=number == 2, histograms=number == 2)
        losses.append(steps.meter._sums["loss/pixel"].clone())
    values, histograms = steps.reading()
    assert values["loss/pixel"] == pytest.approx(float(losses[-1]) / 3)
    assert values["loss/generator"] == pytest.approx(values["loss/pixel"] + values["loss/adversarial"])
    assert values["noise/instance"] == pytest.approx(10 * (1 - 2 / steps.stage.iterations))
    gradients = [p.grad for p in steps.generator.network.parameters()]
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    assert values["gradient/generator"] == pytest.approx(float(norm), rel=1e-5)
    for name in ("output/real", "output/fake", "output/largest", "colour/red", "rate/generator", "rate/discriminator"):
        assert name in values
    assert {"output/real", "output/fake", "weight/generator_first", "gradient/discriminator_last"} <= set(histograms)
    assert "loss/pixel" not in steps.reading()[0]


def test_features_that_are_seen_pull_the_pictures_towards_the_target() -> None:
    layers = {"features.0.weight": torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(0))}
    layers["features.0.bias"] = torch.zeros(64)
    vgg = VGGFeatures("vgg19", ["conv1_1"], layers)
    settings = ("losses.pixel_weight=0", "losses.feature_weight=1", "perceptual.layers={conv1_1=1.0}")
    chosen = stage(*settings, "psnr.generator.learning_rate=1e-2", last=False)
    steps = make(chosen, vgg=vgg)
    source = iter([next(batches())] * 12)
    found = []
    for _ in range(12):
        steps.make(source, watch=True, histograms=False)
        found.append(steps.reading()[0]["loss/feature"])
    assert found[-1] < 0.9 * found[0]


def test_discriminator_and_vgg_see_pictures_at_the_same_random_places() -> None:
    layers = {"features.0.weight": torch.randn(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    vgg = VGGFeatures("vgg19", ["conv1_1"], layers)
    settings = ("gan.stabilisers.shift=5", "gan.losses.feature_weight=1", "perceptual.layers={conv1_1=1.0}")
    steps = make(stage(*settings), vgg=vgg)
    assert steps.discriminator is not None
    judged: list[Tensor] = []
    looked: list[Tensor] = []
    steps.discriminator.network.register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0].detach()))
    vgg.register_forward_pre_hook(lambda _, inputs: looked.append(inputs[0].detach()))
    one_step(steps)
    real, fake = judged[:2]
    assert real.shape == fake.shape == (4, 3, 27, 27)
    whole = next(batches()).hr / 255
    places = [
        [(top, left) for top in range(5) for left in range(5) if torch.equal(part, hr[:, top:, left:][:, :27, :27])]
        for part, hr in zip(real, whole, strict=True)
    ]
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) > 1
    for seen, expected in zip([*judged[2:], *looked], [real, fake, fake, real], strict=True):
        assert torch.equal(seen, expected)


def test_evenness_is_measured_against_what_the_pixel_loss_aims_at() -> None:
    steps = make(stage("gan.losses.evenness_weight=0.5", "data.sharpen=true"))
    batch = next(batches())
    with torch.no_grad():
        assert batch.lr is not None
        fake = steps.generator.network(batch.lr / 255)
    expected = 0.5 * evenness_loss(fake, sharpen(batch.hr / 255), 4)
    one_step(steps, watch=True)
    values, _ = steps.reading()
    assert values["loss/evenness"] == pytest.approx(float(expected), rel=1e-4)
    assert values["picture_gradient/evenness"] > 0
    terms = (values[f"loss/{name}"] for name in ("pixel", "evenness", "adversarial"))
    assert values["loss/generator"] == pytest.approx(sum(terms))


def test_the_average_follows_and_is_not_trained() -> None:
    steps = make(stage("average=0.9"))
    start = copied(steps.average)
    one_step(steps, 20)
    latest = copied(steps.generator.network)
    for name, tensor in steps.average.named_parameters():
        assert not tensor.requires_grad
        assert not torch.equal(tensor, start[name])
        assert not torch.equal(tensor, latest[name])


def test_lower_rates_after_a_rollback() -> None:
    steps = make(stage())
    steps.rate_factor = 0.25
    one_step(steps)
    assert steps.generator.rate == pytest.approx(0.25 * steps.stage.generator.learning_rate)


def test_gradients_too_small_for_half_precision_are_still_seen() -> None:
    """As those of a U-Net's mean over a large map are."""
    settings = ("gan.discriminator.kind=unet", "gan.discriminator.norm=spectral", "gan.losses.adversarial_weight=1e-6")
    found = []
    for precision in ("fp32", "fp16"):
        steps = one_step(make(stage(*settings, f"engine.precision={precision}")), watch=True)
        found.append(steps.reading()[0]["picture_gradient/adversarial"])
    assert 0 < found[0] < 1e-7
    assert found[1] == pytest.approx(found[0], rel=0.1)
