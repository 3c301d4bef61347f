"""A stage under way: it makes steps, measures itself, and can be saved and set up again as it was."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch

from upscaler.model.device import resident_memory
from upscaler.model.engine import NotFiniteError
from upscaler.model.evaluation import Scores
from upscaler.model.upscaler import Upscaler
from upscaler.training import players
from upscaler.training.degradation import find_preset
from upscaler.training.health import Gauge
from upscaler.training.measuring import finite
from upscaler.training.orders import Order
from upscaler.training.processes import Processes
from upscaler.training.readings import Alarm, Reading, Validated
from upscaler.training.steps import Steps
from upscaler.training.supply import Supply

_BROKEN = "the averaged generator makes pictures that are not finite numbers"
_MEND = "go back to the last checkpoint (--on-alarm rollback) and take a smaller generator.learning_rate"


class UnderWay:
    """One stage of a run.

    Args:
        order: of the run.
        number: of the stage.
        generator: on the CPU, the weights that the stage begins with.
        eyes: where the losses that look at features get them.
        supply: of batches and validation pictures.
        processes: this one and the others.
        state: of the same stage, where it goes on.
        rollbacks: how often the run went back to a checkpoint.
        rate_factor: on all learning rates.
    """

    def __init__(
        self,
        order: Order,
        number: int,
        generator: players.Generator,
        eyes: players.Eyes,
        supply: Supply,
        processes: Processes,
        *,
        state: Mapping[str, Any] | None,
        rollbacks: int,
        rate_factor: float,
    ) -> None:
        config = order.config
        self.number, self.stage, self.begin = number, config.stages[number], config.begin(number)
        self.device, self.generator = order.device, generator
        discriminator = players.make_discriminator(self.stage, config.seed + number)
        self.steps = Steps(
            self.stage,
            config.scale,
            players.placed(copy.deepcopy(generator), self.stage.engine, self.device),
            copy.deepcopy(generator).to(self.device).eval().requires_grad_(False),
            None if discriminator is None else players.placed(discriminator, players.judging(self.stage), self.device),
            eyes.of(self.stage, self.device),
            find_preset(self.stage.data.degradation),
            processes,
            equivariant=config.network.equivariant,
        )
        self.steps.rate_factor = rate_factor
        self.gauge = Gauge(adversarial=self.stage.losses.adversarial if self.stage.adversarial else None)
        self.best: float | None = None
        self.bests: list[int] = []
        """Steps of the run at which the weights were the best so far."""
        if state is not None:
            self.steps.restore(state["steps"])
            self.gauge.restore(state["gauge"])
            self.best, self.bests = state["best"], state["bests"]
        self._validation = supply.validation_set(number)
        self._batches = supply.batches(number, self.steps.step, rollbacks)
        self._clock, self._timed = time.monotonic(), self.steps.step

    @property
    def step(self) -> int:
        """Steps of the whole run that are done."""
        return self.begin + self.steps.step

    @property
    def over(self) -> bool:
        """Whether all its steps are made."""
        return self.steps.step == self.stage.iterations

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers."""
        networks = [self.steps.average, self.steps.generator.network]
        return finite(networks + ([self.steps.discriminator.network] if self.steps.discriminator else []))

    def due(self, every: int) -> bool:
        """Whether something is that is done after every so many steps, if at all, and after the last one."""
        return self.over or (every > 0 and self.steps.step % every == 0)

    def make_step(self) -> Reading | None:
        """One step; the numbers since the last reading where one is due."""
        records, following = self.stage.records, self.steps.step + 1
        last = following == self.stage.iterations
        watch = last or following % records.readings == 0
        self.steps.make(
            self._batches, watch=watch, histograms=watch and (last or following % records.distributions == 0)
        )
        return self._reading() if watch else None

    def _reading(self) -> Reading:
        values, histograms = self.steps.reading()
        now = time.monotonic()
        elapsed = now - self._clock
        values["speed/steps_per_second"] = (self.steps.step - self._timed) / elapsed
        values["speed/waiting"] = self._batches.waited() / elapsed
        cuda = self.device.type == "cuda"
        values["memory/bytes"] = float(torch.cuda.max_memory_allocated(self.device) if cuda else resident_memory())
        self._clock, self._timed = now, self.steps.step
        return Reading(self.stage.name, self.step, values, histograms)

    def validate(self) -> Validated | Alarm | None:
        """Measure the averaged generator as ``srup upscale`` would use it; None where nothing is to be measured."""
        if self._validation is None:
            return None
        start = time.monotonic()
        network = copy.deepcopy(self.generator)
        network.load_state_dict(self.steps.average.state_dict())
        try:
            scores, bicubic, samples = self._validation.measure(Upscaler(network, device=str(self.device)))
        except NotFiniteError:
            return Alarm(self.stage.name, self.step, "nan", _BROKEN, _MEND, severe=True)
        score = self._score(scores)
        better = self.best is None or score > self.best
        if better:
            self.best = score
            self.bests.append(self.step)
        self._clock += time.monotonic() - start  # not the time of steps
        return Validated(self.stage.name, self.step, scores, bicubic, samples, better)

    def _score(self, scores: Scores) -> float:
        """Higher is better; pictures that are too small for NIQE are judged by PSNR."""
        match self.stage.validation.best:
            case "ssim":
                return scores.ssim_y
            case "niqe" if scores.niqe is not None:
                return -scores.niqe
        return scores.psnr_y

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "stage": self.number,
            "steps": self.steps.state(),
            "gauge": self.gauge.state(),
            "best": self.best,
            "bests": self.bests,
        }
