"""One peer in a process of its own: `python -m tests.benchmarks.runtimes CASE`, which `peers.py` starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.workers import begin, serve

if __name__ == "__main__":
    begin()

import numpy as np
from PIL import Image

from tests.benchmarks.pixels import Floats, Pixels, Run, enlarged, tiled
from tests.benchmarks.records import versions

WARM_EDGE = 128


def srup(model: Path) -> Callable[[Pixels], Pixels]:
    from upscaler.model import winograd
    from upscaler.model.upscaler import Upscaler
    from upscaler.model.weights import build_network, load_weights

    winograd.usable()  # loads the kernels, which the sample is too small for
    network = build_network(load_weights(model.with_suffix(".pth")))
    return Upscaler(network, device="cpu", precision="fp32").upscale


def pytorch(model: Path, *_: object) -> Run:
    import torch

    from tests.benchmarks.plain import plain_network, runner

    stored: Any = torch.load(model.with_suffix(".pth"), weights_only=True)
    return runner(plain_network(stored["params_ema"]))


def onnxruntime(model: Path, _: object, threads: int) -> Run:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model.with_suffix(".onnx"), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"input": x})[0])


def openvino(model: Path, shape: tuple[int, ...], threads: int) -> Run:
    """Compiled for pictures of that size."""
    import openvino as runtime

    network = runtime.Core().read_model(model.with_suffix(".onnx"))
    network.reshape([1, 3, *shape[:2]])
    # Without the last hint it computes in bf16 on processors that can.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = runtime.compile_model(network, "CPU", settings)
    return lambda x: np.asarray(compiled(x)[0])


def ncnn(model: Path, _: object, threads: int) -> Run:
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = threads
    net.load_param(str(model.with_suffix(".param")))
    net.load_model(str(model.with_suffix(".bin")))

    def run(x: Floats) -> Floats:
        extractor = net.create_extractor()
        extractor.input("data", runtime.Mat(np.ascontiguousarray(x[0])))
        code, out = extractor.extract("output")
        if code:
            raise MemoryError(f"ncnn's extract gives {code}")
        return np.asarray(out)[None]

    return run


NETWORKS: dict[str, Callable[[Path, tuple[int, ...], int], Run]] = {
    "torch": pytorch,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
}
"""How a network is loaded, by the package that runs it."""


def main(package: str, model: str, picture: str, tile: bool) -> None:
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    if package == "srup":
        enlarge = srup(Path(model))
    else:
        run = NETWORKS[package](Path(model), pixels.shape, int(os.environ["OMP_NUM_THREADS"]))
        enlarge = partial(enlarged, tiled(run) if tile else run)
    sample = pixels[:WARM_EDGE, :WARM_EDGE]
    if package != "openvino" or sample.shape == pixels.shape:
        enlarge(sample)
    last: list[Pixels] = []

    def work() -> None:
        last[:] = [enlarge(pixels)]

    def save(path: str) -> None:
        np.save(path, last[0])

    serve(versions("torch", "numba") if package == "srup" else versions(package), work, {"save": save})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
