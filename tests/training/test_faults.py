"""Faults planted into real runs: the gauge tells each of them soon, and is silent about healthy runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from upscaler.errors import UserError
from upscaler.model.weights import load_weights
from upscaler.training import loop, steps
from upscaler.training.layering import load_config
from upscaler.training.learners import Learner
from upscaler.training.losses import discriminator_loss
from upscaler.training.orders import OnAlarm, Order
from upscaler.training.readings import Alarm, Event, Finished, RolledBack, Stepped, Validated
from upscaler.training.runs import RunFolder
from upscaler.training.session import train
from upscaler.training.shards import PreparedSet
from upscaler.training.stabilisers import Labels
from upscaler.training.steps import Steps
from upscaler.training.validation import ValidationSet

READINGS = 10
"""Steps between readings."""
BEGIN = 20
"""Steps for PSNR before the GAN."""

SETTINGS = [
    "network.settings.features=8",
    "network.settings.convolutions=1",
    "data.patch=32",
    "data.batch=8",
    "data.workers=0",
    "discriminator.features=8",
    f"records.readings={READINGS}",
    "records.checkpoints=20",
    "records.keep=100",
    "validation.every=0",
    f"psnr.iterations={BEGIN}",
    "gan.iterations=100",
    "gan.generator.schedule=constant",
    "gan.discriminator.schedule=constant",
    "gan.discriminator.learning_rate=1e-3",
    "gan.losses.adversarial_weight=1e-2",
]
KINDS = {
    "relativistic average, batch norm": [
        "gan.losses.adversarial=relativistic-average",
        "gan.discriminator.norm=batch",
    ],
    "standard, spectral norm": ["gan.losses.adversarial=standard", "gan.discriminator.norm=spectral"],
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "write_report", lambda folder, *_: folder.report)


@pytest.fixture(params=list(KINDS))
def settings(request: pytest.FixtureRequest) -> list[str]:
    return [*SETTINGS, *KINDS[request.param]]


def run(
    data: PreparedSet, folder: Path, settings: list[str], on_alarm: OnAlarm = "warn"
) -> tuple[Finished, list[Event | Stepped]]:
    events: list[Event | Stepped] = []
    order = Order(
        load_config("quick", settings=settings), RunFolder(folder), data, None, torch.device("cpu"), None, on_alarm
    )
    finished = train(order, init=None, resume=False, notify=events.append, warn=lambda _: None)
    return finished, events


def alarms(events: list[Event | Stepped]) -> list[Alarm]:
    return [event for event in events if isinstance(event, Alarm)]


def detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator learns from real pictures alone."""

    def wrong(kind: Any, real: Tensor, fake: Tensor, *rest: Any) -> Tensor:
        return discriminator_loss(kind, real, fake.detach(), *rest)

    monkeypatch.setattr(steps, "discriminator_loss", wrong)


def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator's optimiser never moves it."""
    finish = Learner.finish

    def wrong(self: Learner) -> None:
        if self.network is self.forward:
            finish(self)

    monkeypatch.setattr(Learner, "finish", wrong)


def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real pictures are labelled generated, and the other way round."""
    real, fake = Labels.real, Labels.fake
    monkeypatch.setattr(Labels, "real", fake)
    monkeypatch.setattr(Labels, "fake", real)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's adversarial loss passes no gradient."""
    terms = Steps._terms

    def wrong(self: Steps, *arguments: Any) -> dict[str, Tensor]:
        found = terms(self, *arguments)
        return {name: term.detach() if name == "adversarial" else term for name, term in found.items()}

    monkeypatch.setattr(Steps, "_terms", wrong)


def broken(at: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A batch whose LR pictures are NaN, at a step of the GAN."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        parts = Steps._parts

        def wrong(self: Steps, batch: Any) -> Any:
            for real, lr, seeds in parts(self, batch):
                bad = self.discriminator is not None and self.step == at and self.rate_factor == 1
                yield real, lr * float("nan") if bad else lr, seeds

        monkeypatch.setattr(Steps, "_parts", wrong)

    return plant


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], list[str], set[str]]] = {
    "detach": (detached, [], {"one-sided discriminator", "vanishing gradient in the discriminator"}),
    "frozen": (frozen, [], {"frozen discriminator"}),
    "rate x1000": (lambda _: None, ["gan.discriminator.learning_rate=1.0"], {"growing weights in the discriminator"}),
    "labels": (swapped, [], {"swapped labels"}),
    "no gradient": (blind, [], {"no adversarial gradient"}),
    "nan batch": (broken(35), [], {"nan"}),
}


