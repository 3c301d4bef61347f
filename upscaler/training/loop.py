"""The training loop: stages one after the other, each step the same whether or not the run was interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.model.web import Progress
from upscaler.model.weights import Weights, save_weights
from upscaler.saving import clear_parts
from upscaler.training import players
from upscaler.training.checkpoints import (
    checkpoint_path,
    checkpoints_in,
    load_checkpoint,
    remove_after,
    save_checkpoint,
    thin_out,
)
from upscaler.training.config import recipe
from upscaler.training.orders import Order
from upscaler.training.processes import Processes
from upscaler.training.readings import (
    ROLLBACKS,
    Alarm,
    Event,
    Finished,
    Reading,
    RolledBack,
    Saved,
    StageEnded,
    Started,
    Stepped,
    Validated,
)
from upscaler.training.reports import write_report
from upscaler.training.supply import Supply
from upscaler.training.underway import UnderWay

Notify = Callable[[Event | Stepped], None]

_ROLLBACK_FACTOR = 0.5
# An alarm takes a few readings to be told; what was saved since then may be ill already.
_READINGS_TO_NOTICE = 5
_REASONS = (None, "time", "signal")


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
        self._asked, self._notify = asked, notify
        self._first_stage = 0
        self._state: dict[str, Any] | None = None
        self._rollbacks = 0
        self._parent = ""
        self.passed_over: list[str] = []
        """Lines on checkpoints that cannot be read."""
        self.generator = players.make_generator(self.config)
        for stage in self.config.stages:
            players.make_discriminator(stage, 0, processes.normalising(order.device))
        self.supply = Supply(order, processes)
        self._eyes = players.Eyes(self.config.stages, progress)

    def begin_with(self, weights: Weights) -> None:
        """Begin with these weights, behind the stage that would have made such ones.

        Raises:
            UserError: they are of another network, or not equivariant where that is wanted.
        """
        players.begin_with(self.generator, weights, equivariant=self.config.network.equivariant)
        self._parent = weights.digest
        self._first_stage = 1 if len(self.config.stages) > 1 else 0

    def resume(self) -> int | None:
        """Go on from the last checkpoint that can be read, or from the beginning where none was written yet.

        Returns:
            The steps that are done; None where there is no checkpoint.

        Raises:
            UserError: none of those that there are can be read.
        """
        if self.processes.first:
            clear_parts(self.folder.path)
        found = checkpoints_in(self.folder.checkpoints)
        for step in reversed(found):
            try:
                self._state = load_checkpoint(found[step])
            except UserError as error:
                self.passed_over.append(str(error))
                continue
            self._first_stage = self._state["stage"]
            self._rollbacks, self._parent = self._state["rollbacks"], self._state["parent"]
            if self.processes.first:
                remove_after(self.folder.checkpoints, step)
            return step
        if self.passed_over:
            raise UserError(f"{self.passed_over[0]}; begin another run in another folder")
        return None

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
            why = self._stage(number)
            if why:
                break
        return self._finish(why or "complete")

    def _stage(self, number: int) -> str | None:
        """All steps of a stage; why it ended early, if it did."""
        stage, why = self._set_up(number), None
        while not stage.over and why is None:
            reading = stage.make_step()
            self._done = stage.step
            self._tell(Stepped(stage.step))
            alarms = self._told(stage, reading) if reading else []
            why, better = self.processes.told(self._action(stage, alarms)) if reading else None, False
            if why is None and stage.due(stage.stage.validation.every):
                better, alarms = self._validate(stage)
                why = self.processes.told(self._action(stage, alarms))
            if why == "rollback":
                self._roll_back(stage)
                del stage  # before another takes its place, for want of memory
                stage, why = self._set_up(number), None
                self._begin_again(stage)
                continue
            why = why or (None if stage.over else self._reason_to_stop())
            if why or better or stage.due(stage.stage.records.checkpoints):
                self._save(stage)
        if why is None and not stage.finite:
            why = "alarm"
        if why is None:
            self.generator.load_state_dict(stage.steps.average.state_dict())
            self._tell(StageEnded(stage.stage.name, stage.step, self.folder.weights(stage.stage.name)))
        return why

    def _set_up(self, number: int) -> UnderWay:
        """A stage as it begins, or as it was when the run's state was saved."""
        state, self._state = self._state, None
        stage = UnderWay(
            self.order,
            number,
            self.generator,
            self._eyes,
            self.supply,
            self.processes,
            state=state,
            rollbacks=self._rollbacks,
            rate_factor=_ROLLBACK_FACTOR**self._rollbacks,
        )
        if state is None:
            self._save(stage)
        return stage

    def _told(self, stage: UnderWay, event: Reading | Validated) -> list[Alarm]:
        """Tell an event, and what is wrong with it."""
        if not self.processes.first:
            return []
        self._tell(event)
        alarms = stage.gauge.check(event)
        for alarm in alarms:
            self._tell(alarm)
        return alarms

    def _action(self, stage: UnderWay, alarms: Sequence[Alarm]) -> str | None:
        """``rollback``, ``alarm`` to stop, or nothing."""
        back, severe = self.order.on_alarm == "rollback", any(alarm.severe for alarm in alarms)
        # What was told before the run was resumed was not acted on if it is still there.
        if self.order.on_alarm == "warn" or not (severe or (back and stage.gauge.severe_since is not None)):
            return None
        return "rollback" if back and self._rollbacks < ROLLBACKS else "alarm"

    def _reason_to_stop(self) -> str | None:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return _REASONS[self.processes.largest(2 if self._asked.is_set() else int(late))]

    def _validate(self, stage: UnderWay) -> tuple[bool, list[Alarm]]:
        """Whether the generator is the best yet, and what is wrong with its pictures."""
        validated = stage.validate()
        if isinstance(validated, Alarm):
            self._tell(validated)
            return False, [validated]
        if validated is None:
            return False, []
        alarms = self._told(stage, validated)
        if validated.best:
            self._write_weights("best", stage, stage.step, stage.steps.average.state_dict())
        return validated.best, alarms

    def _roll_back(self, stage: UnderWay) -> None:
        """Make the state of before the trouble the one to go on from."""
        saved = [step for step in checkpoints_in(self.folder.checkpoints) if step >= stage.begin]
        told = stage.gauge.severe_since or stage.step  # what pictures alone show is not the gauge's
        healthy = [step for step in saved if step <= told - _READINGS_TO_NOTICE * stage.stage.records.readings]
        to = self.processes.told(max(healthy) if healthy else min(saved))
        self._state = load_checkpoint(checkpoint_path(self.folder.checkpoints, to))
        self._rollbacks += 1
        if self.processes.first:
            remove_after(self.folder.checkpoints, to)
        self._tell(RolledBack(stage.step, to, self._rollbacks, _ROLLBACK_FACTOR**self._rollbacks))

    def _begin_again(self, stage: UnderWay) -> None:
        """Make a rollback last: one that is killed now must not begin with what was given up."""
        self._save(stage)
        if not self.processes.first:
            return
        if stage.bests:
            state = load_checkpoint(checkpoint_path(self.folder.checkpoints, stage.bests[-1]))
            self._write_weights("best", stage, stage.bests[-1], state["steps"]["average"])
        else:
            self.folder.weights("best").unlink(missing_ok=True)

    def _save(self, stage: UnderWay) -> None:
        """Write the averaged weights and a checkpoint, unless numbers have become NaN: the last good ones stay."""
        if not self.processes.first or not stage.finite:
            return
        average = stage.steps.average.state_dict()
        self._write_weights("last", stage, stage.step, average)
        if stage.over:
            self._write_weights(stage.stage.name, stage, stage.step, average)
        state = stage.state() | {"rollbacks": self._rollbacks, "parent": self._parent}
        path = save_checkpoint(self.folder.checkpoints, stage.step, state)
        thin_out(self.folder.checkpoints, stage.stage.records.keep, stage.bests)
        self._tell(Saved(stage.step, path))

    def _write_weights(self, name: str, stage: UnderWay, step: int, tensors: Mapping[str, Tensor]) -> None:
        origin = {
            "training": recipe(self.config),
            "stage": f"{stage.stage.name}, {step - stage.begin} of {stage.stage.iterations} steps",
            "data": str(self.order.data.manifest.get("identity", "")),
        }
        if self._parent:
            origin["parents"] = self._parent
        save_weights(self.folder.weights(name), self.generator.architecture, self.generator.settings(), tensors, origin)

    def report(self, why: str) -> None:
        """Write down how the run ended, see ``reports``; the first process's to do.

        Raises:
            UserError: something cannot be read or written.
        """
        shown = self.supply.validation
        write_report(self.folder, why, (len(shown), shown.available) if shown else None)

    def _finish(self, why: str) -> Finished:
        if self.processes.first:
            self.report(why)
        finished = Finished(self.folder.path, self._done, why, self.folder.weights("last"), self.folder.report)
        self._tell(finished)
        return finished

    def _tell(self, event: Event | Stepped) -> None:
        if self.processes.first:
            self._notify(event)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
