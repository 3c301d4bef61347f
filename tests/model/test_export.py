from __future__ import annotations

import importlib.util
import io
from math import inf, nan
from typing import Any

import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.export import check_writable, exported, round_to_half
from upscaler.model.export_checks import check, pth_run
from upscaler.model.export_layers import Exportable
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet


def _rrdbnet(**settings: Any) -> RRDBNet:
    return RRDBNet(**{"features": 4, "growth": 32, "blocks": 1} | settings).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "network",
    [_rrdbnet(), _rrdbnet(scale=2, unshuffle=2), Compact(features=4, convolutions=1, scale=3)],
    ids=["rrdbnet", "unshuffling", "compact"],
)
def test_a_pth_is_what_basicsr_writes(network: Exportable) -> None:
    (content,) = exported(network, "pth", {})
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    assert list(checkpoint) == ["params_ema"]
    assert checkpoint["params_ema"].keys() == network.state_dict().keys()
    x = torch.rand(1, 3, 6, 5)
    assert torch.equal(pth_run(content)(x), network(x))
    assert exported(network, "pth", {}) == [content]


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (_rrdbnet(growth=16), "growth is 16, and other programs would take it for 32"),
        (_rrdbnet(unshuffle=8, scale=1), "unshuffle is 8, and other programs would take it for 1 or 2 or 4"),
        (_rrdbnet(fusion_kernel=1), "fusion_kernel is 1"),
        (_rrdbnet(hr_kernel=5), "hr_kernel is 5"),
        (_rrdbnet(upsampling="pixelshuffle"), "upsampling is pixelshuffle"),
        (_rrdbnet(residual_scale=0.1), "residual_scale is 0.1"),
        (_rrdbnet(output_activation="sigmoid"), "output_activation is sigmoid"),
        (Compact(activation="relu"), "activation is relu"),
    ],
)
def test_what_a_pth_cannot_tell_is_refused(network: Exportable, complaint: str) -> None:
    with pytest.raises(UserError, match=f"{complaint}.*; use --to onnx or --to ncnn"):
        exported(network, "pth", {})


def test_a_network_that_no_other_program_reads_is_refused_as_pth() -> None:
    with pytest.raises(UserError, match=r"no other program reads residual from a \.pth; use --to onnx or --to ncnn"):
        exported(Residual(features=4, blocks=1), "pth", {})


def test_rounding_to_half_leaves_biases_and_other_networks_alone() -> None:
    network = _rrdbnet()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    shared = network.conv_first.weight.data
    round_to_half(network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name].half().float() if parameter.dim() == 4 else before[name]), name
    assert torch.equal(shared, before["conv_first.weight"])


def test_weights_beyond_16_bits_are_refused() -> None:
    network = _rrdbnet()
    network.conv_hr.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(UserError, match=r"conv_hr\.weight has numbers that 16 bits cannot hold; leave --fp16 out"):
        round_to_half(network)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install onnx"):
        check_writable("onnx")
    check_writable("ncnn")
    check_writable("pth")
    assert check([b""], "onnx", _rrdbnet()) is None


@pytest.mark.parametrize("to", ["onnx", "ncnn", "pth"])
def test_files_are_run(to: Any) -> None:
    network = _rrdbnet(scale=1, unshuffle=4)
    found = check(exported(network, to, {}), to, network)
    assert found is not None
    assert found.difference < 1e-6


@pytest.mark.parametrize("to", ["onnx", "ncnn", "pth"])
def test_a_file_of_another_network_is_refused(to: Any) -> None:
    network, other = _rrdbnet(), _rrdbnet()
    with pytest.raises(UserError, match=r"differs by .*; nothing was written"):
        check(exported(other, to, {}), to, network)


@pytest.mark.parametrize("to", ["onnx", "ncnn", "pth"])
@pytest.mark.parametrize("value", [nan, inf])
def test_a_network_without_finite_results_is_refused(to: Any, value: float) -> None:
    network = _rrdbnet()
    network.state_dict()["conv_last.bias"].fill_(value)
    with pytest.raises(UserError, match="differs by inf"):
        check(exported(network, to, {}), to, network)


def test_a_result_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="onnxruntime differs by inf"):
        check(exported(_rrdbnet(scale=2), "onnx", {}), "onnx", _rrdbnet())


def test_a_graph_that_ncnn_cannot_read_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    param, binary = exported(_rrdbnet(), "ncnn", {})
    with pytest.raises(UserError, match="ncnn cannot read"):
        check([param.replace(b"7767517", b"7767518"), binary], "ncnn", _rrdbnet())
    assert "param is too old" in capfd.readouterr().err
