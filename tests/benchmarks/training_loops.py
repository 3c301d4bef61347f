"""A trainer in a process of its own: `python -m tests.benchmarks.training_loops CASE`, which `training.py` starts.

The plain loop is the usual one: crops of PNG sub-pictures, decoded with Pillow in a DataLoader, networks in NCHW and
fp32, Adam, the losses and the moving average as ESRGAN's published script has them. srup's makes the same batches from
its prepared set.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.benchmarks.workers import begin, serve

if __name__ == "__main__":
    begin()

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from tests.benchmarks.plain import PlainCompact, PlainRRDBNet
from tests.benchmarks.records import versions
from tests.benchmarks.steps import CPU, pairs_of
from upscaler.training.config import Config, Stage
from upscaler.training.degradation import find_preset
from upscaler.training.discriminators import VGGDiscriminator
from upscaler.training.layering import load_config
from upscaler.training.pairs import load
from upscaler.training.perceptual import VGGFeatures, load_vgg
from upscaler.training.players import Eyes, make_discriminator, make_generator, placed
from upscaler.training.processes import Processes
from upscaler.training.shards import PreparedSet
from upscaler.training.steps import Steps

T = TypeVar("T")

SCALE = 4
LAYER, VGG = "conv5_4", "vgg19.safetensors"


class Timed(Generic[T]):
    """Batches, and the seconds that were waited for them."""

    def __init__(self, batches: Iterator[T]) -> None:
        self.batches, self.waited = batches, 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - start
        return batch


class SubPictures(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of pairs of PNG files, HR and LR, turned at random."""

    def __init__(self, folder: Path, patch: int) -> None:
        self.pairs = [(hr, folder / "lr" / hr.name) for hr in sorted((folder / "hr").iterdir())]
        self.patch = patch // SCALE

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        hr, lr = (np.asarray(Image.open(path), np.float32) / np.float32(255) for path in self.pairs[index])
        top, left = (random.randrange(edge - self.patch + 1) for edge in lr.shape[:2])  # noqa: S311
        flips = [random.random() < 0.5 for _ in range(3)]  # noqa: S311
        crops = []
        for pixels, factor in ((hr, SCALE), (lr, 1)):
            edge = self.patch * factor
            crop = pixels[top * factor : top * factor + edge, left * factor : left * factor + edge]
            crop = crop[::-1] if flips[0] else crop
            crop = crop[:, ::-1] if flips[1] else crop
            crop = crop.transpose(1, 0, 2) if flips[2] else crop
            crops.append(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))))
        return crops[0], crops[1]


def plain(config: Config, stage: Stage, folder: Path) -> tuple[Callable[[], None], Timed[Any]]:
    """A step of the usual loop, and its batches."""
    assert isinstance(stage.data.patch, int)
    g: nn.Module = PlainRRDBNet(23) if config.network.architecture == "rrdbnet" else PlainCompact(16)
    average = copy.deepcopy(g).requires_grad_(False)
    teach_generator = torch.optim.Adam(g.parameters(), stage.generator.learning_rate)
    losses = stage.losses
    d = vgg = None
    if losses.adversarial_weight:
        d = VGGDiscriminator()
        teach_discriminator = torch.optim.Adam(d.parameters(), stage.discriminator.learning_rate)
        vgg = VGGFeatures("vgg19", [LAYER], load_vgg("vgg19", folder / VGG))
    data = SubPictures(folder, stage.data.patch)
    endless = RandomSampler(data, replacement=True, num_samples=10**6)
    loader = DataLoader(data, stage.data.batch, sampler=endless, num_workers=stage.data.workers)
    batches = Timed(iter(loader))

    def against(a: Tensor, b: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(a - b.mean(), torch.full_like(a, label))

    def step() -> None:
        hr, lr = next(batches)
        teach_generator.zero_grad()
        fake = g(lr)
        loss = F.l1_loss(fake, hr) * losses.pixel_weight
        if d and vgg:
            d.requires_grad_(False)
            seen, wanted = vgg(fake)[LAYER], vgg(hr)[LAYER]
            loss = loss + F.l1_loss(seen, wanted) * losses.feature_weight
            on_real, on_fake = d(hr).detach(), d(fake)
            rivalry = (against(on_real, on_fake, 0) + against(on_fake, on_real, 1)) / 2
            loss = loss + rivalry * losses.adversarial_weight
        loss.backward()  # type: ignore[no-untyped-call]
        teach_generator.step()
        if d:
            d.requires_grad_(True)
            teach_discriminator.zero_grad()
            on_fake, on_real = d(fake.detach()).detach(), d(hr)
            (against(on_real, on_fake, 1) / 2).backward()  # type: ignore[no-untyped-call]
            on_fake = d(fake.detach())
            (against(on_fake, on_real.detach(), 0) / 2).backward()  # type: ignore[no-untyped-call]
            teach_discriminator.step()
        for mean, weight in zip(average.parameters(), g.parameters(), strict=True):
            mean.mul_(stage.average).add_(weight.detach(), alpha=1 - stage.average)

    return step, batches


def srup(config: Config, stage: Stage, folder: Path) -> tuple[Callable[[], None], Timed[Any]]:
    """A step of srup's, with readings as often as the stage has them, and its batches."""
    g = placed(make_generator(config), stage.engine, CPU)
    d = make_discriminator(stage, 1)
    average = copy.deepcopy(g).eval().requires_grad_(False)
    judge = None if d is None else placed(d, stage.engine, CPU)
    vgg = Eyes([stage]).of(stage, CPU)
    steps = Steps(
        stage,
        config.scale,
        g,
        average,
        judge,
        vgg,
        find_preset("bicubic"),
        Processes(),
        equivariant=config.network.equivariant,
    )
    pictures = PreparedSet(folder / "set").pictures()
    batches = Timed(load(pairs_of(stage, pictures), workers=stage.data.workers))

    def step() -> None:
        due = (steps.step + 1) % stage.records.readings == 0
        steps.make(batches, watch=due, histograms=False)
        if due:
            steps.reading()

    return step, batches


def main(way: str, preset: str, folder: str, steps: int) -> None:
    """Measure so many steps at a time, after two that are not measured."""
    config = load_config(preset, settings=[f"perceptual.file={json.dumps(str(Path(folder) / VGG))}"])
    make, batches = {"plain": plain, "srup": srup}[way](config, config.stages[-1], Path(folder))

    def work() -> None:
        for _ in range(steps):
            make()

    for _ in range(2):
        make()
    batches.waited = 0.0
    serve(versions("torch", "numba"), work, {"waited": lambda _: batches.waited})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
