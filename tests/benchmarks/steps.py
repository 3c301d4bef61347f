"""What a training step costs beyond its arithmetic: `python tests/benchmarks/steps.py [ROUNDS]`.

The bare loop computes losses and gradients and moves the weights, on tensors that lie ready. The trainer does the
same from prepared data: pairs made by a worker, LR by bicubic, averaged weights, readings as often as the preset has
them. Both have one network each, of the same preset, and take turns step by step in this process.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from upscaler.images import files
from upscaler.model.layouts import Built
from upscaler.training.config import Config, Stage
from upscaler.training.degradation import find_preset
from upscaler.training.inspection import read_rgb
from upscaler.training.layering import load_config
from upscaler.training.pairs import Pairs, floats, load
from upscaler.training.perceptual import VGGFeatures
from upscaler.training.players import make_discriminator, make_generator, placed
from upscaler.training.preparation import Settings, prepare
from upscaler.training.processes import Processes
from upscaler.training.shards import Pictures, PreparedSet
from upscaler.training.sources import find_sources
from upscaler.training.steps import Steps

CPU = torch.device("cpu")
RUNS = {
    "compact-psnr": (["data.batch=16"], 0),
    "esrgan, for PSNR, batch 2, patch 128": (["data.batch=2", "data.patch=128"], 0),
    "esrgan, with the GAN, batch 4, patch 128": (["data.batch=4"], 1),
}
"""The published batches of esrgan would take minutes a step on a CPU; smaller ones make the overhead's share larger."""


def vgg_weights(layers: list[str]) -> VGGFeatures:
    """VGG19 with random weights: the time does not depend on them."""
    widths = [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4]
    tensors, place, width = {}, 0, 3
    for wide in widths:
        if wide:
            tensors[f"features.{place}.weight"] = torch.randn(wide, width, 3, 3) * (2 / (9 * width)) ** 0.5
            tensors[f"features.{place}.bias"] = torch.zeros(wide)
            width = wide
        place += 2 if wide else 1
    return VGGFeatures("vgg19", layers, tensors)


def pairs_of(stage: Stage, pictures: Pictures) -> Pairs:
    """The batches of a stage with patches of one size."""
    if not isinstance(stage.data.patch, int):
        raise TypeError(f"patches of {stage.data.patch} pixels grow")
    return Pairs(
        pictures,
        scale=4,
        batch=stage.data.batch,
        patch=stage.data.patch,
        steps=stage.iterations,
        lr=find_preset("bicubic"),
    )


def bare(
    stage: Stage, networks: tuple[Built, nn.Module | None, VGGFeatures | None], hr: Tensor, lr: Tensor
) -> Callable[[], None]:
    """One step as the shortest script has it."""
    g, d, vgg = networks
    g_optimiser = torch.optim.Adam(g.parameters(), stage.generator.learning_rate, fused=True)
    d_optimiser = None if d is None else torch.optim.Adam(d.parameters(), stage.discriminator.learning_rate, fused=True)
    bce = nn.functional.binary_cross_entropy_with_logits

    def against(a: Tensor, b: Tensor, label: float) -> Tensor:
        return bce(a - b.mean(), torch.full_like(a, label))

    def step() -> None:
        g_optimiser.zero_grad()
        fake = g(lr)
        loss = stage.losses.pixel_weight * nn.functional.l1_loss(fake, hr)
        if d is not None and d_optimiser is not None and vgg is not None:
            d.requires_grad_(False)
            with torch.no_grad():
                wanted, on_real = vgg(hr), d(hr)
            seen, on_fake = vgg(fake), d(fake)
            loss = loss + sum(nn.functional.l1_loss(seen[name], wanted[name]) for name in wanted)
            loss = (
                loss
                + stage.losses.adversarial_weight * (against(on_real, on_fake, 0) + against(on_fake, on_real, 1)) / 2
            )
        loss.backward()  # type: ignore[no-untyped-call]
        g_optimiser.step()
        if d is not None and d_optimiser is not None:
            d.requires_grad_(True)
            d_optimiser.zero_grad()
            on_real, on_fake = d(hr), d(fake.detach())
            ((against(on_real, on_fake, 1) + against(on_fake, on_real, 0)) / 2).backward()  # type: ignore[no-untyped-call]
            d_optimiser.step()

    return step


def trainer(
    config: Config, stage: Stage, networks: tuple[Built, nn.Module | None, VGGFeatures | None], pictures: Pictures
) -> Callable[[], None]:
    """One step of srup's, data and readings included."""
    g, d, vgg = networks
    average = copy.deepcopy(g).eval().requires_grad_(False)
    steps = Steps(
        stage,
        config.scale,
        g,
        average,
        d,
        vgg,
        find_preset("bicubic"),
        Processes(),
        equivariant=config.network.equivariant,
    )
    batches = load(pairs_of(stage, pictures), workers=stage.data.workers)

    def step() -> None:
        due = (steps.step + 1) % stage.records.readings == 0
        steps.make(batches, watch=due, histograms=False)
        if due:
            steps.reading()

    return step


def measured(name: str, rounds: int, pictures: Pictures) -> None:
    """A line of the table."""
    settings, number = RUNS[name]
    config = load_config(name.partition(",")[0], settings=settings)
    stage = config.stages[number]

    def networks() -> tuple[Built, nn.Module | None, VGGFeatures | None]:
        d = make_discriminator(stage, 1)
        vgg = vgg_weights(list(stage.perceptual.layers)) if stage.losses.feature_weight else None
        generator = placed(make_generator(config), stage.engine, CPU)
        return generator, None if d is None else placed(d, stage.engine, CPU), vgg

    batch = pairs_of(stage, pictures)[0]
    assert batch.lr is not None
    hr, lr = (floats(each).contiguous(memory_format=torch.channels_last) for each in (batch.hr, batch.lr))
    ways = {"bare": bare(stage, networks(), hr, lr), "srup": trainer(config, stage, networks(), pictures)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 2):
        for way, step in ways.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["srup"], seconds["bare"], strict=True))
    print(f"| {name} | {medians['bare'] * 1e3:.0f} | {medians['srup'] * 1e3:.0f} | {ratio:.3f} |", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sample = read_rgb(Path(files.__file__).with_name("sample.png"))
        (folder / "photos").mkdir()
        Image.fromarray(np.asarray(sample)).save(folder / "photos/sample.png")
        prepare(find_sources([str(folder / "photos")]), folder / "set", Settings(), lambda _: None)
        pictures = PreparedSet(folder / "set").pictures()
        print("| run | bare, ms | srup, ms | srup / bare |\n|---|---:|---:|---:|")
        for name in RUNS:
            measured(name, rounds if name == "compact-psnr" else max(rounds // 4, 3), pictures)


if __name__ == "__main__":
    main()
