"""The health gauge: it reads a run's numbers as they come and says what is wrong, once, in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from upscaler.training.readings import Alarm, Reading, Validated
from upscaler.training.rivalry import (
    large_outputs,
    lost_gradient,
    no_adversarial_gradient,
    not_learning,
    one_sided,
    saturated,
    swapped_labels,
)
from upscaler.training.symptoms import (
    broken_numbers,
    diverged,
    dominant_loss,
    frozen,
    growing_weights,
    lost_psnr,
    no_gradient,
    tinted_patches,
    tinted_pictures,
    vanishing_gradient,
)
from upscaler.training.traces import Finding, Trace

Symptom = Callable[[Trace], Finding | None]

SYMPTOMS: tuple[Symptom, ...] = (
    large_outputs,
    growing_weights,
    frozen,
    no_gradient,
    lost_gradient,
    vanishing_gradient,
    one_sided,
    swapped_labels,
    saturated,
    not_learning,
    no_adversarial_gradient,
    dominant_loss,
    tinted_patches,
    diverged,
)
"""Looked for in every reading."""

VALIDATION_SYMPTOMS: tuple[Symptom, ...] = (lost_psnr, tinted_pictures)
"""Looked for in every validation."""

QUIET = 5
"""Readings without a fault after which it counts as gone, and is told again when it comes back: GAN losses
oscillate, and a number that crosses a threshold to and fro is one fault."""

WORSE = 10.0
"""A fault is told again when it is this many times as large as when it was told last."""


class Gauge:
    """Watches one stage of a run.

    It needs nothing but what ``check`` was given so far, so a run that is resumed with its ``state`` raises
    the same alarms at the same steps as one that was never interrupted.

    Args:
        adversarial: the kind of the adversarial loss, see ``losses.discriminator_loss``; None in a stage
            without a discriminator.
    """

    def __init__(self, *, adversarial: str | None) -> None:
        self._readings = _Watch(Trace(adversarial), SYMPTOMS)
        self._validations = _Watch(Trace(adversarial), VALIDATION_SYMPTOMS)

    def check(self, event: Reading | Validated) -> list[Alarm]:
        """The faults that began, came back or grew much worse with this event, none most of the time."""
        if isinstance(event, Reading):
            findings = self._readings.look(event.step, event.values)
        else:
            findings = self._validations.look(event.step, _scores(event))
        return [
            Alarm(event.stage, event.step, finding.fault, finding.seen, finding.advice, finding.severe)
            for finding in findings
        ]

    @property
    def severe_since(self) -> int | None:
        """The step at which the first of the severe faults that are seen now was told; None where there are none."""
        return min((*self._readings.severe(), *self._validations.severe()), default=None)

    def state(self) -> dict[str, Any]:
        """What ``restore`` takes, of types that JSON knows."""
        return {"readings": self._readings.state(), "validations": self._validations.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another gauge of the same stage was."""
        self._readings.restore(state["readings"])
        self._validations.restore(state["validations"])


class _Watch:
    """One kind of event: its trace, the symptoms looked for, and what was told already."""

    def __init__(self, trace: Trace, symptoms: Sequence[Symptom]) -> None:
        self._trace, self._symptoms = trace, symptoms
        self._began: dict[str, int] = {}
        """The step at which each fault was first seen, of those that have been seen ever since."""
        self._told: dict[str, float] = {}
        """How large each fault was when it was told last, of those that are not gone."""
        self._quiet: dict[str, int] = {}
        """For how many events each of them has not been seen."""
        self._severe: dict[str, int] = {}
        """The step at which each of them was first told as severe, of those that were."""

    def look(self, step: int, values: Mapping[str, float]) -> list[Finding]:
        """What is new about a further event."""
        self._trace.add(values)
        broken = broken_numbers(self._trace)
        # Where numbers are no numbers the others mean nothing, and one alarm says it all.
        findings = [broken] if broken else [found for symptom in self._symptoms if (found := symptom(self._trace))]
        self._began = {each.fault: self._began.get(each.fault, step) for each in findings}
        seen = {each.fault: each for each in findings if step - self._began[each.fault] >= each.patience}
        news = [each for each in seen.values() if each.size >= WORSE * self._told.get(each.fault, 0.0)]
        self._told |= {each.fault: each.size for each in news}
        self._severe = {each.fault: step for each in news if each.severe} | self._severe
        self._quiet = {fault: 0 if fault in seen else self._quiet[fault] + 1 for fault in self._told}
        for fault in [fault for fault, count in self._quiet.items() if count >= QUIET]:
            del self._told[fault], self._quiet[fault]
            self._severe.pop(fault, None)
        return news

    def severe(self) -> list[int]:
        """When the severe faults of the last event were told."""
        return [step for fault, step in self._severe.items() if not self._quiet[fault]]

    def state(self) -> dict[str, Any]:
        return {
            "trace": self._trace.state(),
            "began": dict(self._began),
            "told": dict(self._told),
            "quiet": dict(self._quiet),
            "severe": dict(self._severe),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._trace.restore(state["trace"])
        self._began, self._told, self._quiet = dict(state["began"]), dict(state["told"]), dict(state["quiet"])
        self._severe = dict(state.get("severe", {}))  # older checkpoints do not tell


def _scores(event: Validated) -> dict[str, float]:
    """The numbers of a validation by name; an infinite PSNR, of equal pictures, is none to watch."""
    scores = event.scores
    values = {"psnr": scores.psnr_y, "ssim": scores.ssim_y}
    if len(scores.shift) == 3:
        values |= {f"colour/{name}": shift for name, shift in zip(("red", "green", "blue"), scores.shift, strict=True)}
    return {name: value for name, value in values.items() if value != math.inf}
