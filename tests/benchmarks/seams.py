"""How much a tile differs from the whole picture, by halo: `python tests/benchmarks/seams.py MODEL [PICTURE...]`.

The tile is the picture's upper left corner. Its core is enlarged once with the rest of the picture around it and once
with only so many pixels of halo; the table has the largest difference in levels of 255. Without pictures it takes the
sample, noise, and a checkerboard of single pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscaler.images.files import open_picture
from upscaler.images.sheets import as_rgb
from upscaler.model import catalogue
from upscaler.model.weights import build_network, load_weights

CORE = 96
HALOS = (10, 16, 32, 48, 64, 80, 96, 112)
EDGE = CORE + HALOS[-1] + 16


def pictures(names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and pictures of EDGE x EDGE, (1, 3, H, W) in 0..1."""
    for path in map(Path, names or [str(files("upscaler.images") / "sample.png")]):
        pixels = as_rgb(open_picture(path).read().pixels)[:EDGE, :EDGE]
        yield path.name, torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]
    if not names:
        yield "noise", torch.rand(1, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(0))
        board = torch.from_numpy(np.indices((EDGE, EDGE)).sum(0) % 2).float()
        yield "checkerboard", board.expand(1, 3, EDGE, EDGE)


@torch.inference_mode()
def main(model: str, names: list[str]) -> None:
    network = build_network(load_weights(catalogue.resolve(model).path))
    reach = CORE + network.head_reach + 1

    def core(x: Tensor) -> Tensor:
        features = network.features(x.contiguous(memory_format=torch.channels_last))[..., :reach, :reach]
        return network.reconstruct(features)[..., : CORE * network.scale, : CORE * network.scale].clamp(0, 1)

    print("| picture |" + "".join(f" {halo} |" for halo in HALOS))
    print("|---|" + "---:|" * len(HALOS))
    for name, x in pictures(names):
        whole = core(x)
        found = (core(x[..., : CORE + halo, : CORE + halo]).sub(whole).abs().max().item() * 255 for halo in HALOS)
        print(f"| {name} |" + "".join(f" {value:.2f} |" for value in found), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2:])
