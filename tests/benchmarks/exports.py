"""How far exported models are from srup's own result: `python tests/benchmarks/exports.py MODEL...`.

The table has the largest difference between the networks' results for pieces of the sample photograph and for noise,
in fp32, where pictures are 0..1. Below it is what rounding the weights to 16 bits for ncnn changes. It needs
onnxruntime and ncnn.
"""

from __future__ import annotations

import sys
from importlib.resources import files

import numpy as np
import torch

from upscaler.images.files import open_picture
from upscaler.model import catalogue
from upscaler.model.export import exported, round_to_half
from upscaler.model.export_checks import largest_difference, ncnn_run, onnx_run
from upscaler.model.weights import build_network, load_weights

SIZES = ((17, 23), (37, 29), (101, 67))


def main(models: list[str]) -> None:
    pixels = open_picture(str(files("upscaler.images") / "sample.png")).read().pixels
    sample = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]
    noise = torch.rand(sample.shape, generator=torch.Generator().manual_seed(0))
    print("| model | picture | size | onnxruntime | ncnn | ncnn, weights in 16 bits |")
    print("|---|---|---:|---:|---:|---:|")
    for model in models:
        weights = load_weights(catalogue.resolve(model).path)
        network, rounded = build_network(weights), build_network(weights)
        round_to_half(rounded)
        runs = (
            onnx_run(*exported(network, "onnx", {})),
            ncnn_run(*exported(network, "ncnn", {})),
            ncnn_run(*exported(rounded, "ncnn", {}, half=True)),
        )
        for name, picture in (("photograph", sample), ("noise", noise)):
            for width, height in SIZES:
                x = picture[..., 80 : 80 + height, 80 : 80 + width].contiguous()
                found = "".join(f" {largest_difference(run, network, x):.1e} |" for run in runs)
                print(f"| {model} | {name} | {width}x{height} |{found}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
