from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upscaler.model.compact import Compact
from upscaler.model.network import Network
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

SMALL: dict[str, Any] = {"features": 8, "growth": 4, "blocks": 1}


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def small_networks() -> list[Any]:
    return [
        pytest.param(RRDBNet(**SMALL), id="plain"),
        pytest.param(RRDBNet(**SMALL, scale=1), id="x1 plain"),
        pytest.param(RRDBNet(**SMALL, scale=2), id="x2 plain"),
        pytest.param(RRDBNet(**SMALL, scale=8), id="x8"),
        pytest.param(RRDBNet(**SMALL, scale=2, unshuffle=2), id="x2 unshuffled"),
        pytest.param(RRDBNet(**SMALL, scale=1, unshuffle=4), id="x1 unshuffled"),
        pytest.param(RRDBNet(**SMALL, fusion_kernel=1, hr_kernel=5), id="kernels"),
        pytest.param(RRDBNet(**SMALL, upsampling="pixelshuffle"), id="pixelshuffle"),
        pytest.param(RRDBNet(**SMALL, upsampling="transposed"), id="transposed"),
        pytest.param(RRDBNet(**SMALL, upsampling="transposed", scale=8, hr_kernel=5), id="transposed x8"),
        pytest.param(RRDBNet(**SMALL, upsampling="pixelshuffle", scale=2, hr_kernel=5), id="pixelshuffle x2"),
        pytest.param(Compact(features=6, convolutions=2), id="compact"),
        pytest.param(Compact(features=6, convolutions=0, scale=3, activation="relu"), id="compact x3"),
        pytest.param(Compact(features=6, convolutions=3, scale=1, activation="leakyrelu"), id="compact x1"),
        pytest.param(Residual(features=6, blocks=2), id="residual"),
        pytest.param(Residual(features=6, blocks=1, scale=3), id="residual x3"),
    ]


def extent(gradient: Tensor) -> tuple[int, int]:
    """First and last row with a gradient in (1, C, H, W)."""
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    return int(rows[0]), int(rows[-1])


def test_the_published_rrdbnet_has_its_published_size() -> None:
    assert parameters(RRDBNet()) == 16_697_987


def test_the_published_compact_networks_have_their_published_sizes() -> None:
    assert parameters(Compact(features=64, convolutions=32)) == 1_213_296
    assert parameters(Compact(features=64, convolutions=16)) == 621_424


@pytest.mark.parametrize("network", small_networks())
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (16, 8)])
def test_any_picture_becomes_scale_times_as_large(network: Any, height: int, width: int) -> None:
    y = network(torch.rand(2, 3, height, width))
    assert y.shape == (2, 3, height * network.scale, width * network.scale)


def open_ways(network: Any) -> Any:
    """The same network without a negative number in it, so that no activation closes a way through it."""
    network = copy.deepcopy(network).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    return network


@pytest.mark.parametrize("network", small_networks())
def test_the_trunk_reaches_exactly_as_far_as_stated(network: Any) -> None:
    network = open_ways(network)
    unit = network.unshuffle
    middle = network.trunk_reach // unit + 3
    x = torch.rand(1, 3, (2 * middle + 1) * unit, unit * 2, dtype=torch.float64, requires_grad=True)
    network.features(x)[:, :, middle].sum().backward()
    assert x.grad is not None
    first, last = extent(x.grad)
    assert (middle * unit - first, last - (middle * unit + unit - 1)) == (network.trunk_reach, network.trunk_reach)


@pytest.mark.parametrize("network", small_networks())
def test_the_head_reaches_exactly_as_far_as_stated(network: Any) -> None:
    network = open_ways(network)
    factor = network.scale * network.unshuffle
    middle = network.head_reach + 3
    f = torch.rand(1, network.feature_floats, 2 * middle + 1, 3, dtype=torch.float64, requires_grad=True)
    network.reconstruct(f)[:, :, middle * factor : (middle + 1) * factor].sum().backward()
    assert f.grad is not None
    first, last = extent(f.grad)
    assert max(middle - first, last - middle) == network.head_reach


@pytest.mark.parametrize(("activation", "low", "high"), [("sigmoid", 0.0, 1.0), ("tanh", 0.0, 1.0)])
def test_output_activations_keep_the_range(activation: Any, low: float, high: float) -> None:
    network = RRDBNet(**SMALL, output_activation=activation)
    with torch.no_grad():
        assert network.conv_last.bias is not None
        network.conv_last.bias += torch.tensor([-50.0, 0.0, 50.0])
        y = network(torch.rand(1, 3, 8, 8))
    assert float(y.min()) >= low
    assert float(y.max()) <= high
    assert float(y[:, 2].min()) == pytest.approx(1.0)


def test_the_residual_scale_is_used() -> None:
    torch.manual_seed(0)
    strong, none = RRDBNet(**SMALL, residual_scale=1.0), RRDBNet(**SMALL, residual_scale=0.0)
    none.load_state_dict(strong.state_dict())
    x = torch.rand(1, 3, 8, 8)
    shallow = none.conv_first(x)
    assert torch.allclose(none.features(x), shallow + none.conv_body(shallow))
    assert not torch.allclose(strong.features(x), none.features(x))


@pytest.mark.parametrize("network", small_networks())
def test_settings_build_the_same_network_again(network: Any) -> None:
    again = type(network)(**network.settings())
    again.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("network", small_networks())
def test_operations_are_the_multiplications_that_are_done(network: Any) -> None:
    counted = 0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal counted
        positions = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        counted += positions.shape[-1] * positions.shape[-2] * module.weight.numel()

    hooks = [
        m.register_forward_hook(count)
        for m in network.modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    ]
    network(torch.rand(1, 3, 8, 8))
    for hook in hooks:
        hook.remove()
    feature_pixels = (8 // network.unshuffle) ** 2
    assert counted == (network.trunk_operations + network.head_operations) * feature_pixels


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 3},
        {"scale": 4, "unshuffle": 4},
        {"fusion_kernel": 5},
        {"hr_kernel": 7},
        {"upsampling": "bilinear"},
        {"output_activation": "relu"},
        {"blocks": 0},
    ],
)
def test_rrdbnet_refuses_what_it_has_not(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RRDBNet"):
        RRDBNet(**settings)


@pytest.mark.parametrize("settings", [{"scale": 0}, {"features": 0}, {"convolutions": -1}, {"activation": "gelu"}])
def test_compact_refuses_what_it_has_not(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Compact"):
        Compact(**settings)


@pytest.mark.parametrize("settings", [{"scale": 0}, {"features": 0}, {"blocks": 0}, {"channels": 0}])
def test_residual_refuses_what_it_has_not(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Residual"):
        Residual(**settings)


def test_residual_is_nearest_neighbour_enlargement_and_what_its_layers_add() -> None:
    torch.manual_seed(0)
    network = Residual(features=4, blocks=1)
    x = torch.rand(1, 3, 5, 6)
    block: Any = network.body[0]
    first = network.conv_first(x)
    deep = block.conv1(first)
    deep = first + block.conv2(torch.where(deep > 0, deep, 0.25 * deep))
    added = network.conv_last(first + network.conv_after_body(deep))
    large = F.interpolate(x, scale_factor=4, mode="nearest") + F.pixel_shuffle(added, 4)
    torch.testing.assert_close(network(x), large)


def test_all_keep_the_protocol() -> None:
    networks: list[Network] = [RRDBNet(**SMALL), Compact(), Residual()]
    assert [network.architecture for network in networks] == ["rrdbnet", "compact", "residual"]
