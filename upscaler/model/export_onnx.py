"""A network as an ONNX file.

The graph is built directly, in operators that every runtime since 2020 has, rather than traced by PyTorch: the file
does not depend on PyTorch's version, keeps the names of the weights, and takes a batch of any size, with any edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from upscaler import __version__
from upscaler.model.export_layers import Blob, Exportable, spell

OPSET = 13
_IR_VERSION = 7  # of the same age as the opset
_EDGES = [2, 3]  # the axes of height and width


def onnx_model(network: Exportable, notes: Mapping[str, str]) -> bytes:
    """The file's bytes, checked by ``onnx``; the same network and notes make the same bytes.

    It takes ``input``, fp32 (N, channels, H, W) in 0..1, and gives ``output``, (N, channels, H * scale, W * scale),
    for all N, H and W of at least 1.

    Args:
        network: on the CPU.
        notes: put in the file's metadata.
    """
    layers = _OnnxLayers(network)
    if network.unshuffle == 1:
        spell(network, layers, "input")
    else:
        edges = layers.edges("input")
        padded = layers.padding("input", edges, network.unshuffle)
        layers.crop(spell(network, layers, padded), edges, network.scale)
    layers.nodes[-1].output[:] = ["output"]
    graph = helper.make_graph(
        layers.nodes,
        network.architecture,
        [_picture("input", network.channels, "height", "width")],
        [_picture("output", network.channels, "output_height", "output_width")],
        list(layers.constants.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="srup",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(notes))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _picture(name: str, channels: int, height: str, width: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, height, width])


class _OnnxLayers:
    """``Layers`` as nodes of ONNX."""

    def __init__(self, network: Exportable) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def convolution(self, x: Blob, name: str, slope: float | None = None) -> Blob:
        border = self.network.get_parameter(f"{name}.weight").shape[-1] // 2
        out = self._node("Conv", [x, *self._weights(name)], pads=[border] * 4)
        return out if slope is None else self.leaky_relu(out, slope)

    def transposed_convolution(self, x: Blob, name: str, slope: float) -> Blob:
        out = self._node("ConvTranspose", [x, *self._weights(name)], strides=[2, 2], pads=[1] * 4)
        return self.leaky_relu(out, slope)

    def leaky_relu(self, x: Blob, slope: float) -> Blob:
        return self._node("LeakyRelu", [x], alpha=slope) if slope else self._node("Relu", [x])

    def prelu(self, x: Blob, name: str) -> Blob:
        key = f"{name}.weight"
        return self._node("PRelu", [x, self._weight(key, self.network.get_parameter(key)[:, None, None])])

    def concatenation(self, parts: Sequence[Blob]) -> Blob:
        return self._node("Concat", parts, axis=1) if len(parts) > 1 else parts[0]

    def addition(self, x: Blob, y: Blob, factor: float | None = None) -> Blob:
        if factor is not None:
            x = self._node("Mul", [x, self._number(factor)])
        return self._node("Add", [x, y])

    def nearest(self, x: Blob, factor: int) -> Blob:
        scales = self._constant(np.array([1, 1, factor, factor], np.float32))
        return self._node(
            "Resize",
            [x, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def pixel_shuffle(self, x: Blob, factor: int) -> Blob:
        return self._node("DepthToSpace", [x], blocksize=factor, mode="CRD")

    def pixel_unshuffle(self, x: Blob, factor: int) -> Blob:
        # Of a folded picture, SpaceToDepth puts equal pixels of all channels together, PyTorch all pixels of a channel.
        order = np.arange(self.network.channels * factor**2).reshape(factor**2, -1).T.ravel()
        return self._node("Gather", [self._node("SpaceToDepth", [x], blocksize=factor), self._constant(order)], axis=1)

    def sigmoid(self, x: Blob) -> Blob:
        return self._node("Sigmoid", [x])

    def unit_tanh(self, x: Blob) -> Blob:
        above = self._node("Add", [self._node("Tanh", [x]), self._number(1)])
        return self._node("Mul", [above, self._number(0.5)])

    def edges(self, x: Blob) -> Blob:
        """Height and width, as two whole numbers."""
        return self._node("Gather", [self._node("Shape", [x]), self._constant(np.array(_EDGES))])

    def padding(self, x: Blob, edges: Blob, multiple: int) -> Blob:
        """The picture with its last row and column repeated until its edges are multiples."""
        missing = self._node("Mod", [self._node("Neg", [edges]), self._constant(np.array([multiple]))])
        pads = self._node("Concat", [self._constant(np.zeros(6, np.int64)), missing], axis=0)
        return self._node("Pad", [x, pads], mode="edge")

    def crop(self, x: Blob, edges: Blob, scale: int) -> Blob:
        """The large picture without what the padding became."""
        ends = self._node("Mul", [edges, self._constant(np.array([scale]))])
        return self._node("Slice", [x, self._constant(np.zeros(2, np.int64)), ends, self._constant(np.array(_EDGES))])

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> Blob:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def _weights(self, name: str) -> list[str]:
        """Of a convolution."""
        keys = [f"{name}.{part}" for part in ("weight", "bias")]
        return [self._weight(key, self.network.get_parameter(key)) for key in keys]

    def _weight(self, name: str, tensor: Tensor) -> str:
        self.constants[name] = numpy_helper.from_array(tensor.detach().numpy(), name)
        return name

    def _number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """A constant, one for all that need it."""
        name = "_".join(["constant", str(values.dtype), *map(str, values.ravel())])
        self.constants[name] = numpy_helper.from_array(values, name)
        return name
