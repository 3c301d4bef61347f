"""The training loop: stages one after the other, each step the same whether or not the run was interrupted."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from upscaler.errors import UserError
from upscaler.model.device import resident_memory
from upscaler.model.upscaler import Upscaler
from upscaler.model.web import Progress
from upscaler.model.weights import Weights, save_weights
from upscaler.training import players
from upscaler.training.checkpoints import (
    checkpoint_path,
    checkpoints_in,
    load_checkpoint,
    remove_after,
    save_checkpoint,
    thin_out,
)
from upscaler.training.config import Config, Stage, config_text
from upscaler.training.degradation import find_preset
from upscaler.training.health import Gauge
from upscaler.training.measuring import finite
from upscaler.training.pairs import Batch, Growth, Pairs, load
from upscaler.training.processes import Processes
from upscaler.training.readings import (
    Alarm,
    Event,
    Finished,
    Reading,
    RolledBack,
    Saved,
    StageEnded,
    Started,
    Validated,
)
from upscaler.training.reports import write_report
from upscaler.training.runs import RunFolder
from upscaler.training.shards import PreparedSet
from upscaler.training.steps import Steps
from upscaler.training.validation import ValidationSet

OnAlarm = Literal["warn", "rollback", "stop"]
Notify = Callable[[Event], None]

_ROLLBACKS = 3
_ROLLBACK_FACTOR = 0.5
# An alarm takes a few readings to be told; what was saved since then may be ill already.
_READINGS_TO_NOTICE = 5
# Far enough apart that no two rollbacks and no two stages draw the same patches.
_OTHER_DRAWS = 1_000_003
_REASONS = (None, "time", "signal")


@dataclass(frozen=True)
class Order:
    """What a run is asked to do.

    Args:
        config: of the run.
        folder: where it lives.
        data: the training set.
        val: pictures to validate with; None takes the training set's validation split.
        device: that computes.
        hours: stop after so many of this session.
        on_alarm: what a severe alarm does.
    """

    config: Config
    folder: RunFolder
    data: PreparedSet
    val: Path | None
    device: torch.device
    hours: float | None
    on_alarm: OnAlarm


class Run:
    """A training run.

    Args:
        order: what to do.
        processes: this one and the others.
        asked: set when somebody wants the run to stop.
        notify: told of every event, in the first process alone.
        progress: told of (bytes done, bytes in all) while weights of a VGG are downloaded.

    Raises:
        UserError: anything of the order that cannot be done, before anything is written.
    """

    def __init__(
        self, order: Order, processes: Processes, asked: threading.Event, notify: Notify, progress: Progress | None
    ) -> None:
        self.order, self.config, self.folder, self.processes = order, order.config, order.folder, processes
        self.device = order.device
        self._asked, self._notify = asked, notify
        self._pictures = order.data.pictures()
        self._first_stage = 0
        self._state: dict[str, Any] | None = None
        self._rollbacks = 0
        self._best: float | None = None
        self._best_step: int | None = None
        self._parent = ""
        self.passed_over: list[str] = []
        """Lines on checkpoints that cannot be read."""
        self.generator = players.make_generator(self.config)
        for number, stage in enumerate(self.config.stages):
            players.make_discriminator(stage, 0)
            self._pairs(number, stage)
        self._eyes = players.Eyes(self.config.stages, progress)
        self._validation = self._validation_set(self.config.stages[-1])

    @property
    def left_out(self) -> Sequence[str]:
        """Lines on validation pictures that cannot be used."""
        return self._validation.left_out if self._validation else ()

    @property
    def validates(self) -> bool:
        """Whether there are pictures to validate with."""
        return self._validation is not None

    def begin_with(self, weights: Weights) -> None:
        """Begin with these weights, behind the stage that would have made such ones.

        Raises:
            UserError: they are of another network.
        """
        players.begin_with(self.generator, weights)
        self._parent = weights.digest
        self._first_stage = 1 if len(self.config.stages) > 1 else 0

    def resume(self) -> int:
        """Go on from the last checkpoint that can be read; the steps that are done.

        Raises:
            UserError: there is none.
        """
        found = checkpoints_in(self.folder.checkpoints)
        for step in reversed(found):
            try:
                self._state = load_checkpoint(found[step], self.device)
            except UserError as error:
                self.passed_over.append(str(error))
                continue
            self._first_stage, self._parent = self._state["stage"], self._state["parent"]
            if self.processes.first:
                remove_after(self.folder.checkpoints, step)
            return step
        reason = self.passed_over[0] if self.passed_over else f"there is no checkpoint in {self.folder.path}"
        raise UserError(f"{reason}; begin another run in another folder")

    def go(self) -> Finished:
        """Make all steps that are left.

        Raises:
            UserError: a disk that is full, or whatever else a person must mend. The last checkpoint stays good.
        """
        self._deadline = time.monotonic() + self.order.hours * 3600 if self.order.hours is not None else None
        self._done = begun = self._state["step"] if self._state else self.config.begin(self._first_stage)
        self._tell(Started(self.folder.path, begun, self.config.steps, {"generator": _count(self.generator)}))
        why = None
        for number in range(self._first_stage, len(self.config.stages)):
            why = self._stage(number, self.config.stages[number])
            if why:
                break
        return self._finish(why or "complete")

    def _stage(self, number: int, stage: Stage) -> str | None:
        """All steps of a stage; why it ended early, if it did."""
        begin, records, why = self.config.begin(number), stage.records, None
        steps, gauge, batches = self._set_up(number, stage)
        while steps.step < stage.iterations and why is None:
            last = steps.step + 1 == stage.iterations
            watch = last or _due(steps.step + 1, records.readings)
            steps.make(batches, watch=watch, histograms=watch and (last or _due(steps.step + 1, records.distributions)))
            self._done = step = begin + steps.step
            alarms, better = list[Alarm](), False
            if watch:
                alarms += self._read(stage, steps, gauge, step)
            if last or _due(steps.step, stage.validation.every):
                found, better = self._validate(stage, steps, gauge, step)
                alarms += found
            if watch:
                action = self.processes.told(self._action(alarms))
                if action == "rollback":
                    steps, gauge, batches = self._roll_back(number, stage, begin, step)
                    continue
                why = action
            why = why or (None if last else self._reason_to_stop())
            if last or why or better or _due(steps.step, records.checkpoints):
                self._save(number, stage, steps, gauge, step)
        self.generator.load_state_dict(steps.average.state_dict())
        if why is None:
            self._tell(StageEnded(stage.name, begin + steps.step, self.folder.weights(stage.name)))
        return why

    def _set_up(self, number: int, stage: Stage) -> tuple[Steps, Gauge, Iterator[Batch]]:
        """A stage as it begins, or as it was when the run's state was saved."""
        discriminator = players.make_discriminator(stage, self.config.seed + number)
        steps = Steps(
            stage,
            self.config.scale,
            players.placed(copy.deepcopy(self.generator), stage.engine, self.device),
            copy.deepcopy(self.generator).to(self.device).eval().requires_grad_(False),
            None if discriminator is None else players.placed(discriminator, stage.engine, self.device),
            self._eyes.of(stage, self.device),
            find_preset(stage.data.degradation),
            self.processes,
        )
        gauge = Gauge(adversarial=stage.losses.adversarial if stage.adversarial else None)
        self._best, self._best_step = None, None
        state, self._state = self._state, None
        if state is not None:
            steps.restore(state["steps"])
            gauge.restore(state["gauge"])
            self._rollbacks, self._best, self._best_step = state["rollbacks"], state["best"], state["best_step"]
        else:
            self._save(number, stage, steps, gauge, self.config.begin(number))
        steps.rate_factor = _ROLLBACK_FACTOR**self._rollbacks
        self._validation = self._validation_set(stage)
        self._clock, self._waited, self._timed = time.monotonic(), 0.0, steps.step
        batches = load(self._pairs(number, stage), start=steps.step * steps.batches, workers=stage.data.workers)
        return steps, gauge, self._timed_batches(batches)

    def _pairs(self, number: int, stage: Stage) -> Pairs:
        data, each = stage.data, stage.discriminator.steps if stage.adversarial else 1
        world = self.processes.world
        if data.batch % (data.accumulate * world):
            raise UserError(
                f"a batch of {data.batch} cannot be shared evenly by {world} processes with data.accumulate "
                f"{data.accumulate}"
            )
        patch: int | Growth
        if isinstance(data.patch, int):
            patch = data.patch
        else:
            patch = Growth(tuple(sorted((round(share * stage.iterations) * each, size) for share, size in data.patch)))
        return Pairs(
            self._pictures,
            scale=self.config.scale,
            batch=data.batch,
            patch=patch,
            steps=stage.iterations * each,
            lr="stored" if data.lr == "stored" else find_preset(data.degradation) if data.lr == "workers" else None,
            seed=self.config.seed + _OTHER_DRAWS * (number + len(self.config.stages) * self._rollbacks),
            rank=self.processes.rank,
            world=world,
            flips=data.flips,
            noise=data.noise,
            shuffle_channels=data.shuffle_channels,
        )

    def _validation_set(self, stage: Stage) -> ValidationSet | None:
        """Pictures made worse as the stage's are, in the process that looks at them; None where there are none."""
        if not self.processes.first:
            return None
        degrade, most = find_preset(stage.data.degradation), stage.validation.pictures
        if self.order.val is not None:
            return ValidationSet.from_folder(self.order.val, self.config.scale, degrade, self.config.seed, most)
        pictures = self.order.data.pictures("validation")
        if not len(pictures):
            return None
        return ValidationSet.from_prepared(
            pictures, self.config.scale, "stored" if stage.data.lr == "stored" else degrade, self.config.seed, most
        )

    def _timed_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, and how long the loop waits for them."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited += time.monotonic() - start
            yield batch

    def _read(self, stage: Stage, steps: Steps, gauge: Gauge, step: int) -> list[Alarm]:
        """Tell the numbers since the last reading, and what is wrong with them."""
        values, histograms = steps.reading()
        now = time.monotonic()
        elapsed = now - self._clock
        values["speed/steps_per_second"] = (steps.step - self._timed) / elapsed
        values["speed/waiting"] = self._waited / elapsed
        cuda = self.device.type == "cuda"
        values["memory/bytes"] = float(torch.cuda.max_memory_allocated(self.device) if cuda else resident_memory())
        self._clock, self._waited, self._timed = now, 0.0, steps.step
        reading = Reading(stage.name, step, values, histograms)
        self._tell(reading)
        return self._checked(gauge, reading)

    def _validate(self, stage: Stage, steps: Steps, gauge: Gauge, step: int) -> tuple[list[Alarm], bool]:
        """Measure the averaged generator as ``srup upscale`` would use it; what is wrong, and if it is the best yet."""
        if self._validation is None or not finite([steps.average]):
            return [], False
        start = time.monotonic()
        scores, bicubic, samples = self._validation.measure(Upscaler(steps.average, device=str(self.device)))  # type: ignore[arg-type]
        self._clock += time.monotonic() - start  # not the time of steps
        wanted = {"psnr": scores.psnr_y, "ssim": scores.ssim_y, "niqe": None if scores.niqe is None else -scores.niqe}
        score = wanted[stage.validation.best]
        score = scores.psnr_y if score is None else score
        better = self._best is None or score > self._best
        if better:
            self._best, self._best_step = score, step
            self._write_weights("best", stage, steps)
        event = Validated(stage.name, step, scores, bicubic, samples, better)
        self._tell(event)
        return self._checked(gauge, event), better

    def _checked(self, gauge: Gauge, event: Reading | Validated) -> list[Alarm]:
        alarms = gauge.check(event) if self.processes.first else []
        for alarm in alarms:
            self._tell(alarm)
        return alarms

    def _action(self, alarms: Sequence[Alarm]) -> str | None:
        """``rollback``, ``alarm`` to stop, or nothing."""
        if self.order.on_alarm == "warn" or not any(alarm.severe for alarm in alarms):
            return None
        return "rollback" if self.order.on_alarm == "rollback" and self._rollbacks < _ROLLBACKS else "alarm"

    def _reason_to_stop(self) -> str | None:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return _REASONS[self.processes.largest(2 if self._asked.is_set() else int(late))]

    def _roll_back(self, number: int, stage: Stage, begin: int, step: int) -> tuple[Steps, Gauge, Iterator[Batch]]:
        """The stage as it was before the trouble began."""
        steps = [saved for saved in checkpoints_in(self.folder.checkpoints) if saved >= begin]
        healthy = [saved for saved in steps if saved <= step - _READINGS_TO_NOTICE * stage.records.readings]
        to = self.processes.told(max(healthy) if healthy else min(steps))
        rollbacks = self._rollbacks + 1
        self._state = load_checkpoint(checkpoint_path(self.folder.checkpoints, to), self.device)
        self._state["rollbacks"] = rollbacks
        if self.processes.first:
            remove_after(self.folder.checkpoints, to)
        self._tell(RolledBack(step, to))
        return self._set_up(number, stage)

    def _save(self, number: int, stage: Stage, steps: Steps, gauge: Gauge, step: int) -> None:
        """Write the averaged weights, and a checkpoint unless numbers have become NaN."""
        if not self.processes.first or not finite([steps.average, steps.generator.network]):
            return
        self._write_weights("last", stage, steps)
        if steps.step == stage.iterations:
            self._write_weights(stage.name, stage, steps)
        state = {
            "stage": number,
            "steps": steps.state(),
            "gauge": gauge.state(),
            "rollbacks": self._rollbacks,
            "best": self._best,
            "best_step": self._best_step,
            "parent": self._parent,
        }
        path = save_checkpoint(self.folder.checkpoints, step, state)
        thin_out(self.folder.checkpoints, stage.records.keep, self._best_step)
        self._tell(Saved(step, path))

    def _write_weights(self, name: str, stage: Stage, steps: Steps) -> None:
        origin = {
            "training": config_text(self.config),
            "stage": f"{stage.name}, {steps.step} of {stage.iterations} steps",
            "data": str(self.order.data.manifest.get("identity", "")),
        }
        if self._parent:
            origin["parents"] = self._parent
        generator = self.generator
        save_weights(
            self.folder.weights(name), generator.architecture, generator.settings(), steps.average.state_dict(), origin
        )

    def _finish(self, why: str) -> Finished:
        report = write_report(self.folder, why) if self.processes.first else self.folder.report
        finished = Finished(self.folder.path, self._done, why, self.folder.weights("last"), report)
        self._tell(finished)
        return finished

    def _tell(self, event: Event) -> None:
        if self.processes.first:
            self._notify(event)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
