"""Every layout a file may come in makes the same network again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from upscaler.model.compact import Compact
from upscaler.model.layouts import NETWORKS, canonical, check_shapes, identify
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

Tensors = dict[str, Tensor]


def _tiny(**settings: Any) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(**{"blocks": 2, "features": 8, "growth": 4} | settings).eval()


def _original(tensors: Tensors) -> Tensors:
    def rename(key: str) -> str:
        key = re.sub(r"^body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", key)
        key = re.sub(r"^conv_up(\d)", r"upconv\1", key)
        return key.replace("conv_body", "trunk_conv").replace("conv_hr", "HRconv")

    return {rename(key): tensor for key, tensor in tensors.items()}


def _oldest(tensors: Tensors) -> Tensors:
    """Sequential numbering: 0 first, 1 trunk, an enlargement every third layer, then HR and last."""
    ups = sum(key.startswith("conv_up") and key.endswith("weight") for key in tensors)
    blocks = 1 + max(int(match[1]) for match in (re.match(r"body\.(\d+)", key) for key in tensors) if match)
    hr = 3 * ups + 2
    names = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    names |= {f"conv_up{step}": f"model.{3 * step}" for step in range(1, ups + 1)}
    names |= {"conv_hr": f"model.{hr}", "conv_last": f"model.{hr + 2}"}

    def rename(key: str) -> str:
        if key.startswith("body."):
            return re.sub(r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0.", key)
        name, part = key.split(".")
        return f"{names[name]}.{part}"

    return {rename(key): tensor for key, tensor in tensors.items()}


def _prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "layout",
    [dict, _original, _oldest, _prefixed("module."), _prefixed("_orig_mod."), _prefixed("module._orig_mod.")],
    ids=["basicsr", "original", "oldest", "parallel", "compiled", "both"],
)
def test_rrdbnet_of_every_layout_gives_the_same_picture(layout: Callable[[Tensors], Tensors], scale: int) -> None:
    network = _tiny(scale=scale)
    tensors = canonical(layout(network.state_dict()))
    architecture, settings = identify(tensors, {})
    assert (architecture, settings) == ("rrdbnet", network.settings())
    again = NETWORKS[architecture](**settings)
    again.load_state_dict(tensors)
    x = torch.rand(1, 3, 7, 6)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


def test_oldest_names_are_those_of_the_published_file() -> None:
    assert {key for key in _oldest(_tiny().state_dict()) if "RDB" not in key and key.endswith("weight")} == {
        f"model.{name}.weight" for name in ("0", "1.sub.2", "3", "6", "8", "10")
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 2, "unshuffle": 2},
        {"scale": 1, "unshuffle": 4},
        {"fusion_kernel": 1, "hr_kernel": 5},
        {"upsampling": "pixelshuffle"},
        {"upsampling": "transposed"},
        {"channels": 1, "blocks": 1},
    ],
)
def test_numbers_of_rrdbnet_are_read_from_tensors(settings: dict[str, Any]) -> None:
    network = _tiny(**settings)
    assert identify(network.state_dict(), {}) == ("rrdbnet", network.settings())


@pytest.mark.parametrize("convolutions", [0, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_numbers_of_compact_are_read_from_tensors(scale: int, convolutions: int) -> None:
    network = Compact(features=5, convolutions=convolutions, scale=scale)
    assert identify(network.state_dict(), {}) == ("compact", network.settings())


@pytest.mark.parametrize(("scale", "blocks"), [(1, 1), (3, 2), (4, 8)])
def test_numbers_of_residual_are_read_from_tensors(scale: int, blocks: int) -> None:
    network = Residual(features=5, blocks=blocks, scale=scale)
    assert identify(network.state_dict(), {}) == ("residual", network.settings())


def test_metadata_fills_only_what_tensors_do_not_tell() -> None:
    metadata = {
        "architecture": "rrdbnet",
        "settings": json.dumps({"residual_scale": 1, "output_activation": "tanh", "blocks": 2}),
    }
    _, settings = identify(_tiny().state_dict(), metadata)
    assert (settings["residual_scale"], settings["output_activation"]) == (1, "tanh")
    with pytest.raises(ValueError, match="metadata says blocks 3, but its tensors make 2"):
        identify(_tiny().state_dict(), {"architecture": "rrdbnet", "settings": '{"blocks": 3}'})


def test_metadata_may_have_each_setting_under_its_own_key() -> None:
    network = Compact(features=5, convolutions=2, activation="relu")
    metadata = {"architecture": "compact", "activation": "relu", "features": "5"}
    assert identify(network.state_dict(), metadata) == ("compact", network.settings())


def test_metadata_of_another_program_does_not_matter() -> None:
    assert identify(_tiny().state_dict(), {"architecture": "ESRGAN", "settings": "none"})[0] == "rrdbnet"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("[", "not a JSON object"),
        ("3", "not a JSON object"),
        ('{"colour": 1}', "unknown to this version"),
        ('{"residual_scale": "much"}', "residual_scale as 'much'"),
        ('{"residual_scale": NaN}', "residual_scale as nan"),
        ('{"residual_scale": true}', "residual_scale as True"),
        ('{"output_activation": "softmax"}', "softmax"),
    ],
)
def test_bad_metadata_is_refused(settings: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        identify(_tiny().state_dict(), {"architecture": "rrdbnet", "settings": settings})


def test_activation_that_nothing_tells_is_asked_for() -> None:
    with pytest.raises(ValueError, match="relu or leakyrelu"):
        identify(Compact(features=4, convolutions=1, activation="relu").state_dict(), {})


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: {}, "no weights"),
        (lambda _: {"fc.weight": torch.zeros(1)}, "such as fc.weight"),
        (_without("body.1.rdb2.conv3.bias"), "such as body.1.rdb2.conv3.bias"),
        (_without("conv_hr.bias"), "such as conv_hr.bias"),
        (_without("conv_last.weight"), "conv_last.weight is missing"),
        (lambda t: t | {"extra": torch.zeros(1)}, "too many for its network, such as extra"),
        (lambda t: t | {"conv_hr.bias": torch.zeros(3)}, "conv_hr.bias has the shape"),
        (lambda t: t | {"conv_first.weight": torch.zeros(8, 7, 3, 3)}, "fold no square"),
        (lambda t: t | {"conv_first.weight": torch.zeros(8, 192, 3, 3)}, "no whole scale"),
        (lambda t: t | {"conv_last.weight": torch.zeros(3)}, "no convolution's"),
        (lambda t: t | {"module.conv_hr.bias": torch.zeros(8)}, "same name"),
    ],
)
def test_tensors_of_no_network_are_refused_by_name(change: Callable[[Tensors], Tensors], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        identify(canonical(change(_tiny().state_dict())), {})


def test_compact_of_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="two convolutions at least"):
        identify({"body.0.weight": torch.zeros(12, 3, 3, 3), "body.0.bias": torch.zeros(12)}, {})


def test_thousands_of_claimed_blocks_are_refused_before_they_are_made() -> None:
    claimed = {f"body.{number}.x": torch.zeros(1) for number in range(10_000)}
    with pytest.raises(ValueError, match="10000 RRDBs lack"):
        identify(_tiny().state_dict() | claimed, {})


def test_equal_shapes_pass() -> None:
    check_shapes(_tiny().state_dict(), _tiny().state_dict())
