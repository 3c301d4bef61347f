"""One step of training: the generator learns from its losses, the discriminator from what it judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from upscaler.model.equivariance import Equivariance
from upscaler.model.layouts import Built
from upscaler.training.config import Stage
from upscaler.training.degradation import Degrade
from upscaler.training.kernels import sharpen
from upscaler.training.learners import Judge, Learner
from upscaler.training.losses import discriminator_loss, evenness_loss, generator_loss, pixel_loss
from upscaler.training.measuring import Meter, distributions, gradient_sizes, read, some, weight_sizes
from upscaler.training.pairs import Batch, degraded, floats
from upscaler.training.perceptual import VGGFeatures, feature_distance, texture_distance
from upscaler.training.processes import Processes
from upscaler.training.readings import TERMS
from upscaler.training.stabilisers import Labels, fading, instance_noise, shifted
from upscaler.transfers import sent

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Streams of instance noise: every picture that the discriminator sees in a step has noise of its own.
_G_FAKE, _G_REAL, _D_FAKE, _D_REAL = range(4)


class Steps:
    """The steps of one stage.

    Args:
        stage: its configuration.
        scale: HR pixels per LR pixel.
        generator: on the device.
        average: a copy of it on the device, which will follow it.
        discriminator: on the device, where the stage has one.
        vgg: on the device, where a loss looks at features.
        degrade: makes LR on the device, where nobody did before.
        processes: this one and the others.
        equivariant: the generator, which is so, stays so.
    """

    def __init__(
        self,
        stage: Stage,
        scale: int,
        generator: Built,
        average: nn.Module,
        discriminator: nn.Module | None,
        vgg: VGGFeatures | None,
        degrade: Degrade,
        processes: Processes,
        *,
        equivariant: bool,
    ) -> None:
        self.stage, self.scale, self.vgg, self.degrade, self.processes = stage, scale, vgg, degrade, processes
        self.device = next(generator.parameters()).device
        self.dtype = _DTYPES[stage.engine.precision]
        scaled = self.dtype == torch.float16
        self.average = average
        parallel = processes.parallel(generator, self.device)
        bonds = Equivariance(generator) if equivariant else None
        self.generator = Learner(generator, parallel, stage.generator, scaled=scaled, equivariance=bonds)
        self.discriminator: Learner | None = None
        if discriminator is not None:
            judge = processes.parallel(Judge(discriminator, stage.losses), self.device)
            self.discriminator = Learner(discriminator, judge, stage.discriminator, scaled=scaled)
        self.labels = Labels(stage.stabilisers.smoothing, stage.stabilisers.label_noise, stage.stabilisers.label_flips)
        self.rate_factor = 1.0
        """On the learning rates of both networks."""
        self.step = 0
        self.sigma = 0.0
        self.meter = Meter()
        self._watched: dict[str, Tensor] = {}
        self._histograms: dict[str, NDArray[np.float32]] = {}

    @property
    def batches(self) -> int:
        """Batches that each step takes: the discriminator's extra updates have their own."""
        return self.stage.discriminator.steps if self.discriminator else 1

    def make(self, batches: Iterator[Batch], *, watch: bool, histograms: bool) -> None:
        """One step of the generator with the discriminator's updates that belong to it.

        Args:
            batches: gives the next ones.
            watch: measure gradients, for ``reading``.
            histograms: keep samples of values too.
        """
        progress = self.step / self.stage.iterations
        self.sigma = fading(
            self.stage.stabilisers.instance_noise, self.stage.stabilisers.instance_noise_until, progress
        )
        judge = self.discriminator if (self.step + 1) % self.stage.discriminator.every == 0 else None
        for _ in range(self.batches - 1):
            batch = next(batches)
            if judge:
                with torch.no_grad():
                    parts = [(real, self._generated(lr), seeds) for real, lr, seeds in self._parts(batch)]
                self._teach_discriminator(judge, parts, progress, watch=False, histograms=False)
        parts = self._teach_generator(next(batches), progress, watch=watch, histograms=histograms)
        if judge:
            self._teach_discriminator(judge, parts, progress, watch=watch, histograms=histograms)
        self.step += 1

    def _teach_generator(
        self, batch: Batch, progress: float, *, watch: bool, histograms: bool
    ) -> list[tuple[Tensor, Tensor, Sequence[int]]]:
        """Update the generator; the real and generated pictures, and their seeds, in parts."""
        learner, shown = self.generator, []
        learner.begin(progress, self.rate_factor)
        if self.discriminator:
            self.discriminator.network.requires_grad_(False)
        parts = list(self._parts(batch))
        for number, (real, lr, seeds) in enumerate(parts):
            with learner.joining(last=number == len(parts) - 1):
                fake = self._generated(lr)
                terms = self._terms(fake, real, seeds)
                if watch:
                    self._watch_terms(terms, fake, real)
                learner.backward(torch.stack(list(terms.values())).sum() / len(parts))
            for name, term in terms.items():
                self.meter.add(f"loss/{name}", term)
            shown.append((real, fake.detach(), seeds))
        if watch:
            learner.settle()
            self._watched |= gradient_sizes("generator", learner.network)
        if histograms:
            self._histograms |= distributions("generator", learner.network)
        learner.finish()
        self._follow()
        return shown

    def _teach_discriminator(
        self,
        learner: Learner,
        parts: Sequence[tuple[Tensor, Tensor, Sequence[int]]],
        progress: float,
        *,
        watch: bool,
        histograms: bool,
    ) -> None:
        losses = self.stage.losses
        learner.network.requires_grad_(True)
        learner.begin(progress, self.rate_factor)
        for number, (real, fake, seeds) in enumerate(parts):
            with learner.joining(last=number == len(parts) - 1), parametrize.cached():
                with self._autocast():
                    real_output, fake_output, penalty = learner.forward(
                        self._shown(real, seeds, _D_REAL), self._shown(fake, seeds, _D_FAKE), seeds
                    )
                real_output, fake_output = real_output.float(), fake_output.float()
                real_labels = sent(self.labels.real(seeds), self.device)
                fake_labels = sent(self.labels.fake(seeds), self.device)
                loss = discriminator_loss(
                    losses.adversarial, real_output, fake_output, real_labels, fake_labels, self.processes.mean
                )
                learner.backward((loss + penalty) / len(parts))
            self.meter.add("loss/discriminator", loss)
            self.meter.add("output/real", real_output.mean())
            self.meter.add("output/fake", fake_output.mean())
            self.meter.stretch("output/largest", torch.maximum(real_output.abs().amax(), fake_output.abs().amax()))
            if losses.penalty_weight or losses.r1_weight:
                self.meter.add("loss/penalty", penalty)
        if watch:
            learner.settle()
            self._watched |= gradient_sizes("discriminator", learner.network)
        if histograms:
            self._histograms |= distributions("discriminator", learner.network)
            self._histograms |= {"output/real": some(real_output), "output/fake": some(fake_output)}
        learner.finish()

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Sequence[int]]]:
        """HR, LR and seeds of the parts that are computed one after another."""
        hr = floats(batch.hr, self.device)
        lr = degraded(hr, self.degrade, self.scale, batch.seeds) if batch.lr is None else floats(batch.lr, self.device)
        size = len(hr) // self.stage.data.accumulate
        for first in range(0, len(hr), size):
            part = slice(first, first + size)
            yield self._laid(hr[part]), self._laid(lr[part]), batch.seeds[part]

    def _terms(self, fake: Tensor, real: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """The weighted terms of the generator's loss."""
        losses, perceptual, terms = self.stage.losses, self.stage.perceptual, {}
        target = self._laid(sharpen(real)) if self.stage.data.sharpen else real
        if losses.pixel_weight:
            terms["pixel"] = losses.pixel_weight * pixel_loss(losses.pixel, fake, target)
        if losses.evenness_weight:
            terms["evenness"] = losses.evenness_weight * evenness_loss(
                fake, target, self.scale, self.processes.averaged
            )
        if self.vgg is not None:
            with self._autocast():
                seen = self.vgg(self._shifted(fake, seeds))
                with torch.no_grad():
                    wanted = self.vgg(self._shifted(target, seeds))
            if losses.feature_weight:
                distance = feature_distance(seen, wanted, perceptual.layers, losses.feature)
                terms["feature"] = losses.feature_weight * distance
            if losses.texture_weight:
                distance = texture_distance(seen, wanted, perceptual.texture_layers, perceptual.texture_patch)
                terms["texture"] = losses.texture_weight * distance
        if self.discriminator is not None and losses.adversarial_weight:
            with self._autocast(), parametrize.cached():
                with torch.no_grad():
                    real_output = self.discriminator.network(self._shown(real, seeds, _G_REAL))
                fake_output = self.discriminator.network(self._shown(fake, seeds, _G_FAKE))
            loss = generator_loss(losses.adversarial, real_output.float(), fake_output.float(), self.processes.mean)
            terms["adversarial"] = losses.adversarial_weight * loss
        return terms

    def _generated(self, lr: Tensor) -> Tensor:
        with self._autocast():
            fake: Tensor = self.generator.forward(lr)
        return fake.float()

    def _shown(self, pictures: Tensor, seeds: Sequence[int], stream: int) -> Tensor:
        """What the discriminator sees of pictures."""
        return instance_noise(self._shifted(pictures, seeds), self.sigma / 255, seeds, stream)

    def _shifted(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._laid(shifted(pictures, self.stage.stabilisers.shift, seeds))

    def _laid(self, pictures: Tensor) -> Tensor:
        if self.stage.engine.channels_last:
            return pictures.contiguous(memory_format=torch.channels_last)
        return pictures

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def _follow(self) -> None:
        """The averaged generator moves towards the generator; faster at first, when it is mostly where it began."""
        decay = min(self.stage.average, (1 + self.step) / (10 + self.step))
        averaged: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.generator.network.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _watch_terms(self, terms: Mapping[str, Tensor], fake: Tensor, real: Tensor) -> None:
        factor = self.generator.scaler.scale(fake.new_ones(()))
        for name, term in terms.items():
            # A term that does not depend on the pictures is a fault, and the gauge's to tell.
            # Scaled as in training: through half precision small gradients would be lost.
            scaled, gradient = self.generator.scaler.scale(term), None
            if term.requires_grad:
                (gradient,) = torch.autograd.grad(scaled, fake, retain_graph=True, allow_unused=True)
            size = fake.new_zeros(()) if gradient is None else gradient.norm() / factor
            self._watched[f"picture_gradient/{name}"] = size
        shift = (fake.detach() - real).mean((0, 2, 3)) * 255
        self._watched |= {f"colour/{name}": shift[place] for place, name in enumerate(("red", "green", "blue"))}

    def reading(self) -> tuple[dict[str, float], dict[str, NDArray[np.float32]]]:
        """Everything measured since the last one, and the samples of the last step if they were asked for."""
        watched = self._watched | weight_sizes("generator", self.generator.network)
        rates = {"rate/generator": self.generator.rate}
        if self.discriminator:
            watched |= weight_sizes("discriminator", self.discriminator.network)
            rates["rate/discriminator"] = self.discriminator.rate
        if self.stage.stabilisers.instance_noise:
            rates["noise/instance"] = self.sigma
        values = self.meter.take() | read(watched) | rates
        values["loss/generator"] = sum(values[f"loss/{name}"] for name in TERMS if f"loss/{name}" in values)
        histograms = self._histograms
        self._watched, self._histograms = {}, {}
        return values, histograms

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "step": self.step,
            "meter": self.meter.state(),
            "average": self.average.state_dict(),
            "generator": self.generator.state(),
            "discriminator": self.discriminator.state() if self.discriminator else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint of the same stage."""
        self.step = state["step"]
        self.meter.restore(state["meter"], self.device)
        self.average.load_state_dict(state["average"])
        self.generator.restore(state["generator"])
        if self.discriminator:
            self.discriminator.restore(state["discriminator"])
