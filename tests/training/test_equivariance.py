"""Training that keeps a generator's weights bound."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from upscaler.errors import UserError
from upscaler.model.equivariance import Equivariance, is_equivariant
from upscaler.model.residual import Residual
from upscaler.model.weights import Weights
from upscaler.training.config import Optimiser
from upscaler.training.layering import load_config
from upscaler.training.learners import Learner
from upscaler.training.players import begin_with, make_generator
from upscaler.training.stabilisers import initialise


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("bound", [True, False])
def test_training_keeps_a_network_bound(kind: str, bound: bool) -> None:
    network = Residual(features=16, blocks=2, scale=2)
    initialise(network, "kaiming", seed=0)
    equivariance = Equivariance(network)
    equivariance.draw()
    before = copy.deepcopy(network.state_dict())
    learner = Learner(network, network, optimiser(kind), scaled=False, equivariance=equivariance if bound else None)
    generator = torch.Generator().manual_seed(0)
    lr, hr = (torch.rand(2, 3, edge, edge, generator=generator) for edge in (12, 24))
    for _ in range(10):
        learner.begin(0.5, 1.0)
        learner.backward(F.l1_loss(network(lr), hr))
        learner.finish()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert is_equivariant(network) is bound


def optimiser(kind: str) -> Optimiser:
    settings = [f"generator.optimiser={kind}", "generator.learning_rate=1e-2", "generator.clip=1"]
    return load_config("photo-psnr", settings=settings).stages[0].generator


def test_a_preset_that_asks_for_it_begins_with_a_bound_network() -> None:
    config = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}"])
    assert is_equivariant(make_generator(config))
    loose = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}", "network.equivariant=false"])
    assert not is_equivariant(make_generator(loose))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["network.settings={features=12,blocks=2}"], "12 channels are no multiple of 8"),
        (["network.initialisation=orthogonal"], "use network.initialisation=kaiming"),
    ],
)
def test_what_cannot_be_bound_is_refused(settings: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_generator(load_config("photo-psnr", settings=settings))


def test_loose_weights_are_no_beginning_for_a_bound_run() -> None:
    loose = Residual(features=16, blocks=2, scale=4)
    initialise(loose, "kaiming", seed=0)
    weights = Weights("residual", loose.settings(), loose.state_dict(), {}, "0" * 64)
    with pytest.raises(UserError, match=r"not equivariant; go on from them with network\.equivariant=false"):
        begin_with(copy.deepcopy(loose), weights, equivariant=True)
    begin_with(copy.deepcopy(loose), weights, equivariant=False)
