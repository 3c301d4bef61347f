"""What a generator may begin with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from upscaler.errors import UserError
from upscaler.model.layouts import Built
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import Weights
from upscaler.training.players import begin_with
from upscaler.training.stabilisers import initialise

SMALL = {"features": 6, "growth": 2}


def made(kind: type[Built] = Residual, seed: int = 0, **settings: Any) -> Built:
    network = kind(**settings)
    initialise(network, "default", seed=seed)
    return network


def weights_of(network: Built) -> Weights:
    return Weights(network.architecture, network.settings(), network.state_dict(), {}, "0" * 64)


@pytest.mark.parametrize("blocks", [3, 4, 5, 12])
def test_a_deeper_network_begins_as_the_shallower_one_and_learns_everywhere(blocks: int) -> None:
    shallow, deep = made(features=6, blocks=3), made(features=6, blocks=blocks, seed=1)
    begin_with(deep, weights_of(shallow))
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(deep(x), shallow(x))
    deep(x).square().mean().backward()
    last_layers = [block.conv2 for block in deep.body if isinstance(block.conv2, nn.Conv2d)]
    assert len(last_layers) == blocks
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in last_layers)


def test_new_blocks_lie_evenly_between_the_old_ones() -> None:
    deep = made(features=6, blocks=6, seed=1)
    begin_with(deep, weights_of(made(features=6, blocks=3)))
    assert [bool(block.conv2.weight.any()) for block in deep.body] == [True, False] * 3


@pytest.mark.parametrize(
    ("wanted", "found", "words"),
    [
        (made(features=6, blocks=2), made(features=6, blocks=3), "blocks 3, not 2"),
        (made(features=6, blocks=3), made(features=5, blocks=2), "features 5, not 6; blocks 2, not 3"),
        (made(RRDBNet, **SMALL, blocks=2), made(RRDBNet, **SMALL, blocks=1), "blocks 1, not 2"),
        (made(features=6, blocks=3), made(RRDBNet, **SMALL, blocks=1), "another architecture"),
    ],
)
def test_networks_that_another_cannot_begin_as(wanted: Built, found: Built, words: str) -> None:
    with pytest.raises(UserError, match=words):
        begin_with(wanted, weights_of(found))
