"""A network as the two files of ncnn, in the form in which Real-ESRGAN's and upscayl's own are.

The formats are described in ncnn's wiki, "param and model file structure"; ``ncnn.py`` reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from upscaler.model.export_layers import Blob, Exportable, spell
from upscaler.model.ncnn import ADD, FP16, FP32, LEAKY_RELU, MAGIC, MULTIPLY, NEAREST, RELU

_Numbers = Mapping[int, float | Sequence[float]]
"""What a layer's line says behind its blobs."""


def ncnn_pair(network: Exportable, *, half: bool = False) -> tuple[bytes, bytes]:
    """The bytes of ``.param`` and of ``.bin``.

    The graph takes the blob ``data``, RGB in 0..1, and gives ``output``. Where the network unshuffles, the edges of
    ``data`` must be multiples of that: ncnn would cut off what is left over.

    Args:
        network: on the CPU.
        half: store the weights of convolutions in 16 bits. Biases and PReLU are always fp32, as ncnn reads them.
    """
    writer = _NcnnLayers(network, half=half)
    spell(network, writer, "data")
    writer.layers[-1] = replace(writer.layers[-1], outputs=["output"])
    layers = list(_with_splits(writer.layers))
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [MAGIC.decode(), f"{len(layers)} {blobs}", *map(str, layers)]
    return "".join(f"{line}\n" for line in lines).encode(), bytes(writer.binary)


@dataclass(frozen=True)
class _Layer:
    """One line of a ``.param`` file."""

    kind: str
    name: str
    inputs: Sequence[Blob]
    outputs: Sequence[Blob]
    numbers: _Numbers

    def __str__(self) -> str:
        heads = f"{self.kind:<24} {self.name:<24} {len(self.inputs)} {len(self.outputs)}"
        return " ".join([heads, *self.inputs, *self.outputs, *(_pair(*pair) for pair in self.numbers.items())])


def _pair(key: int, value: float | Sequence[float]) -> str:
    # Programs of old read 15 characters of a number at the most.
    if isinstance(value, Sequence):
        return f"{-23300 - key}={len(value)},{','.join(f'{each:.8e}' for each in value)}"
    return f"{key}={value:.8e}" if isinstance(value, float) else f"{key}={value}"


def _with_splits(layers: Sequence[_Layer]) -> Iterator[_Layer]:
    """The same graph with every blob used once, as ncnn wants it: what several layers take is split before."""
    uses = Counter(blob for layer in layers for blob in layer.inputs)
    copies = {blob: [f"{blob}_split_{number}" for number in range(count)] for blob, count in uses.items() if count > 1}
    left = {blob: iter(names) for blob, names in copies.items()}
    for layer in layers:
        yield replace(layer, inputs=[next(left[blob]) if blob in left else blob for blob in layer.inputs])
        for blob in layer.outputs:
            if blob in copies:
                yield _Layer("Split", f"split_{blob}", [blob], copies[blob], {})


class _NcnnLayers:
    """``Layers`` as lines of a ``.param`` file, with the numbers of the ``.bin`` on the way."""

    def __init__(self, network: nn.Module, *, half: bool) -> None:
        self.network = network
        self.half = half
        self.layers = [_Layer("Input", "input", [], ["data"], {})]
        self.binary = bytearray()

    def convolution(self, x: Blob, name: str, slope: float | None = None) -> Blob:
        weight = self.network.get_parameter(f"{name}.weight")
        return self._convolution("Convolution", x, name, weight, {4: weight.shape[-1] // 2}, slope)

    def transposed_convolution(self, x: Blob, name: str, slope: float) -> Blob:
        # PyTorch has the inputs first, ncnn the outputs.
        weight = self.network.get_parameter(f"{name}.weight").transpose(0, 1)
        return self._convolution("Deconvolution", x, name, weight, {3: 2, 4: 1}, slope)

    def leaky_relu(self, x: Blob, slope: float) -> Blob:
        return self._layer("ReLU", [x], {0: slope})

    def prelu(self, x: Blob, name: str) -> Blob:
        slopes = self.network.get_parameter(f"{name}.weight")
        self._append(_little_endian(slopes))
        return self._layer("PReLU", [x], {0: slopes.numel()}, name)

    def concatenation(self, parts: Sequence[Blob]) -> Blob:
        return self._layer("Concat", parts, {}) if len(parts) > 1 else parts[0]

    def addition(self, x: Blob, y: Blob, factor: float | None = None) -> Blob:
        if factor is not None:
            return self._layer("Eltwise", [x, y], {0: 1, 1: [factor, 1.0]})
        return self._layer("BinaryOp", [x, y], {0: ADD})

    def nearest(self, x: Blob, factor: int) -> Blob:
        return self._layer("Interp", [x], {0: NEAREST, 1: float(factor), 2: float(factor)})

    def pixel_shuffle(self, x: Blob, factor: int) -> Blob:
        return self._layer("PixelShuffle", [x], {0: factor})

    def pixel_unshuffle(self, x: Blob, factor: int) -> Blob:
        return self._layer("Reorg", [x], {0: factor})

    def sigmoid(self, x: Blob) -> Blob:
        return self._layer("Sigmoid", [x], {})

    def unit_tanh(self, x: Blob) -> Blob:
        above = self._layer("BinaryOp", [self._layer("TanH", [x], {})], {0: ADD, 1: 1, 2: 1.0})
        return self._layer("BinaryOp", [above], {0: MULTIPLY, 1: 1, 2: 0.5})

    def _convolution(
        self, kind: str, x: Blob, name: str, weight: Tensor, geometry: _Numbers, slope: float | None
    ) -> Blob:
        outputs, _, kernel, _ = weight.shape
        activation: _Numbers = {}
        if slope is not None:
            activation = {9: LEAKY_RELU, 10: [slope]} if slope else {9: RELU}
        self._append((FP16 if self.half else FP32).to_bytes(4, "little"))
        self._append(_little_endian(weight.half() if self.half else weight))
        self._append(_little_endian(self.network.get_parameter(f"{name}.bias")))
        return self._layer(kind, [x], {0: outputs, 1: kernel, **geometry, 5: 1, 6: weight.numel(), **activation}, name)

    def _layer(self, kind: str, inputs: Sequence[Blob], numbers: _Numbers, name: str = "") -> Blob:
        name = name or f"{kind.lower()}_{len(self.layers)}"
        self.layers.append(_Layer(kind, name, tuple(inputs), [name], numbers))
        return name

    def _append(self, data: bytes) -> None:
        self.binary += data + b"\0" * (-len(data) % 4)


def _little_endian(numbers: Tensor) -> bytes:
    values = numbers.detach().contiguous().numpy()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
