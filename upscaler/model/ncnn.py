"""Weights in the two files of ncnn: a ``.param`` text that lists the layers, a ``.bin`` with their numbers.

The formats are described in ncnn's wiki, "param and model file structure". Only what srup's networks are made of
is read; everything else is refused by name. Errors are ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAGIC = b"7767517"

# What stands before the weights of a convolution, and numbers that choose what a layer does.
FP32, FP16 = 0, 0x01306B47
RELU, LEAKY_RELU = 1, 2
NEAREST = 1
ADD, MULTIPLY = 0, 2

_OF_BOTH = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "PixelShuffle", "ReLU"}
_OF_RRDBNET = {"Reorg", "Sigmoid", "TanH"}
_COEFFICIENTS, _ACTIVATION_NUMBERS = -23301, -23310


@dataclass(frozen=True)
class Layer:
    """One line of a ``.param`` file; ``numbers`` holds its ``key=value`` pairs, arrays without their length."""

    kind: str
    name: str
    numbers: dict[int, list[float]]

    def number(self, key: int, default: int = 0) -> int:
        """The whole number under ``key``, or the default that ncnn documents for it."""
        return int(self.numbers.get(key, [default])[0])


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor


def read_ncnn(param: Path, binary: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Canonical fp32 tensors of a network in ncnn form, and what only the layer list tells.

    The metadata has ``architecture`` and ``residual_scale`` or ``activation``. Where the list
    goes on after the network with a resize of the finished picture (Real-ESRGAN's animevideov3 x2 and
    x3 are its x4 network so shrunk), the tensors are those of the network alone and ``resized_by``
    has the factor.

    Raises:
        ValueError: a layer, a weight encoding or a graph that no network of srup has.
        OSError: a file that cannot be read.
    """
    layers = parse_param(param.read_text(encoding="utf-8", errors="replace"))
    convolutions: list[_Convolution] = []
    slopes: list[Tensor] = []
    numbers = _Numbers(binary.read_bytes())
    for layer in layers:
        if layer.kind in ("Convolution", "Deconvolution"):
            convolutions.append(_read_convolution(layer, numbers))
        elif layer.kind == "PReLU":
            slopes.append(torch.from_numpy(numbers.take("<f4", layer.number(0), layer.name)))
        elif layer.kind not in _OF_BOTH | _OF_RRDBNET:
            raise ValueError(f"its layer {layer.name} is of the kind {layer.kind}, which no network of srup has")
    if numbers.left:
        raise ValueError(f"{binary.name} has {numbers.left} bytes more than {param.name} lists")
    if _is_dense_block(convolutions[1:]):
        return _rrdbnet_tensors(convolutions), _rrdbnet_metadata(layers)
    if slopes and len(convolutions) == 2 * len(slopes) + 3:
        return _residual_tensors(convolutions, slopes, layers), {"architecture": "residual"}
    return _compact_tensors(convolutions, slopes), _compact_metadata(layers)


