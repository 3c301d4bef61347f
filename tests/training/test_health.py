"""The health gauge on made-up runs: their numbers are those of real runs of tiny networks, with noise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from upscaler.model.evaluation import Scores
from upscaler.training.health import QUIET, Gauge
from upscaler.training.readings import Alarm, Reading, Validated

Values = dict[str, float]
Fault = Values | Callable[[Values, int], Values]
"""What takes the place of numbers of a healthy reading; the count of readings since the fault began is from 1."""

KINDS = ("standard", "relativistic", "relativistic-average", "lsgan", "hinge", "wgan")
GUESS = {"relativistic": math.log(2), "relativistic-average": math.log(2), "standard": 2 * math.log(2)}


def healthy(kind: str | None, count: int, *, seed: int = 0, weak: bool = False) -> Iterator[Values]:
    """The readings of a run without faults.

    Args:
        kind: of the adversarial loss.
        count: of readings.
        seed: of the noise.
        weak: the discriminator is hardly better than guessing, as with spectral norm, or else much better, as with
            batch norm.
    """
    random = np.random.default_rng(seed)

    def noisy(value: float, sigma: float = 0.1) -> float:
        return float(value * math.exp(sigma * random.standard_normal()))

    for number in range(count):
        values = {
            "loss/pixel": (pixel := noisy(0.05 * (1 + 3 * 0.5**number))),
            "loss/generator": pixel,
            "gradient/generator": noisy(0.2, 0.5),
            "gradient/generator_first": noisy(0.02, 0.5),
            "gradient/generator_last": noisy(0.1, 0.5),
            "weight/generator": 0.05 + 1e-5 * number,
            "weight/generator_first": 0.1 + 1e-5 * number,
            "weight/generator_last": min(0.01 * (1 + number), 0.15) + 1e-5 * number,
            "picture_gradient/pixel": noisy(4.5e-5),
            "rate/generator": 1e-4,
            "speed/steps_per_second": 10.0,
        }
        values |= {f"colour/{name}": float(random.normal(0, 1.5)) for name in ("red", "green", "blue")}
        if kind:
            values |= _of_discriminator(kind, number, noisy, random, weak=weak)
        yield values


def _of_discriminator(
    kind: str, number: int, noisy: Callable[..., float], random: np.random.Generator, *, weak: bool
) -> Values:
    gap = noisy(0.15 if weak else 6.0, 0.3)
    level = float(random.normal(0, 0.2)) if kind in ("standard", "lsgan", "hinge") else -10.0 - min(number, 20)
    real, fake = level + gap / 2, level - gap / 2
    strong = noisy(0.008, 0.8)
    loss = {
        "lsgan": noisy(0.48 if weak else 0.05),
        "hinge": noisy(1.85 if weak else 0.05),
        "wgan": fake - real,
    }.get(kind, GUESS.get(kind, 0.0) * (0.95 + 0.04 * float(random.random()) if weak else strong))
    if kind == "lsgan":
        real, fake = (0.56, 0.44) if weak else (0.9, 0.1)
    # Gradients of a strong discriminator differ by a factor of thousands from batch to batch.
    gradient = noisy(1.0, 1.0 if weak else 2.0)
    return {
        "loss/feature": noisy(1.0),
        "loss/adversarial": noisy(0.02, 0.4),
        "loss/discriminator": loss,
        "output/real": real,
        "output/fake": fake,
        "output/largest": max(abs(real), abs(fake)) * 2,
        "gradient/discriminator": gradient,
        "gradient/discriminator_first": gradient * noisy(0.3, 0.3),
        "gradient/discriminator_last": gradient * noisy(0.1, 0.5),
        "weight/discriminator": 0.033 + 1e-5 * number,
        "weight/discriminator_first": 0.11 + 1e-5 * number,
        "weight/discriminator_last": 0.09 + 1e-3 * number,
        "picture_gradient/feature": noisy(0.04),
        "picture_gradient/adversarial": noisy((2e-5 if number < 4 else 2e-3) if weak else 0.03, 0.3),
        "rate/discriminator": 1e-4,
    }


def alarms(gauge: Gauge, readings: Iterator[Values] | list[Values]) -> dict[str, list[int]]:
    """The readings, from 0, at which each fault was told."""
    told: dict[str, list[int]] = {}
    for number, values in enumerate(readings):
        for alarm in gauge.check(Reading("gan", 50 * number, values)):
            told.setdefault(alarm.fault, []).append(number)
    return told


def ill(kind: str | None, fault: Fault, *, start: int = 8, count: int = 20, weak: bool = False) -> list[Values]:
    readings = list(healthy(kind, count, weak=weak))
    for number, values in enumerate(readings[start:], 1):
        values |= fault(values, number) if callable(fault) else fault
    return readings


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_nothing(kind: str | None, weak: bool, seed: int) -> None:
    assert alarms(Gauge(adversarial=kind), healthy(kind, 100, seed=seed, weak=weak)) == {}


NAN: Values = {"loss/pixel": math.nan, "loss/generator": math.nan, "gradient/generator": math.nan}
DETACHED_STANDARD: Values = {
    "loss/discriminator": 13.0,
    "output/real": 13.0,
    "output/fake": 13.1,
    "gradient/discriminator": 4e-4,
    "picture_gradient/adversarial": 1e-8,
}
CUT: Values = {"gradient/discriminator_first": 0.0}
NO_GRADIENT: Values = {
    "gradient/discriminator": 0.0,
    "gradient/discriminator_first": 0.0,
    "gradient/discriminator_last": 0.0,
    "loss/discriminator": 1.5,
}
FROZEN: Values = {"weight/discriminator": 0.033, "weight/discriminator_first": 0.11, "weight/discriminator_last": 0.09}
FROZEN_GENERATOR: Values = {"weight/generator": 0.05, "weight/generator_first": 0.1, "weight/generator_last": 0.02}
OUTPUTS: Values = {"output/largest": 150.0}
SWAPPED: Values = {"loss/discriminator": 0.02, "output/real": -4.0, "output/fake": 5.0}
BOTH_REAL: Values = {"loss/discriminator": 0.01, "output/real": 6.0, "output/fake": 6.0}
SATURATED: Values = {"loss/discriminator": 1e-5, "output/real": 12.0, "output/fake": -12.0}
GUESSING: Values = {"loss/discriminator": 0.6931, "output/real": 0.012, "output/fake": 0.011}
NO_ADVERSARIAL: Values = {"picture_gradient/adversarial": 0.0}
DOMINANT: Values = {"picture_gradient/adversarial": 100.0}


def detached(_: Values, number: int) -> Values:
    """Only real pictures reach a relativistic discriminator: both outputs rise together."""
    return {"loss/discriminator": 0.78, "output/real": 12.0 * number, "output/fake": 12.0 * number + 0.1}


def fading(values: Values, _: int) -> Values:
    return {"gradient/discriminator_first": values["gradient/discriminator_last"] * 1e-4}


def rate(_: Values, number: int) -> Values:
    """A learning rate 1000 times too large."""
    return {"weight/discriminator": 0.5 + 0.01 * number, "output/largest": 30.0 * number}


def exploding(_: Values, number: int) -> Values:
    return {"weight/generator_last": 0.21 * 1.2 ** min(number, 10)}


def tinted(values: Values, _: int) -> Values:
    return {"colour/red": values["colour/red"] + 15, "colour/blue": values["colour/blue"] - 4}


def diverged(values: Values, _: int) -> Values:
    return {"loss/pixel": values["loss/pixel"] * 6}


@pytest.mark.parametrize(
    ("kind", "fault", "name", "within", "severe"),
    [
        (None, NAN, "nan", 1, True),
        ("relativistic-average", NAN, "nan", 1, True),
        ("relativistic-average", detached, "one-sided discriminator", 3, True),
        ("standard", DETACHED_STANDARD, "one-sided discriminator", 3, True),
        ("standard", CUT, "no gradient in the discriminator", 3, True),
        ("hinge", NO_GRADIENT, "no gradient in the discriminator", 3, True),
        ("standard", fading, "vanishing gradient in the discriminator", 3, False),
        ("wgan", FROZEN, "frozen discriminator", 3, True),
        (None, FROZEN_GENERATOR, "frozen generator", 3, True),
        ("relativistic-average", rate, "growing weights in the discriminator", 1, True),
        (None, exploding, "growing weights in the generator", 6, True),
        ("relativistic-average", OUTPUTS, "large outputs", 2, False),
        *((kind, SWAPPED, "swapped labels", 3, True) for kind in KINDS if kind != "wgan"),
        ("wgan", SWAPPED | {"loss/discriminator": -9.0}, "swapped labels", 3, True),
        ("standard", BOTH_REAL, "swapped labels", 3, True),
        ("relativistic-average", SATURATED, "saturated discriminator", 3, False),
        ("relativistic", GUESSING, "discriminator not learning", 13, False),
        ("relativistic-average", NO_ADVERSARIAL, "no adversarial gradient", 3, True),
        ("relativistic-average", DOMINANT, "dominant adversarial loss", 13, False),
        (None, tinted, "colour tint in patches", 5, False),
        (None, diverged, "divergence", 3, True),
        ("relativistic-average", diverged, "divergence", 3, True),
    ],
)
def test_a_fault_is_told_once_and_soon(kind: str | None, fault: Fault, name: str, within: int, severe: bool) -> None:
    start, gauge, told = 8, Gauge(adversarial=kind), list[tuple[int, Alarm]]()
    for number, values in enumerate(ill(kind, fault, start=start, count=25)):
        told += [(number, alarm) for alarm in gauge.check(Reading("gan", 50 * number, values))]
    assert min(number for number, _ in told) >= start
    ((first, alarm),) = [each for each in told if each[1].fault == name]
    assert first < start + within
    assert alarm.severe == severe
    assert alarm.step == 50 * first
    assert any(character.isdigit() for character in alarm.seen) or name == "no adversarial gradient"
    assert alarm.advice


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (detached, "one-sided discriminator"),
        (FROZEN, "frozen discriminator"),
        (rate, "growing weights in the discriminator"),
        (SWAPPED, "swapped labels"),
        (NAN, "nan"),
        (NO_ADVERSARIAL, "no adversarial gradient"),
    ],
)
def test_a_fault_that_was_there_from_the_start_is_told_by_the_fifth_reading(fault: Fault, name: str) -> None:
    readings = ill("relativistic-average", fault, start=0, count=5)
    assert alarms(Gauge(adversarial="relativistic-average"), readings)[name][0] < 5


def test_discriminators_that_lose_for_a_moment_are_no_fault() -> None:
    def losing(_: Values, number: int) -> Values:
        bad = {"loss/discriminator": 1.6, "output/real": -0.2, "output/fake": 0.4}
        return bad if number % 3 else {}

    assert alarms(Gauge(adversarial="standard"), ill("standard", losing, weak=True)) == {}


def test_a_discriminator_is_given_time() -> None:
    readings = ill("relativistic", GUESSING, start=0)
    gauge = Gauge(adversarial="relativistic")
    assert not any(gauge.check(Reading("gan", 5 * number, values)) for number, values in enumerate(readings))


def test_a_gradient_that_was_not_measured_is_no_fault() -> None:
    """With discriminator.every=3 it is not updated in most of the steps that are looked at."""
    readings = list(healthy("relativistic-average", 30))
    kept = [{k: v for k, v in values.items() if "gradient/discriminator" not in k} for values in readings]
    assert alarms(Gauge(adversarial="relativistic-average"), kept) == {}


def test_a_discriminator_between_two_updates_is_not_frozen() -> None:
    readings = ill("relativistic-average", FROZEN)
    kept = [{k: v for k, v in values.items() if k not in ("loss/discriminator", "output/real")} for values in readings]
    assert alarms(Gauge(adversarial="relativistic-average"), kept) == {}


def test_one_overflow_of_fp16_gradients_is_no_fault_and_two_in_a_row_are() -> None:
    readings = list(healthy(None, 12))
    for number in (4, 8, 9):
        readings[number]["gradient/generator"] = math.inf
    assert alarms(Gauge(adversarial=None), readings) == {"nan": [9]}


def test_a_network_whose_learning_rate_has_come_to_its_end_may_stand_still() -> None:
    assert alarms(Gauge(adversarial=None), ill(None, FROZEN_GENERATOR | {"rate/generator": 1e-9})) == {}


def test_last_layers_may_grow_from_nearly_nothing() -> None:
    readings = list(healthy(None, 20))
    for number, values in enumerate(readings):
        values["weight/generator_last"] = min(1e-4 * 1.8**number, 0.15)
    assert alarms(Gauge(adversarial=None), readings) == {}


def test_evenness_that_begins_at_nothing_may_grow() -> None:
    readings = list(healthy("relativistic-average", 20))
    for number, values in enumerate(readings):
        values["loss/evenness"] = 1e-6 + 1e-4 * number
    assert alarms(Gauge(adversarial="relativistic-average"), readings) == {}


def test_colours_on_their_way_back_are_no_tint() -> None:
    readings = list(healthy(None, 12))
    for number, values in enumerate(readings):
        values["colour/red"] = 60 * 0.8**number
    assert alarms(Gauge(adversarial=None), readings) == {}


def test_brightness_alone_is_no_tint() -> None:
    brighter: Values = {"colour/red": 8.0, "colour/green": 8.5, "colour/blue": 7.0}
    assert alarms(Gauge(adversarial=None), ill(None, brighter)) == {}


def test_a_fault_is_told_again_after_it_was_gone() -> None:
    pauses = [False] * 8 + [True] * 4 + [False] * (QUIET - 1) + [True] * 4 + [False] * QUIET + [True] * 4
    readings = list(healthy(None, len(pauses)))
    for values, on in zip(readings, pauses, strict=True):
        if on:
            values["loss/pixel"] = math.inf
    last = len(pauses) - 4
    assert alarms(Gauge(adversarial=None), readings) == {"nan": [8, last]}


def test_a_fault_is_told_again_when_it_is_ten_times_worse() -> None:
    readings = ill("relativistic-average", lambda _, number: {"output/largest": 110.0 * 1.5**number}, count=16)
    gauge = Gauge(adversarial="relativistic-average")
    found = [alarm for values in readings for alarm in gauge.check(Reading("gan", 0, values))]
    assert [alarm.severe for alarm in found if alarm.fault == "large outputs"] == [False, True]


@pytest.mark.parametrize("fault", [detached, NAN, SATURATED, diverged, fading, GUESSING])
def test_a_resumed_gauge_raises_the_same_alarms(fault: Fault) -> None:
    kind = "relativistic-average"
    events = [Reading("gan", 50 * n, values) for n, values in enumerate(ill(kind, fault, count=30))]
    whole, resumed = Gauge(adversarial=kind), Gauge(adversarial=kind)
    for event in events:
        state = json.loads(json.dumps(resumed.state(), allow_nan=False))
        resumed = Gauge(adversarial=kind)
        resumed.restore(state)
        assert whole.check(event) == resumed.check(event)
    assert whole.state() == resumed.state()


def test_it_knows_since_when_something_severe_is_there() -> None:
    """Of what is seen now, told severe, by the state of a resumed gauge too."""
    kind = "relativistic-average"
    growing = [110.0, 110.0, 1150.0, 1200.0, 6.0, 1200.0] + [6.0] * QUIET + [1200.0]
    expected = [None, None, 100, 100, None, 100] + [None] * QUIET + [550]
    gauge, readings = Gauge(adversarial=kind), list(healthy(kind, len(growing)))
    for number, largest in enumerate(growing):
        gauge.check(Reading("gan", 50 * number, readings[number] | {"output/largest": largest}))
        assert gauge.severe_since == expected[number], number
        state = json.loads(json.dumps(gauge.state(), allow_nan=False))
        gauge = Gauge(adversarial=kind)
        gauge.restore(state)
        assert gauge.severe_since == expected[number], number


def test_a_state_of_before_is_read() -> None:
    gauge = Gauge(adversarial=None)
    alarms(gauge, ill(None, NAN))
    state = gauge.state()
    del state["readings"]["severe"]
    gauge.restore(state)
    assert gauge.severe_since is None


def test_a_state_is_small() -> None:
    gauge = Gauge(adversarial="relativistic-average")
    alarms(gauge, healthy("relativistic-average", 200))
    assert len(json.dumps(gauge.state())) < 30_000


def test_a_state_does_not_change_with_its_gauge() -> None:
    gauge = Gauge(adversarial=None)
    alarms(gauge, healthy(None, 5))
    state = gauge.state()
    before = json.dumps(state)
    alarms(gauge, healthy(None, 5))
    assert json.dumps(state) == before


BICUBIC = Scores(26.0, 0.75, 24.5, 0.74, 6.0, 0.3, 0.3, (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))


def validations(kind: str | None, scores: list[Scores]) -> list[tuple[int, str, bool]]:
    gauge = Gauge(adversarial=kind)
    events = [Validated("gan", n, each, BICUBIC, (), False) for n, each in enumerate(scores)]
    return [(n, alarm.fault, alarm.severe) for n, event in enumerate(events) for alarm in gauge.check(event)]


def with_psnr(*psnr: float) -> list[Scores]:
    return [replace(BICUBIC, psnr_y=each) for each in psnr]


def test_psnr_that_falls_as_far_as_gans_make_it_fall_is_no_fault() -> None:
    assert validations("relativistic-average", with_psnr(28.0, 26.2, 24.5, 23.9, 24.1)) == []
    assert validations(None, with_psnr(20.0, 27.1, 27.9, 27.5, math.inf, 28.0)) == []


def test_lost_psnr_is_told() -> None:
    assert validations(None, with_psnr(27.0, 28.0, 26.4, 26.3)) == [(2, "lost PSNR", True)]
    assert validations("relativistic-average", with_psnr(27.0, 20.5)) == [(1, "lost PSNR", True)]


def test_a_tint_of_two_validations_is_told() -> None:
    wrong = replace(BICUBIC, shift=(7.0, -1.0, 0.5))
    assert validations("standard", [BICUBIC, wrong, BICUBIC, wrong, wrong]) == [
        (4, "colour tint in validation pictures", False)
    ]


def test_a_validation_that_is_no_number_is_told() -> None:
    assert validations(None, [replace(BICUBIC, psnr_y=math.nan)]) == [(0, "nan", True)]


def test_grey_validations_have_no_tint() -> None:
    assert validations(None, [replace(BICUBIC, shift=(9.0,))] * 3) == []
