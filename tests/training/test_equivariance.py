"""Training that keeps a generator's weights bound."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.equivariance import Equivariance, is_equivariant
from upscaler.model.residual import Residual
from upscaler.model.weights import Weights
from upscaler.training.degradation import find_preset
from upscaler.training.layering import load_config
from upscaler.training.learners import Learner
from upscaler.training.pairs import Batch
from upscaler.training.players import begin_with, make_discriminator, make_generator, placed
from upscaler.training.processes import Processes
from upscaler.training.stabilisers import initialise
from upscaler.training.steps import Steps

CPU = torch.device("cpu")


def bound_network() -> Residual:
    network = Residual(features=16, blocks=2, scale=2)
    initialise(network, "kaiming", seed=0)
    Equivariance(network).bind_drawn()
    return network


def learner(network: Residual, kind: str = "adam", *, bound: bool = True) -> Learner:
    settings = [f"generator.optimiser={kind}", "generator.learning_rate=1e-2", "generator.clip=1"]
    optimiser = load_config("photo-psnr", settings=settings).stages[0].generator
    return Learner(network, network, optimiser, scaled=False, equivariance=Equivariance(network) if bound else None)


def loss(network: Residual, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lr, hr = (torch.rand(2, 3, edge, edge, generator=generator) for edge in (12, 24))
    return F.l1_loss(network(lr), hr)


def gradients(network: Residual) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("bound", [True, False])
def test_training_keeps_a_network_bound_to_the_bit(kind: str, bound: bool) -> None:
    network = bound_network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    learning = learner(network, kind, bound=bound)
    for step in range(10):
        learning.begin(0.5, 1.0)
        learning.backward(loss(network, step))
        learning.finish()
    after = [parameter.detach().clone() for parameter in network.parameters()]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert is_equivariant(network) is bound
    Equivariance(network).bind_weights()
    assert same(after, [parameter.detach() for parameter in network.parameters()]) is bound


def test_gradients_are_bound_once_a_step() -> None:
    network = bound_network()
    learning, equivariance = learner(network), Equivariance(network)
    learning.begin(0.5, 1.0)
    for _ in range(2):  # the first step breaks off
        learning.begin(0.5, 1.0)
        learning.backward(loss(network))
        loose = gradients(network)
        learning.settle()
        settled = gradients(network)
        assert not same(loose, settled)
        learning.settle()
        assert same(settled, gradients(network))
        equivariance.bind_gradients()
        assert same(settled, gradients(network))


@pytest.mark.parametrize("settings", [(), ("data.accumulate=2", "generator.clip=1"), ("engine.channels_last=true",)])
@pytest.mark.parametrize("watch", [True, False])
def test_a_gan_stage_keeps_both_generators_bound(settings: tuple[str, ...], watch: bool) -> None:
    small = ("data.batch=2", "data.patch=32", "gan.discriminator.features=4")
    stage = load_config("quick", settings=[*small, *settings]).stages[-1]
    generator = Compact(features=8, convolutions=1)
    initialise(generator, "kaiming", seed=0)
    Equivariance(generator).bind_drawn()
    discriminator = make_discriminator(stage, seed=1)
    assert discriminator is not None
    steps = Steps(
        stage,
        4,
        placed(copy.deepcopy(generator), stage.engine, CPU),
        copy.deepcopy(generator).eval().requires_grad_(False),
        placed(discriminator, stage.engine, CPU),
        None,
        find_preset("bicubic"),
        Processes(),
        equivariant=True,
    )
    hr = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for number in range(3):
        steps.make(iter([Batch(hr, None, (number, number + 1))]), watch=watch, histograms=watch)
    learnt, average = steps.generator.network, steps.average
    assert isinstance(learnt, Compact)
    assert isinstance(average, Compact)
    before = dict(generator.named_parameters())
    assert all(not torch.equal(tensor, before[name]) for name, tensor in learnt.named_parameters())
    assert is_equivariant(learnt)
    assert is_equivariant(average)


def test_a_preset_that_asks_for_it_begins_with_a_bound_network() -> None:
    config = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}"])
    assert is_equivariant(make_generator(config))
    loose = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}", "network.equivariant=false"])
    assert not is_equivariant(make_generator(loose))


def test_widths_that_cannot_be_bound_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs other network\.settings: 12 features are no multiple of 8"):
        make_generator(load_config("photo-psnr", settings=["network.settings={features=12,blocks=2}"]))


def test_loose_weights_are_no_beginning_for_a_bound_run() -> None:
    loose = Residual(features=16, blocks=2, scale=4)
    initialise(loose, "kaiming", seed=0)
    weights = Weights("residual", loose.settings(), loose.state_dict(), {}, "0" * 64)
    with pytest.raises(UserError, match=r"add --set network\.equivariant=false"):
        begin_with(copy.deepcopy(loose), weights, equivariant=True)
    begin_with(copy.deepcopy(loose), weights, equivariant=False)
