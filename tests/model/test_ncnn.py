"""ncnn pairs, written here by a small writer of the published layout."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upscaler.model.compact import Compact
from upscaler.model.export_ncnn import ncnn_pair
from upscaler.model.layouts import identify
from upscaler.model.ncnn import parse_param, read_ncnn
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

_FP16_TAG = 0x01306B47
_LEAKY = " 9=2 -23310=1,2.000000e-01"


class _Writer:
    """Collects layers in order; every blob but the names is of no interest to the reader."""

    def __init__(self, *, half: bool) -> None:
        self.half = half
        self.lines: list[str] = ["Input data 0 1 data"]
        self.binary = b""

    def layer(self, kind: str, settings: str = "") -> None:
        self.lines.append(f"{kind} {kind}_{len(self.lines)} 1 1 in out {settings}".strip())

    def convolution(self, conv: nn.Module, extra: str = "") -> None:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        kernel = conv.kernel_size[0]
        self.layer(
            "Convolution",
            f"0={conv.out_channels} 1={kernel} 4={kernel // 2} 5=1 6={conv.weight.numel()}{extra}",
        )
        weight = conv.weight.detach().numpy()
        data = weight.astype("<f2").tobytes() if self.half else weight.astype("<f4").tobytes()
        self.binary += struct.pack("<I", _FP16_TAG if self.half else 0) + data + b"\0" * (-len(data) % 4)
        self.binary += conv.bias.detach().numpy().astype("<f4").tobytes()

    def save(self, folder: Path) -> tuple[Path, Path]:
        param, binary = folder / "net.param", folder / "net.bin"
        param.write_text("\n".join(["7767517", f"{len(self.lines)} 99", *self.lines]) + "\n")
        binary.write_bytes(self.binary)
        return param, binary


def _rrdbnet(network: RRDBNet, *, half: bool) -> _Writer:
    writer = _Writer(half=half)
    writer.convolution(network.conv_first)
    for block in range(len(network.body)):
        for part in range(1, 4):
            dense = network.get_submodule(f"body.{block}.rdb{part}")
            for number in range(1, 5):
                writer.convolution(dense.get_submodule(f"conv{number}"), _LEAKY)
                writer.layer("Concat")
            writer.convolution(dense.get_submodule("conv5"))
            writer.layer("Eltwise", f"0=1 -23301=2,{network.settings()['residual_scale']:e},1.000000e+00")
    writer.convolution(network.conv_body)
    writer.layer("BinaryOp")
    for step in range(1, network.doublings + 1):
        writer.layer("Interp", "0=1 1=2.000000e+00 2=2.000000e+00")
        writer.convolution(network.get_submodule(f"conv_up{step}"), _LEAKY)
    writer.convolution(network.conv_hr, _LEAKY)
    writer.convolution(network.conv_last)
    return writer


def _compact(network: Compact, *, half: bool) -> _Writer:
    writer = _Writer(half=half)
    *layers, last = network.body
    for conv, activation in zip(layers[::2], layers[1::2], strict=True):
        if isinstance(activation, nn.PReLU):
            writer.convolution(conv)
            writer.layer("PReLU", f"0={activation.weight.numel()}")
            writer.binary += activation.weight.detach().numpy().astype("<f4").tobytes()
        else:
            writer.convolution(conv, " 9=1" if isinstance(activation, nn.ReLU) else " 9=2 -23310=1,1.000000e-01")
    writer.convolution(last)
    writer.layer("PixelShuffle", f"0={network.scale}")
    writer.layer("Interp", f"0=1 1={network.scale} 2={network.scale}")
    writer.layer("BinaryOp")
    return writer


def _tiny(**settings: Any) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(**{"blocks": 2, "features": 6, "growth": 3} | settings).eval()


def _rounded(tensor: Tensor, *, half: bool) -> Tensor:
    return tensor.half().float() if half and tensor.dim() == 4 else tensor


@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_rrdbnet(tmp_path: Path, scale: int, half: bool) -> None:
    network = _tiny(scale=scale, residual_scale=0.3)
    tensors, metadata = read_ncnn(*_rrdbnet(network, half=half).save(tmp_path))
    assert metadata == {"architecture": "rrdbnet", "residual_scale": "0.3", "output_activation": "none"}
    assert identify(tensors, metadata) == ("rrdbnet", network.settings())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensors[key], _rounded(tensor, half=half)), key


@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
@pytest.mark.parametrize("activation", ["prelu", "relu", "leakyrelu"])
def test_compact(tmp_path: Path, activation: str, half: bool) -> None:
    network = Compact(features=5, convolutions=2, scale=3, activation=activation).eval()  # type: ignore[arg-type]
    tensors, metadata = read_ncnn(*_compact(network, half=half).save(tmp_path))
    assert identify(tensors, metadata) == ("compact", network.settings())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensors[key], _rounded(tensor, half=half)), key


@pytest.mark.parametrize(
    "end",
    [
        ["Sigmoid", "Sigmoid", "ReLU 0=0.2"],
        ["TanH"],
        ["TanH", "BinaryOp 0=0 1=1 2=1.0", "BinaryOp 0=2 1=1 2=0.25"],
        ["TanH", "BinaryOp 0=0 1=0 2=1.0", "BinaryOp 0=2 1=1 2=0.5"],
        ["TanH", "BinaryOp 0=2 1=1 2=0.5", "BinaryOp 0=0 1=1 2=1.0"],
        ["BinaryOp 0=0 1=1 2=1.0", "TanH", "BinaryOp 0=2 1=1 2=0.5"],
    ],
)
def test_unusual_output_activations_are_refused(tmp_path: Path, end: list[str]) -> None:
    writer = _rrdbnet(_tiny(), half=True)
    for kind, *settings in map(str.split, end):
        writer.layer(kind, " ".join(settings))
    with pytest.raises(ValueError, match="unusual output activation"):
        read_ncnn(*writer.save(tmp_path))


@pytest.mark.parametrize("kind", ["Sigmoid", "TanH", "Reorg"])
def test_layers_of_rrdbnet_in_a_compact_network_are_refused(tmp_path: Path, kind: str) -> None:
    writer = _compact(Compact(features=4, convolutions=1), half=True)
    writer.layer(kind)
    with pytest.raises(ValueError, match=f"Compact network with a layer .* of the kind {kind}"):
        read_ncnn(*writer.save(tmp_path))


def test_transposed_convolutions_are_the_ones_that_double(tmp_path: Path) -> None:
    param, binary = tmp_path / "net.param", tmp_path / "net.bin"
    param.write_bytes(ncnn_pair(_tiny(upsampling="transposed"))[0].replace(b" 3=2 4=1 ", b" 3=1 4=1 "))
    binary.write_bytes(ncnn_pair(_tiny(upsampling="transposed"))[1])
    with pytest.raises(ValueError, match=r"conv_up1 is no convolution with a bias that doubles the size"):
        read_ncnn(param, binary)


def test_result_resized_behind_the_network_is_told(tmp_path: Path) -> None:
    writer = _compact(Compact(features=4, convolutions=1), half=True)
    writer.layer("Interp", "0=3 1=5.000000e-01 2=5.000000e-01")
    assert read_ncnn(*writer.save(tmp_path))[1]["resized_by"] == "0.5"


def _edited(pattern: str, replacement: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, replacement, text, count=1)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (_edited("7767517", "7767518"), "no ncnn layer list"),
        (lambda _: "", "no ncnn layer list"),
        (lambda text: text[: len(text) // 2], "layer list"),
        (_edited(r"\n\d+ 99", "\nmany 99"), "damaged"),
        (_edited("0=6", "0=six"), "damaged"),
        (_edited("0=6", "0=1e999"), "damaged"),
        (_edited("-23310=1,2.000000e-01", "-23310=0"), "damaged"),
        (_edited("Concat", "Softmax"), "kind Softmax"),
        (_edited("4=1", "4=0"), "keeps the size"),
        (_edited("5=1", "5=0"), "keeps the size"),
        (_edited("5=1", "5=1 3=2"), "keeps the size"),
        (_edited("5=1", "5=1 13=2"), "keeps the size"),
        (_edited("5=1", "5=1 2=2"), "keeps the size"),
        (_edited("6=162", "6=163"), "keeps the size"),
        (_edited("6=162", "6=1620000000000"), "cut off"),
        (_edited("-23301=2,2.0", "-23301=2,3.0"), "unusual residual scales"),
        (_edited("-23310=1,2.0", "-23310=1,3.0"), "unusual residual scales or activations"),
        (_edited("9=2", "9=3"), "activation that no network"),
        (_edited("Interp (.*) 0=1", r"Interp \1 0=2"), "otherwise than by nearest"),
    ],
)
def test_damaged_or_foreign_layer_lists_are_refused(tmp_path: Path, edit: Callable[[str], str], complaint: str) -> None:
    param, binary = _rrdbnet(_tiny(), half=True).save(tmp_path)
    changed = edit(param.read_text())
    assert changed != param.read_text()
    param.write_text(changed)
    with pytest.raises(ValueError, match=complaint):
        read_ncnn(param, binary)


def test_every_cut_of_the_numbers_is_refused(tmp_path: Path) -> None:
    param, binary = _compact(Compact(features=3, convolutions=1, scale=2), half=True).save(tmp_path)
    whole = binary.read_bytes()
    for length in range(len(whole)):
        binary.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut off"):
            read_ncnn(param, binary)
    binary.write_bytes(whole + b"\0\0\0\0")
    with pytest.raises(ValueError, match="4 bytes more"):
        read_ncnn(param, binary)


def test_unknown_encoding_is_refused(tmp_path: Path) -> None:
    writer = _compact(Compact(features=3, convolutions=1), half=True)
    writer.binary = struct.pack("<I", 0x000D4B38) + writer.binary[4:]
    with pytest.raises(ValueError, match="0x000D4B38"):
        read_ncnn(*writer.save(tmp_path))


@pytest.mark.parametrize("widths", [(3,), (3, 4, 5)])
def test_convolutions_that_make_no_network_are_refused(tmp_path: Path, widths: tuple[int, ...]) -> None:
    writer = _Writer(half=False)
    for width in widths:
        writer.convolution(nn.Conv2d(3, width, 3, padding=1))
    with pytest.raises(ValueError, match="neither an RRDBNet nor a Compact"):
        read_ncnn(*writer.save(tmp_path))


def test_odd_number_of_dense_blocks_is_refused(tmp_path: Path) -> None:
    network = _tiny(blocks=1)
    writer = _Writer(half=False)
    writer.convolution(network.conv_first)
    for number in range(1, 6):
        writer.convolution(network.get_submodule(f"body.0.rdb1.conv{number}"))
    with pytest.raises(ValueError, match="6 convolutions do not line up"):
        read_ncnn(*writer.save(tmp_path))


def test_numbers_of_a_layer() -> None:
    _, layer = parse_param("7767517\n2 2\nInput data 0 1 data\nConvolution c 1 1 data out 0=8 -23310=2,1.5,2.5\n")
    assert (layer.number(0), layer.number(1, 3), layer.numbers[-23310]) == (8, 3, [1.5, 2.5])


def test_residual_blocks_without_their_sums_are_refused(tmp_path: Path) -> None:
    param, binary = ncnn_pair(Residual(features=3, blocks=1))
    paths = tmp_path / "net.param", tmp_path / "net.bin"
    lines = param.decode().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("BinaryOp"))
    lines[at] = lines[at].replace("0=0", "0=2")
    paths[0].write_text("\n".join(lines))
    paths[1].write_bytes(binary)
    with pytest.raises(ValueError, match="5 convolutions and 3 sums make no network of srup"):
        read_ncnn(*paths)
