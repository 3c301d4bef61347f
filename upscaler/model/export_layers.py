"""The networks spelled out layer by layer, for formats that hold the graph beside the weights.

A network is one function that calls ``Layers`` in the order of its forward pass; a format is one class that
has the methods of ``Layers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import SLOPE, RRDBNet

Exportable = RRDBNet | Compact | Residual
"""The networks that can be spelled out."""

Blob = str
"""The name of a picture or of features, (N, C, H, W), on the way through a graph."""


class Layers(Protocol):
    """A graph under construction. Every method adds to it and returns the name of the result.

    ``name`` is that of the module whose weights to take.
    """

    def convolution(self, x: Blob, name: str, slope: float | None = None) -> Blob:
        """One of stride 1 that keeps the size; then a leaky ReLU of that slope (0: ReLU) if one is given."""
        ...

    def transposed_convolution(self, x: Blob, name: str, slope: float) -> Blob:
        """One of kernel 4, stride 2 and padding 1, which doubles the size; then a leaky ReLU."""
        ...

    def leaky_relu(self, x: Blob, slope: float) -> Blob: ...

    def prelu(self, x: Blob, name: str) -> Blob: ...

    def concatenation(self, parts: Sequence[Blob]) -> Blob:
        """Along the channels."""
        ...

    def addition(self, x: Blob, y: Blob, factor: float | None = None) -> Blob:
        """x + y, or factor * x + y."""
        ...

    def nearest(self, x: Blob, factor: int) -> Blob:
        """Enlargement by nearest neighbour."""
        ...

    def pixel_shuffle(self, x: Blob, factor: int) -> Blob: ...

    def pixel_unshuffle(self, x: Blob, factor: int) -> Blob:
        """Of the picture."""
        ...

    def sigmoid(self, x: Blob) -> Blob: ...

    def unit_tanh(self, x: Blob) -> Blob:
        """(tanh(x) + 1) / 2"""
        ...


def spell(network: Exportable, layers: Layers, x: Blob) -> Blob:
    """Add a network to a graph.

    Args:
        network: read for its settings; where it unshuffles, the graph takes edges that are multiples of that.
        layers: of the network's own weights.
        x: the picture.

    Returns:
        The large picture.
    """
    if isinstance(network, RRDBNet):
        return _rrdbnet(network, layers, x)
    return _compact(network, layers, x) if isinstance(network, Compact) else _residual(network, layers, x)


def _rrdbnet(network: RRDBNet, layers: Layers, x: Blob) -> Blob:
    if network.unshuffle > 1:
        x = layers.pixel_unshuffle(x, network.unshuffle)
    shallow = layers.convolution(x, "conv_first")
    f = shallow
    residual_scale = network.settings()["residual_scale"]
    for block in range(len(network.body)):
        start = f
        for part in ("rdb1", "rdb2", "rdb3"):
            dense = [f]
            for number in range(1, 5):
                inputs = layers.concatenation(dense)
                dense.append(layers.convolution(inputs, f"body.{block}.{part}.conv{number}", SLOPE))
            fused = layers.convolution(layers.concatenation(dense), f"body.{block}.{part}.conv5")
            f = layers.addition(fused, f, residual_scale)
        f = layers.addition(f, start, residual_scale)
    f = layers.addition(layers.convolution(f, "conv_body"), shallow)
    for step in range(1, network.doublings + 1):
        name = f"conv_up{step}"
        if network.upsampling == "nearest":
            f = layers.convolution(layers.nearest(f, 2), name, SLOPE)
        elif network.upsampling == "pixelshuffle":
            f = layers.leaky_relu(layers.pixel_shuffle(layers.convolution(f, name), 2), SLOPE)
        else:
            f = layers.transposed_convolution(f, name, SLOPE)
    out = layers.convolution(layers.convolution(f, "conv_hr", SLOPE), "conv_last")
    if network.output_activation == "none":
        return out
    return layers.sigmoid(out) if network.output_activation == "sigmoid" else layers.unit_tanh(out)


def _compact(network: Compact, layers: Layers, x: Blob) -> Blob:
    f = x
    *hidden, last = range(0, len(network.body), 2)
    for number in hidden:
        activation = network.body[number + 1]
        if isinstance(activation, nn.PReLU):
            f = layers.prelu(layers.convolution(f, f"body.{number}"), f"body.{number + 1}")
        else:
            slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
            f = layers.convolution(f, f"body.{number}", slope)
    residual = layers.pixel_shuffle(layers.convolution(f, f"body.{last}"), network.scale)
    return layers.addition(residual, layers.nearest(x, network.scale))


def _residual(network: Residual, layers: Layers, x: Blob) -> Blob:
    f = shallow = layers.convolution(x, "conv_first")
    for block in range(len(network.body)):
        name = f"body.{block}"
        deep = layers.prelu(layers.convolution(f, f"{name}.conv1"), f"{name}.act")
        f = layers.addition(layers.convolution(deep, f"{name}.conv2"), f)
    f = layers.addition(layers.convolution(f, "conv_after_body"), shallow)
    residual = layers.pixel_shuffle(layers.convolution(f, "conv_last"), network.scale)
    return layers.addition(residual, layers.nearest(x, network.scale))