def test_healthy_runs_raise_nothing(tiny_set: PreparedSet, tmp_path: Path, settings: list[str]) -> None:
    finished, events = run(tiny_set, tmp_path / "run", settings)
    assert alarms(events) == []
    assert finished.why == "complete"


@pytest.mark.parametrize(("plant", "also", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults_are_told(
    plant: Callable[[pytest.MonkeyPatch], None],
    also: list[str],
    expected: set[str],
    tiny_set: PreparedSet,
    tmp_path: Path,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    _, events = run(tiny_set, tmp_path / "run", [*settings, *also])
    told = alarms(events)
    assert told, "nothing was told"
    assert told[0].fault in expected, [alarm.fault for alarm in told]
    assert any(alarm.severe for alarm in told)
    print(f"{told[0].fault} at reading {(told[0].step - BEGIN) // READINGS} of the GAN: {told[0].seen}")


def test_after_a_rollback_the_run_goes_on_otherwise(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(65)(monkeypatch)
    finished, events = run(tiny_set, tmp_path / "run", SETTINGS, "rollback")
    back = [event for event in events if isinstance(event, RolledBack)]
    # The NaN is told at the reading of step 90; five readings before that things were well for certain.
    assert back == [RolledBack(90, 40, 1, 0.5)]
    assert finished.why == "complete"
    weights = load_weights(finished.weights)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.tensors.values())


def test_a_fault_that_comes_back_ends_the_run(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped(monkeypatch)
    settings = [*SETTINGS, *KINDS["standard, spectral norm"], "gan.iterations=300"]
    finished, events = run(tiny_set, tmp_path / "run", settings, "rollback")
    assert len([event for event in events if isinstance(event, RolledBack)]) == 3
    assert finished.why == "alarm"


class Killed(BaseException):
    """What comes over a run."""


@pytest.fixture
def interrupted(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Finished, list[Event | Stepped]]]:
    """Runs whose discriminator's weights explode at step 85, which end by that alarm or are killed much later.

    They are resumed to be rolled back.
    """
    make = Steps.make

    def exploding(self: Steps, *arguments: Any, **named: Any) -> None:
        if self.discriminator is not None and self.step == 65 and self.rate_factor == 1:
            torch._foreach_mul_([p.detach() for p in self.discriminator.network.parameters()], 100.0)
        make(self, *arguments, **named)

    monkeypatch.setattr(Steps, "make", exploding)

    def go(on_alarm: OnAlarm, settings: list[str]) -> tuple[Finished, list[Event | Stepped]]:
        def kill(event: Event | Stepped) -> None:
            if event.step == 185:
                raise Killed

        events: list[Event | Stepped] = []
        config, folder = load_config("quick", settings=settings), RunFolder(tmp_path / "interrupted")
        order = Order(config, folder, tiny_set, None, torch.device("cpu"), None, on_alarm)
        with suppress(Killed):
            train(order, init=None, resume=False, notify=kill, warn=lambda _: None)
        order = replace(order, on_alarm="rollback")
        return train(order, init=None, resume=True, notify=events.append, warn=lambda _: None), events

    return go


LONG = [*SETTINGS, "gan.iterations=200"]


@pytest.mark.parametrize(("on_alarm", "seen_again"), [("stop", 100), ("warn", 190)])
def test_a_run_that_is_resumed_ill_goes_back_to_where_it_was_well(
    on_alarm: OnAlarm,
    seen_again: int,
    interrupted: Callable[..., tuple[Finished, list[Event | Stepped]]],
    tiny_set: PreparedSet,
    tmp_path: Path,
) -> None:
    """And ends as one that went back at once: the fault is told at step 90, however long it has been there since."""
    whole, events = run(tiny_set, tmp_path / "whole", LONG, "rollback")
    assert [event for event in events if isinstance(event, RolledBack)] == [RolledBack(90, 40, 1, 0.5)]
    resumed, events = interrupted(on_alarm, LONG)
    assert [event for event in events if isinstance(event, RolledBack)] == [RolledBack(seen_again, 40, 1, 0.5)]
    assert resumed.why == "complete"
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


def test_a_run_that_was_well_at_no_checkpoint_is_not_rolled_back_for_ever(
    interrupted: Callable[..., tuple[Finished, list[Event | Stepped]]],
) -> None:
    finished, events = interrupted("warn", [*LONG, "records.keep=1"])
    assert [event.to for event in events if isinstance(event, RolledBack)] == [180] * 3
    assert (finished.why, finished.step) == ("alarm", 190)


def test_a_severe_alarm_can_stop_the_run(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(35)(monkeypatch)
    finished, _ = run(tiny_set, tmp_path / "run", SETTINGS, "stop")
    assert (finished.why, finished.step) == ("alarm", 60)
    # What is left are the weights of the last time when all was well.
    assert load_weights(finished.weights).metadata["stage"].startswith("gan, 20 of")


def test_a_run_that_only_makes_nan_keeps_its_first_weights(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(0)(monkeypatch)
    finished, _ = run(tiny_set, tmp_path / "run", SETTINGS)
    load_weights(finished.weights)
    with pytest.raises(UserError, match="cannot read"):
        load_weights(RunFolder(tmp_path / "run").weights("gan"))


@pytest.mark.parametrize("readings", [2, 4])
def test_a_fault_of_the_pictures_alone_is_acted_on(
    readings: int, tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not numbers are read at the same step."""
    measure, count = ValidationSet.measure, iter(range(100))

    def worse(self: ValidationSet, upscaler: Any) -> Any:
        scores, bicubic, samples = measure(self, upscaler)
        lost = replace(scores, psnr_y=5.0) if next(count) else scores
        return lost, bicubic, samples

    monkeypatch.setattr(ValidationSet, "measure", worse)
    settings = [*SETTINGS, "psnr.iterations=12", "validation.every=3", f"records.readings={readings}"]
    finished, events = run(tiny_set, tmp_path / "run", settings, "stop")
    assert [alarm.fault for alarm in alarms(events)] == ["lost PSNR"]
    assert (finished.why, finished.step) == ("alarm", 6)


@pytest.mark.parametrize("on_alarm", ["warn", "stop"])
def test_weights_that_overflow_pictures_end_the_run_with_a_report(
    on_alarm: OnAlarm, tiny_set: PreparedSet, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "generator.learning_rate=1e11", "generator.warmup=0", "validation.every=1"]
    finished, events = run(tiny_set, tmp_path / "run", settings, on_alarm)
    assert {"nan", "growing weights in the generator"} & {alarm.fault for alarm in alarms(events)}
    assert finished.why == "alarm"
    load_weights(finished.weights)


def test_a_rollback_outlives_a_kill(tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(event: Event | Stepped) -> None:
        if isinstance(event, Stepped) and event.step == 45 and any(isinstance(each, RolledBack) for each in told):
            raise Killed
        told.append(event)

    broken(65)(monkeypatch)
    whole, _ = run(tiny_set, tmp_path / "whole", SETTINGS, "rollback")
    told: list[Event | Stepped] = []
    folder = tmp_path / "killed"
    order = Order(
        load_config("quick", settings=SETTINGS),
        RunFolder(folder),
        tiny_set,
        None,
        torch.device("cpu"),
        None,
        "rollback",
    )
    with pytest.raises(Killed):
        train(order, init=None, resume=False, notify=kill, warn=lambda _: None)
    resumed = train(order, init=None, resume=True, notify=lambda _: None, warn=lambda _: None)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


def test_after_a_rollback_the_best_is_that_of_before(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [20.0, 30.0, 29.0, 29.0, 29.0, 29.0, 31.0])
    broken(65)(monkeypatch)
    settings = [*SETTINGS, "records.checkpoints=10", "records.keep=5"]
    settings += ["gan.validation.best=psnr", "gan.validation.every=10"]
    _, events = run(tiny_set, tmp_path / "run", settings, "rollback")
    assert [event.to for event in events if isinstance(event, RolledBack)] == [40]
    best = [event.step for event in events if isinstance(event, Validated) and event.best]
    assert best == [20, 30, 80], "that of 80 was undone, and nothing later is better than that of 30"
    assert load_weights(RunFolder(tmp_path / "run").weights("best")).metadata["stage"] == "gan, 10 of 100 steps"


def test_a_rollback_to_before_the_first_validation_of_a_stage_leaves_no_best(
    tiny_set: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(65)(monkeypatch)
    make, best = Steps.make, RunFolder(tmp_path / "run").weights("best")
    seen = []

    def watched(self: Steps, *arguments: Any, **named: Any) -> None:
        if self.discriminator is not None and self.step in (20, 60):
            seen.append((self.step, best.exists()))
        make(self, *arguments, **named)

    monkeypatch.setattr(Steps, "make", watched)
    run(tiny_set, tmp_path / "run", [*SETTINGS, "gan.validation.every=60"], "rollback")
    assert seen == [(20, True), (60, True), (20, False), (60, True)], "the first is that of the stage before"


def scored(monkeypatch: pytest.MonkeyPatch, first: list[float]) -> None:
    """Validation finds these PSNR first, and then 29 dB."""
    measure, scores = ValidationSet.measure, iter(first)

    def given(self: ValidationSet, upscaler: Any) -> Any:
        found, bicubic, samples = measure(self, upscaler)
        return replace(found, psnr_y=next(scores, 29.0)), bicubic, samples

    monkeypatch.setattr(ValidationSet, "measure", given)
