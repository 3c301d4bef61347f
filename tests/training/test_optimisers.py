from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from upscaler.training.config import Optimiser
from upscaler.training.layering import load_config
from upscaler.training.optimisers import build_optimiser, learning_rate, set_rate


def _settings(**changes: Any) -> Optimiser:
    return replace(load_config("psnr").stages[0].generator, **{"schedule": "constant"} | changes)


def test_constant() -> None:
    assert [learning_rate(_settings(learning_rate=0.3), progress) for progress in (0, 0.5, 0.99)] == [0.3] * 3


def test_multistep_multiplies_from_each_milestone_on() -> None:
    settings = _settings(schedule="multistep", learning_rate=8.0, milestones=[0.25, 0.5, 0.75], factor=0.5)
    rates = [learning_rate(settings, step / 8) for step in range(8)]
    assert rates == [8, 8, 4, 4, 2, 2, 1, 1]


@pytest.mark.parametrize("step", range(0, 100, 7))
def test_cosine(step: int) -> None:
    settings = _settings(schedule="cosine", learning_rate=0.2)
    assert learning_rate(settings, step / 100) == pytest.approx(0.2 * (1 + cos(pi * step / 100)) / 2)


@pytest.mark.parametrize("step", range(0, 300, 11))
def test_cosine_with_restarts_and_least(step: int) -> None:
    """Three cycles of 100 steps each, from 0.2 to a tenth of it."""
    settings = _settings(schedule="cosine", learning_rate=0.2, restarts=2, least=0.1)
    expected = 0.02 + (0.2 - 0.02) * (1 + cos(pi * (step % 100) / 100)) / 2
    assert learning_rate(settings, step / 300) == pytest.approx(expected)


def test_the_end_of_a_cosine() -> None:
    settings = _settings(schedule="cosine", learning_rate=1.0, least=0.25)
    assert learning_rate(settings, 1 - 1e-9) == pytest.approx(0.25)
    assert learning_rate(settings, 0.5) == pytest.approx(0.625)


@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine"])
def test_warm_up_rises_evenly_from_nothing(schedule: str) -> None:
    settings = _settings(schedule=schedule, learning_rate=0.4, warmup=0.2, milestones=[0.1], factor=0.5)
    rates = [learning_rate(settings, progress) for progress in (0, 0.05, 0.1, 0.15)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    without = replace(settings, warmup=0.0)
    assert learning_rate(settings, 0.2) == learning_rate(without, 0.2) > 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimisers_get_their_settings(kind: str, expected: type[torch.optim.Optimizer]) -> None:
    settings = _settings(optimiser=kind, learning_rate=0.25, betas=(0.5, 0.75), weight_decay=0.125)
    optimiser = build_optimiser(settings, [torch.nn.Parameter(torch.ones(3))])
    group = optimiser.param_groups[0]
    assert type(optimiser) is expected
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.25, 0.125, True)
    assert (group["momentum"] == 0.5) if kind == "sgd" else (tuple(group["betas"]) == (0.5, 0.75))
    set_rate(optimiser, 0.5)
    assert group["lr"] == 0.5


def test_a_step_of_adam_is_the_published_one() -> None:
    """Kingma and Ba, algorithm 1, written out for the first two steps."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = build_optimiser(_settings(optimiser="adam", learning_rate=0.1, betas=(0.8, 0.6)), [parameter])
    expected, m, v = parameter.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in (1, 2):
        gradient = torch.tensor([0.5, -3.0], dtype=torch.float64) * step
        parameter.grad = gradient.clone()
        optimiser.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.6 * v + 0.4 * gradient**2
        expected -= 0.1 * (m / (1 - 0.8**step)) / ((v / (1 - 0.6**step)).sqrt() + 1e-8)
        assert torch.allclose(parameter.detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_first_step_that_is_skipped_leaves_nothing_behind(kind: str) -> None:
    """As one is whose scaled gradients overflow, which is usual for the first."""
    learning: list[torch.Tensor] = []
    for skipped in (False, True):
        parameter = torch.nn.Parameter(torch.ones(3))
        optimiser: Any = build_optimiser(_settings(optimiser=kind), [parameter])
        torch.use_deterministic_algorithms(True)  # which makes memory NaN that nobody has written to
        try:
            for found in [1.0, 0.0, 0.0] if skipped else [0.0, 0.0]:
                parameter.grad = torch.full((3,), 0.5)
                optimiser.grad_scale, optimiser.found_inf = None, torch.tensor(found)
                optimiser.step()
        finally:
            torch.use_deterministic_algorithms(False)
        learning.append(parameter.detach())
    assert torch.equal(*learning)
