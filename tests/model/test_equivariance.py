"""Bound weights: pictures turn with what they are made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.model.catalogue import resolve
from upscaler.model.compact import Compact
from upscaler.model.equivariance import Equivariance, is_equivariant
from upscaler.model.layouts import Built
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.turns import TURNS, turned
from upscaler.model.weights import build_network, load_weights

NAMES = (
    "residual-x3",
    "residual-x4",
    "compact-x2",
    "rrdbnet",
    "unshuffled",
    "pixelshuffle",
    "transposed",
)


def networks() -> Iterator[Built]:
    yield Residual(features=16, blocks=2, scale=3)
    yield Residual(features=8, blocks=1, scale=4)
    yield Compact(features=16, convolutions=2, scale=2)
    yield RRDBNet(features=16, blocks=1, growth=8, scale=4)
    yield RRDBNet(features=16, blocks=1, growth=8, scale=2, unshuffle=2)
    yield RRDBNet(features=8, blocks=1, growth=8, scale=4, upsampling="pixelshuffle", fusion_kernel=1, hr_kernel=5)
    yield RRDBNet(features=8, blocks=1, growth=8, scale=2, upsampling="transposed")


@pytest.fixture(params=range(len(NAMES)), ids=NAMES)
def network(request: pytest.FixtureRequest) -> Built:
    """One of every kind of tail and head, with weights of all sizes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Built = list(networks())[request.param]
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
    assert unevenness(network) > 1e-3
    equivariance.bind_drawn()
    assert equivariance.holds()
    assert unevenness(network) < 1e-5
    assert is_equivariant(network) is (network.unshuffle == 1)


def test_a_network_that_pads_its_pictures_does_not_enlarge_every_turned_one_alike() -> None:
    network = RRDBNet(features=16, blocks=1, growth=8, scale=2, unshuffle=2)
    Equivariance(network).bind_drawn()
    odd = picture()[..., :11, :13]
    with torch.no_grad():
        assert not torch.allclose(network(odd.flip(-1)), network(odd).flip(-1), atol=1e-5)


def test_binding_keeps_the_variance_that_was_drawn(network: Built) -> None:
    drawn = spreads(network)
    Equivariance(network).bind_drawn()
    assert spreads(network) == pytest.approx(drawn, rel=0.5)


def test_binding_twice_changes_nothing(network: Built) -> None:
    equivariance = Equivariance(network)
    equivariance.bind_weights()
    once = copy.deepcopy(network.state_dict())
    assert unevenness(network) < 1e-5
    equivariance.bind_weights()
    assert all(torch.equal(tensor, once[name]) for name, tensor in network.state_dict().items())


def test_bound_gradients_are_those_of_the_pictures_in_all_turns(network: Built) -> None:
    """The reason why it learns faster: a patch in one turn teaches what its eight turns would."""
    equivariance = Equivariance(network.double())
    equivariance.bind_drawn()
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


def test_widths_that_are_no_multiple_of_8_cannot_be_bound() -> None:
    with pytest.raises(ValueError, match="12 features are no multiple of 8"):
        Equivariance(Residual(features=12, blocks=1))
    assert not is_equivariant(Residual(features=12, blocks=1))


@pytest.mark.parametrize("name", ["photo", "photo-psnr"])
def test_the_bundled_pair_has_tta_built_in(name: str) -> None:
    """As README and the cards say."""
    assert is_equivariant(build_network(load_weights(resolve(name).path)))
