"""Exported files run by the programs they are for, beside the network they were made from."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscaler.errors import UserError
from upscaler.model.export import Format
from upscaler.model.export_layers import Exportable
from upscaler.model.layouts import NETWORKS, identify

TOLERANCE = 1e-4
"""Largest difference that rounding in fp32 may make, for results in 0..1; more in proportion for larger ones."""

_SIZES = ((1, 29, 37), (2, 16, 9))

Run = Callable[[Tensor], Tensor]
"""(N, channels, H, W) to (N, channels, H * scale, W * scale), fp32 on the CPU."""


@dataclass(frozen=True)
class Check:
    """Which package ran the files, and how far its results are from the network's at most."""

    runtime: str
    difference: float


def runtime_of(to: Format) -> str:
    """The package that runs a format."""
    return {"onnx": "onnxruntime", "ncnn": "ncnn", "pth": "torch"}[to]


def check(contents: Sequence[bytes], to: Format, network: Exportable) -> Check | None:
    """Run files on noise; None where the package that runs them is not installed.

    Args:
        contents: of the files, as ``export.exported`` makes them.
        to: their format.
        network: what they were made from, on the CPU, in eval mode.

    Raises:
        UserError: they compute something else than the network.
    """
    runtime = runtime_of(to)
    if importlib.util.find_spec(runtime) is None:
        return None
    run = onnx_run(*contents) if to == "onnx" else ncnn_run(*contents) if to == "ncnn" else pth_run(*contents)
    generator = torch.Generator().manual_seed(0)
    # ncnn has no padding for networks that unshuffle.
    multiple = network.unshuffle if to == "ncnn" else 1
    difference = 0.0
    for count, height, width in _SIZES:
        shape = (count, network.channels, height + -height % multiple, width + -width % multiple)
        difference = max(difference, largest_difference(run, network, torch.rand(shape, generator=generator)))
    if difference > TOLERANCE:
        raise UserError(f"{runtime} differs by {difference:.2g} on the exported network; nothing was written")
    return Check(runtime, difference)


def largest_difference(run: Run, network: Exportable, x: Tensor) -> float:
    """Between two results for a picture, in proportion to the largest value where that is above 1.

    Infinite where there is nothing to compare: results of another shape, or values that are not finite.
    """
    with torch.inference_mode():
        expected = network(x)
    found = run(x)
    if found.shape != expected.shape or not (found.isfinite().all() and expected.isfinite().all()):
        return inf
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def onnx_run(model: bytes) -> Run:
    """An ONNX file in onnxruntime, on the CPU, which is told to report nothing to its maker."""
    for switch in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # of 1.32, of later ones
        os.environ[switch] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


def ncnn_run(param: bytes, binary: bytes) -> Run:
    """An ncnn pair in ncnn, on the CPU, with all numbers in fp32.

    Raises:
        UserError: ncnn cannot read it.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        files = Path(name, "network.param"), Path(name, "network.bin")
        for file, content in zip(files, (param, binary), strict=True):
            file.write_bytes(content)
        if net.load_param(str(files[0])) or net.load_model(str(files[1])):
            raise UserError("ncnn cannot read the exported network; nothing was written")

    def run(x: Tensor) -> Tensor:
        results = []
        for picture in x.numpy():
            extractor = net.create_extractor()
            extractor.input("data", ncnn.Mat(picture))
            results.append(torch.from_numpy(np.array(extractor.extract("output")[1])))
        return torch.stack(results)

    return run


def pth_run(content: bytes) -> Run:
    """A ``.pth`` as other programs have it: a network of what its tensors tell."""
    tensors = torch.load(io.BytesIO(content), weights_only=True)["params_ema"]
    architecture, settings = identify(tensors, {})
    network = NETWORKS[architecture](**settings)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
