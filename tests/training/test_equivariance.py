"""Bound weights: pictures turn with what they are made of, and training keeps it so."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.layouts import Built
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.turns import TURNS, turned
from upscaler.model.weights import Weights
from upscaler.training.config import Optimiser
from upscaler.training.equivariance import Equivariance
from upscaler.training.layering import load_config
from upscaler.training.learners import Learner
from upscaler.training.players import begin_with, make_generator
from upscaler.training.stabilisers import initialise


def networks() -> Iterator[Built]:
    yield Residual(features=16, blocks=2, scale=3)
    yield Residual(features=8, blocks=1, scale=4)
    yield Compact(features=16, convolutions=2, scale=2)
    yield RRDBNet(features=16, blocks=1, growth=8, scale=4)
    yield RRDBNet(features=16, blocks=1, growth=8, scale=2, unshuffle=2)


@pytest.fixture(params=range(5), ids=["residual-x3", "residual-x4", "compact-x2", "rrdbnet-x4", "rrdbnet-x2"])
def network(request: pytest.FixtureRequest) -> Built:
    """One of every kind of tail and head, with weights of all sizes."""
    made: Built = list(networks())[request.param]
    initialise(made, "default", seed=request.param)
    for module in made.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.1, 0.9)
    return made


def picture(scale: int = 1) -> Tensor:
    return torch.rand(2, 3, 12 * scale, 16 * scale, generator=torch.Generator().manual_seed(scale))


def unevenness(network: nn.Module) -> float:
    """How far, at most, a turned picture's result is from the picture's result, turned."""
    lr = picture()
    with torch.no_grad():
        return max(float((network(turned(lr, turn)) - turned(network(lr), turn)).abs().max()) for turn in TURNS)


def spreads(network: nn.Module) -> list[float]:
    return [float(parameter.detach().std()) for parameter in network.parameters() if parameter.dim() == 4]


def test_a_bound_network_enlarges_turned_pictures_alike(network: Built) -> None:
    equivariance = Equivariance(network)
    assert not equivariance.holds()
    assert unevenness(network) > 1e-2
    equivariance.draw()
    assert equivariance.holds()
    assert unevenness(network) < 1e-5


def test_binding_keeps_the_variance_that_was_drawn(network: Built) -> None:
    drawn = spreads(network)
    Equivariance(network).draw()
    assert spreads(network) == pytest.approx(drawn, rel=0.2)


def test_binding_twice_changes_nothing(network: Built) -> None:
    equivariance = Equivariance(network)
    equivariance.bind_weights()
    once = copy.deepcopy(network.state_dict())
    equivariance.bind_weights()
    for name, tensor in network.state_dict().items():
        assert torch.allclose(tensor, once[name], atol=1e-7)


def test_bound_gradients_are_those_of_the_pictures_in_all_turns(network: Built) -> None:
    """The reason why it learns faster: a patch in one turn teaches what its eight turns would."""
    equivariance = Equivariance(network.double())
    equivariance.draw()
    lr, hr = picture().double(), picture(network.scale).double()

    sum(F.mse_loss(network(turned(lr, turn)), turned(hr, turn)) for turn in TURNS).backward()  # type: ignore[union-attr]
    wanted = [gradient / len(TURNS) for gradient in gradients(network)]
    network.zero_grad()
    F.mse_loss(network(lr), hr).backward()  # type: ignore[no-untyped-call]
    alone = gradients(network)
    equivariance.bind_gradients()

    for of_eight, of_one, bound in zip(wanted, alone, gradients(network), strict=True):
        assert torch.allclose(bound, of_eight, rtol=0, atol=1e-9 * float(of_eight.abs().max()))
        if of_one.dim() == 4:
            assert (of_one - of_eight).abs().max() > 1e-2 * of_eight.abs().max()


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("bound", [True, False])
def test_training_keeps_a_network_bound(kind: str, bound: bool) -> None:
    network = Residual(features=16, blocks=2, scale=2)
    initialise(network, "kaiming", seed=0)
    equivariance = Equivariance(network)
    equivariance.draw()
    learner = Learner(network, network, optimiser(kind), scaled=False, equivariance=equivariance if bound else None)
    for _ in range(10):
        learner.begin(0.5, 1.0)
        learner.backward(F.l1_loss(network(picture()), picture(2)))
        learner.finish()
    assert (unevenness(network) < 1e-5) is bound
    assert equivariance.holds() is bound


def optimiser(kind: str) -> Optimiser:
    settings = [f"generator.optimiser={kind}", "generator.learning_rate=1e-2", "generator.clip=1"]
    return load_config("photo-psnr", settings=settings).stages[0].generator


def test_a_preset_that_asks_for_it_begins_with_a_bound_network() -> None:
    config = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}"])
    assert Equivariance(make_generator(config)).holds()
    loose = load_config("photo-psnr", settings=["network.settings={features=16,blocks=2}", "network.equivariant=false"])
    assert not Equivariance(make_generator(loose)).holds()


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
