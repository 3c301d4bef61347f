from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.activations import CHANNELS, chosen_layers, feature_maps
from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

CPU = torch.device("cpu")


@pytest.fixture
def crop() -> Any:
    return np.random.default_rng(0).integers(0, 65536, (24, 24, 3), np.uint16)


def rrdbnet(**settings: Any) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(features=12, growth=4, **settings)


def test_layers_from_the_first_to_the_last(crop: Any) -> None:
    found = feature_maps(rrdbnet(blocks=9), crop, CPU)
    blocks = [f"RRDB {number} of 9" for number in (1, 3, 5, 7, 9)]
    assert list(found) == ["first convolution", *blocks, "convolution after the RRDBs"]
    assert {len(maps) for maps in found.values()} == {CHANNELS}
    few = chosen_layers(rrdbnet(blocks=2))
    assert list(few) == ["first convolution", "RRDB 1 of 2", "RRDB 2 of 2", "convolution after the RRDBs"]


def test_residual_blocks(crop: Any) -> None:
    torch.manual_seed(0)
    found = feature_maps(Residual(features=8, blocks=2), crop, CPU)
    assert list(found) == ["first convolution", "block 1 of 2", "block 2 of 2", "convolution after the blocks"]
    assert {len(maps) for maps in found.values()} == {8}


def test_a_chain_of_convolutions(crop: Any) -> None:
    torch.manual_seed(0)
    found = feature_maps(Compact(features=3, convolutions=16, scale=2), crop, CPU)
    assert list(found) == [*(f"activation {number} of 17" for number in (1, 5, 9, 13, 17)), "last convolution"]
    assert [len(maps) for maps in found.values()] == [3, 3, 3, 3, 3, CHANNELS]


def test_the_most_varying_channels_come_first(crop: Any) -> None:
    network = Compact(features=4, convolutions=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first: Any = network.body[0]
        first.weight[1, 0, 1, 1], first.weight[3, 2, 1, 1], first.bias[2] = 2, 5, 100
    found = feature_maps(network, crop, CPU)["activation 1 of 1"]
    assert [each.channel for each in found] == [3, 1, 0, 2]
    blue = crop[..., 2] / 65535
    assert found[0].deviation == pytest.approx(5 * blue.std(ddof=1), rel=1e-4)
    dark, bright = np.quantile(blue, (0.01, 0.99))
    wanted = 255 * np.clip((blue - dark) / (bright - dark), 0, 1)
    assert np.abs(found[0].picture - wanted).max() <= 0.51
    assert found[2].deviation == 0
    assert (found[2].picture == 0).all()


def test_a_folded_input_is_padded(crop: Any) -> None:
    found = feature_maps(rrdbnet(blocks=1, scale=2, unshuffle=2), crop[:23, :22], CPU)
    assert {each.picture.shape for maps in found.values() for each in maps} == {(12, 11)}


def test_the_network_is_left_as_it_was(crop: Any) -> None:
    network = rrdbnet(blocks=1)
    network.train()
    feature_maps(network, crop, CPU)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_another_network_is_refused(crop: Any) -> None:
    class Other(torch.nn.Module):
        architecture = "other"

    with pytest.raises(UserError, match="other networks have no layers"):
        feature_maps(Other(), crop, CPU)  # type: ignore[arg-type]
