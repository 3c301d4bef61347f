"""What is written as ONNX, run by onnxruntime."""

from __future__ import annotations

import onnx
import torch

from upscaler.model.compact import Compact
from upscaler.model.export_checks import TOLERANCE, largest_difference, onnx_run
from upscaler.model.export_layers import Exportable
from upscaler.model.export_onnx import OPSET, onnx_model
from upscaler.model.rrdbnet import RRDBNet


def test_onnxruntime_computes_the_same_for_every_size(exportable: Exportable) -> None:
    run = onnx_run(onnx_model(exportable, {}))
    for count, height, width in ((1, 1, 1), (2, 13, 7), (1, 6, 31), (3, 8, 4)):
        x = torch.rand(count, exportable.channels, height, width)
        assert largest_difference(run, exportable, x) < TOLERANCE / 10


def test_the_file_tells_what_it_takes_and_where_it_is_from() -> None:
    model = onnx.load_model_from_string(onnx_model(Compact(scale=3), {"licence": "CC0-1.0", "scale": "3"}))
    (picture,), (large,) = model.graph.input, model.graph.output
    assert (picture.name, large.name) == ("input", "output")
    assert [edge.dim_param or edge.dim_value for edge in picture.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert model.opset_import[0].version == OPSET
    assert {entry.key: entry.value for entry in model.metadata_props} == {"licence": "CC0-1.0", "scale": "3"}
    assert model.producer_name == "srup"
    assert {"body.0.weight", "body.0.bias", "body.1.weight"} <= {tensor.name for tensor in model.graph.initializer}


def test_the_scale_can_be_inferred_from_a_fixed_size() -> None:
    model = onnx.load_model_from_string(onnx_model(RRDBNet(features=4, growth=2, blocks=1), {}))
    for axis, length in ((0, 1), (2, 16), (3, 24)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
        model.graph.output[0].type.tensor_type.shape.dim[axis].Clear()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert [edge.dim_value for edge in inferred.graph.output[0].type.tensor_type.shape.dim] == [1, 3, 64, 96]


def test_the_same_network_makes_the_same_bytes() -> None:
    network = RRDBNet(features=4, growth=2, blocks=1, scale=2, unshuffle=2)
    assert onnx_model(network, {"a": "b"}) == onnx_model(network, {"a": "b"})
