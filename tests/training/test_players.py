"""What a generator may begin with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.layouts import Built
from upscaler.model.residual import Residual, ResidualBlock
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import Weights
from upscaler.training.players import begin_with
from upscaler.training.stabilisers import initialise


def made(kind: type[Built] = Residual, seed: int = 0, **settings: Any) -> Built:
    network = kind(**settings)
    initialise(network, "default", seed=seed)
    return network


def blocks_of(network: Built) -> list[ResidualBlock]:
    return [block for block in network.modules() if isinstance(block, ResidualBlock)]


def weights_of(network: Built) -> Weights:
    return Weights(network.architecture, network.settings(), network.state_dict(), {}, "0" * 64)


@pytest.mark.parametrize("blocks", [3, 4, 5, 12])
def test_a_deeper_network_begins_as_the_shallower_one_and_comes_to_learn_everywhere(blocks: int) -> None:
    shallow, deep = made(features=6, blocks=3), made(features=6, blocks=blocks, seed=1)
    begin_with(deep, weights_of(shallow), growing=True)
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(deep(x), shallow(x))
    before = [block.conv1.weight.detach().clone() for block in blocks_of(deep)]
    optimiser = torch.optim.SGD(deep.parameters(), 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        deep(x).square().mean().backward()
        optimiser.step()
    assert all(not torch.equal(block.conv1.weight, old) for block, old in zip(blocks_of(deep), before, strict=True))


def test_new_blocks_lie_evenly_between_the_old_ones() -> None:
    deep = made(features=6, blocks=6, seed=1)
    begin_with(deep, weights_of(made(features=6, blocks=3)), growing=True)
    assert [bool(block.conv2.weight.any()) for block in blocks_of(deep)] == [True, False] * 3


DEEP = {"features": 6, "blocks": 3}
DENSE = {"features": 6, "growth": 2}


@pytest.mark.parametrize(
    ("wanted", "found", "growing", "words"),
    [
        ((Residual, DEEP), (Residual, DEEP | {"blocks": 2}), False, "blocks 2, not 3"),
        ((Residual, DEEP), (Residual, DEEP | {"blocks": 4}), True, "blocks 4, not 3"),
        ((Residual, DEEP), (Residual, {"features": 5, "blocks": 2}), True, "features 5, not 6; blocks 2, not 3"),
        ((RRDBNet, DENSE | {"blocks": 2}), (RRDBNet, DENSE | {"blocks": 1}), True, "blocks 1, not 2"),
        ((Residual, DEEP), (RRDBNet, DENSE | {"blocks": 1}), True, "another architecture"),
    ],
)
def test_networks_that_another_cannot_begin_as(wanted: Any, found: Any, growing: bool, words: str) -> None:
    generator, given = (made(kind, **settings) for kind, settings in (wanted, found))
    with pytest.raises(UserError, match=words):
        begin_with(generator, weights_of(given), growing=growing)
