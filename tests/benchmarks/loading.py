"""Training crops per second, from shards and from PNG files: `python tests/benchmarks/loading.py [DIR]`.

DIR holds pictures; without it some are made of the sample picture. All ways take the same number of 128 x 128
crops at the same random places, one after another in this thread; then come whole batches of 16 pairs, and how
long a training step waits for them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from upscaler.errors import UserError
from upscaler.images import files
from upscaler.images.resize import resize
from upscaler.model.compact import Compact
from upscaler.training.building import Storage
from upscaler.training.degradation import PRESETS
from upscaler.training.inspection import Rules, read_rgb
from upscaler.training.pairs import Pairs, floats, load
from upscaler.training.preparation import Settings, prepare
from upscaler.training.selection import Crops
from upscaler.training.shards import Pictures, PreparedSet
from upscaler.training.sources import find_sources

PATCH, SUB_PICTURE, BATCH = 128, 480, 16
MOST_PICTURES, SYNTHETIC = 40, 8


def originals(folder: str | None) -> list[Any]:
    """Pictures of at least one sub-picture each."""
    if folder is None:
        sample = read_rgb(Path(files.__file__).with_name("sample.png"))
        large = resize(sample, 1404, 2040)
        random = np.random.default_rng(0)
        grain = (random.integers(-6, 7, large.shape, np.int16) for _ in range(SYNTHETIC))
        return [
            np.clip(np.roll(large, 97 * i, axis=1) + noise, 0, 255).astype(np.uint8) for i, noise in enumerate(grain)
        ]
    pictures: list[Any] = []
    for source in find_sources([folder]):
        try:
            pixels = read_rgb(source.path)
        except UserError:
            continue
        if min(pixels.shape[:2]) >= SUB_PICTURE:
            pictures.append(pixels)
        if len(pictures) == MOST_PICTURES:
            break
    return pictures


def rate(crop: Callable[[np.random.Generator], Any], seconds: float = 4.0) -> float:
    """Crops per second."""
    random = np.random.default_rng(0)
    for _ in range(3):
        crop(random)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        crop(random)
        count += 1
    return count / (time.perf_counter() - start)


def place(random: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    return int(random.integers(height - PATCH + 1)), int(random.integers(width - PATCH + 1))


def from_shards(pictures: Pictures) -> Callable[[np.random.Generator], Any]:
    def crop(random: np.random.Generator) -> Any:
        picture = pictures.hr(int(random.integers(len(pictures))))
        top, left = place(random, *picture.shape[:2])
        return picture[top : top + PATCH, left : left + PATCH].copy()

    return crop


def from_files(paths: list[Path]) -> Callable[[np.random.Generator], Any]:
    def crop(random: np.random.Generator) -> Any:
        with Image.open(paths[int(random.integers(len(paths)))]) as picture:
            top, left = place(random, picture.height, picture.width)
            return np.asarray(picture.crop((left, top, left + PATCH, top + PATCH)))

    return crop


def waiting(run: Pairs, workers: int, steps: int) -> tuple[float, float]:
    """Seconds of a training step of a small network on the CPU, and the seconds of it spent waiting for pairs."""
    network = Compact(features=32, convolutions=4)
    batches = load(run, workers=workers)
    spent = waited = 0.0
    for step in range(steps + 2):
        start = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        assert batch.lr is not None
        torch.nn.functional.l1_loss(network(floats(batch.lr)), floats(batch.hr)).backward()  # type: ignore[no-untyped-call]
        if step >= 2:
            waited += ready - start
            spent += time.perf_counter() - start
    return spent / steps, waited / steps


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "whole").mkdir()
        (folder / "parts").mkdir()
        for number, pixels in enumerate(originals(sys.argv[1] if len(sys.argv) > 1 else None)):
            Image.fromarray(pixels).save(folder / f"whole/{number:03}.png")
            for top, left, height, width in Crops(SUB_PICTURE).boxes(*pixels.shape[:2]):
                part = pixels[top : top + height, left : left + width]
                Image.fromarray(part).save(folder / f"parts/{number:03}-{top}-{left}.png")
        settings = Settings(Rules(flat=0, blurred=0), Storage(), duplicates=False)
        prepare(find_sources([str(folder / "whole")]), folder / "set", settings, lambda _: None)
        pictures = PreparedSet(folder / "set").pictures()
        whole, parts = sorted((folder / "whole").iterdir()), sorted((folder / "parts").iterdir())
        megapixels = pictures.sizes.prod(axis=1).sum() / 1e6
        print(f"{len(whole)} pictures of {megapixels:.1f} megapixels, {len(parts)} sub-pictures\n")

        fast = rate(from_shards(pictures))
        print(f"| {PATCH} x {PATCH} crops | per second | shards are faster by |\n|---|---:|---:|")
        print(f"| from shards | {fast:.0f} | |")
        for name, paths in (("whole PNG files", whole), (f"PNG sub-pictures of {SUB_PICTURE} x {SUB_PICTURE}", parts)):
            slow = rate(from_files(paths))
            print(f"| from {name} with Pillow | {slow:.0f} | {fast / slow:.0f} |", flush=True)

        print(f"\n| batches of {BATCH} pairs, x4, HR patch {PATCH} | workers | ms per batch | crops per second |")
        print("|---|---:|---:|---:|")
        for name, lr in (("HR alone", None), ("bicubic LR", PRESETS["bicubic"])):
            run = Pairs(pictures, scale=4, batch=BATCH, patch=PATCH, steps=10_000, lr=lr, noise=5.0 if lr else 0.0)
            for workers in (0, 1, 2):
                batches = load(run, workers=workers)
                for _ in islice(batches, 10 * max(workers, 1)):
                    pass
                start = time.perf_counter()
                for _ in islice(batches, 100):
                    pass
                each = (time.perf_counter() - start) / 100
                print(f"| {name} | {workers} | {each * 1e3:.1f} | {BATCH / each:.0f} |", flush=True)

        print("\n| a training step of a small network on this CPU | workers | ms | of which waiting |")
        print("|---|---:|---:|---:|")
        for patch in (128, 192):
            run = Pairs(pictures, scale=4, batch=BATCH, patch=patch, steps=10_000, lr=PRESETS["bicubic"])
            spent, waited = waiting(run, workers=1, steps=20)
            print(f"| HR patch {patch} | 1 | {spent * 1e3:.0f} | {waited * 1e3:.1f} |", flush=True)


if __name__ == "__main__":
    main()