def parse_param(text: str) -> list[Layer]:
    """The layers of a ``.param`` text in the order in which their weights are stored."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC.decode()]:
        raise ValueError(f"no ncnn layer list: it does not begin with {MAGIC.decode()}")
    try:
        layers = [_parse_layer(*line) for line in lines[2:]]
        count = int(lines[1][0])
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError("its ncnn layer list is damaged") from error
    if count != len(layers):
        raise ValueError(f"its ncnn layer list has {len(layers)} layers instead of {count}")
    return layers


def _parse_layer(kind: str, name: str, inputs: str, outputs: str, *rest: str) -> Layer:
    numbers: dict[int, list[float]] = {}
    for pair in rest[int(inputs) + int(outputs) :]:
        key, values = pair.split("=")
        parsed = [float(value) for value in values.split(",")]
        parsed = parsed[1:] if int(key) <= -23300 else parsed
        if not parsed or not all(map(isfinite, parsed)):
            raise ValueError(f"{pair} is no value")
        numbers[int(key)] = parsed
    return Layer(kind, name, numbers)


class _Numbers:
    """The ``.bin`` file, read from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, dtype: str, count: int, layer: str) -> NDArray[np.float32]:
        size = np.dtype(dtype).itemsize * count
        if not 0 <= size <= self.left:
            raise ValueError(f"its .bin ends within the weights of {layer}: the file is cut off or not of this .param")
        found = np.frombuffer(self.data, dtype, count, self.position)
        self.position += -(-size // 4) * 4
        return found.astype(np.float32)

    def take_tagged(self, count: int, layer: str) -> NDArray[np.float32]:
        tag = int.from_bytes(self.data[self.position : self.position + 4], "little") if self.left >= 4 else FP32
        self.position += 4
        if tag not in (FP32, FP16):
            raise ValueError(f"the weights of {layer} have the encoding 0x{tag:08X}; only fp32 and fp16 are read")
        return self.take("<f2" if tag == FP16 else "<f4", count, layer)


def _read_convolution(layer: Layer, numbers: _Numbers) -> _Convolution:
    outputs, width = layer.number(0), layer.number(1)
    height, size = layer.number(11, width), layer.number(6)
    inputs, rest = divmod(size, outputs * height * width) if outputs * height * width > 0 else (0, 0)
    transposed = layer.kind == "Deconvolution"
    stride, border = layer.number(3, 1), layer.number(4)
    # Dilation along both edges, stride along the other, the bias.
    plain = layer.number(2, 1) == layer.number(12, 1) == layer.number(5) == 1 and layer.number(13, stride) == stride
    fits = (width, stride, border) == (4, 2, 1) if transposed else (stride, width) == (1, 2 * border + 1)
    if rest or inputs < 1 or not plain or not fits or height != width:
        keeps = "doubles" if transposed else "keeps"
        raise ValueError(f"its layer {layer.name} is no convolution with a bias that {keeps} the size")
    weight = torch.from_numpy(numbers.take_tagged(size, layer.name).reshape(outputs, inputs, height, width))
    bias = torch.from_numpy(numbers.take("<f4", outputs, layer.name))
    return _Convolution(weight.transpose(0, 1).contiguous() if transposed else weight, bias)


def _is_dense_block(convolutions: list[_Convolution]) -> bool:
    """Whether the list begins with five convolutions, each fed with the input and the earlier results."""
    if len(convolutions) < 5:
        return False
    growth, features = convolutions[0].weight.shape[:2]
    expected = [(growth, features + step * growth) for step in range(4)] + [(features, features + 4 * growth)]
    return [tuple(c.weight.shape[:2]) for c in convolutions[:5]] == expected


def _rrdbnet_tensors(convolutions: list[_Convolution]) -> dict[str, Tensor]:
    first, *rest = convolutions
    names = ["conv_first"]
    dense_blocks = 0
    while _is_dense_block(rest[5 * dense_blocks :]):
        block, part = divmod(dense_blocks, 3)
        names += [f"body.{block}.rdb{part + 1}.conv{number}" for number in range(1, 6)]
        dense_blocks += 1
    doublings = len(convolutions) - len(names) - 3
    if dense_blocks % 3 or doublings < 0:
        raise ValueError(f"its {len(convolutions)} convolutions do not line up as an RRDBNet")
    names += ["conv_body", *(f"conv_up{step}" for step in range(1, doublings + 1)), "conv_hr", "conv_last"]
    return _named(zip(names, [first, *rest], strict=True))


def _rrdbnet_metadata(layers: list[Layer]) -> dict[str, str]:
    scales = {c[0] for layer in layers if layer.kind == "Eltwise" and (c := layer.numbers.get(_COEFFICIENTS))}
    if len(scales) != 1 or any(abs(slope - 0.2) > 1e-6 for slope in _slopes(layers)):
        raise ValueError("it is an RRDBNet with unusual residual scales or activations")
    if any(layer.number(0) != NEAREST for layer in layers if layer.kind == "Interp"):
        raise ValueError("it is an RRDBNet that enlarges otherwise than by nearest neighbour")
    return {
        "architecture": "rrdbnet",
        "residual_scale": str(scales.pop()),
        "output_activation": _output_activation(layers),
    }


def _output_activation(layers: list[Layer]) -> str:
    kinds = [layer.kind for layer in layers]
    if "TanH" in kinds:
        # (tanh(x) + 1) / 2, in two operations with a number.
        scaling = [(layer.number(0), layer.number(1), layer.numbers.get(2)) for layer in layers[-2:]]
        if kinds[-3:] == ["TanH", "BinaryOp", "BinaryOp"] and scaling == [(ADD, 1, [1.0]), (MULTIPLY, 1, [0.5])]:
            return "tanh"
    elif "Sigmoid" in kinds:
        if kinds[-1] == "Sigmoid":
            return "sigmoid"
    else:
        return "none"
    raise ValueError("it is an RRDBNet with an unusual output activation")


def _compact_tensors(convolutions: list[_Convolution], slopes: list[Tensor]) -> dict[str, Tensor]:
    fits = all(a.weight.shape[0] == b.weight.shape[1] for a, b in pairwise(convolutions))
    if len(convolutions) < 2 or not fits or len(slopes) not in (0, len(convolutions) - 1):
        raise ValueError(f"its {len(convolutions)} convolutions are neither an RRDBNet nor a Compact network")
    tensors = _named((f"body.{2 * step}", convolution) for step, convolution in enumerate(convolutions))
    return tensors | {f"body.{2 * step + 1}.weight": slope for step, slope in enumerate(slopes)}


def _residual_tensors(convolutions: list[_Convolution], slopes: list[Tensor], layers: list[Layer]) -> dict[str, Tensor]:
    sums = [layer for layer in layers if layer.kind == "BinaryOp"]
    # After every block, the trunk, and the enlargement.
    if len(sums) != len(slopes) + 2 or any(layer.number(0) != ADD for layer in sums):
        raise ValueError(f"its {len(convolutions)} convolutions and {len(sums)} sums make no network of srup")
    blocks = range(len(slopes))
    names = ["conv_first", *(f"body.{block}.conv{number}" for block in blocks for number in (1, 2))]
    tensors = _named(zip([*names, "conv_after_body", "conv_last"], convolutions, strict=True))
    return tensors | {f"body.{block}.act.weight": slope for block, slope in enumerate(slopes)}


def _compact_metadata(layers: list[Layer]) -> dict[str, str]:
    metadata = {"architecture": "compact"}
    if foreign := [layer for layer in layers if layer.kind in _OF_RRDBNET | {"Deconvolution"}]:
        raise ValueError(f"it is a Compact network with a layer {foreign[0].name} of the kind {foreign[0].kind}")
    if not any(layer.kind == "PReLU" for layer in layers):
        kinds = {0.0: "relu", 0.1: "leakyrelu"}
        found = {kinds.get(round(slope, 6)) for slope in _slopes(layers)}
        if len(found) != 1 or None in found:
            raise ValueError("it is a Compact network with an unusual activation")
        metadata["activation"] = str(found.pop())
    if layers[-1].kind == "Interp":
        metadata["resized_by"] = f"{layers[-1].numbers.get(1, [1.0])[0]:g}"
    return metadata


def _slopes(layers: list[Layer]) -> Iterator[float]:
    """The negative slope of every activation without weights; of ReLU it is 0."""
    for layer in layers:
        if layer.kind == "ReLU":
            yield layer.numbers.get(0, [0.0])[0]
        elif layer.kind == "Convolution" and (activation := layer.number(9)):
            if activation > 2:
                raise ValueError(f"its layer {layer.name} has an activation that no network of srup has")
            yield layer.numbers.get(_ACTIVATION_NUMBERS, [0.0])[0] if activation == 2 else 0.0


def _named(convolutions: Iterator[tuple[str, _Convolution]] | zip[tuple[str, _Convolution]]) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": tensor
        for name, convolution in convolutions
        for part, tensor in (("weight", convolution.weight), ("bias", convolution.bias))
    }
