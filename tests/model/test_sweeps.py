from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.images.metrics import colour_shift, luma, psnr, ssim
from upscaler.images.niqe import niqe
from upscaler.images.resize import resize
from upscaler.model.compact import Compact
from upscaler.model.interpolation import Parent
from upscaler.model.sweeps import blended, runs, sweep
from upscaler.model.upscaler import Upscaler
from upscaler.model.weights import Weights, build_network


def flat(level: float) -> Parent:
    """A network that repeats every pixel four times along both axes and adds a level of 0..1."""
    network = Compact(features=2, convolutions=0)
    tensors = {key: torch.zeros_like(tensor) for key, tensor in network.state_dict().items()}
    tensors["body.2.bias"].fill_(level)
    return Parent(f"{level}", Weights("compact", network.settings(), tensors, {}, f"{level}"))


def upscaler(weights: Weights) -> Upscaler:
    return Upscaler(build_network(weights), device="cpu")


def noise(height: int, width: int, channels: int = 3, top: int = 200) -> Any:
    cells = np.random.default_rng(1).integers(0, top, (height // 4, width // 4, channels), np.uint8)
    return resize(cells, height, width)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_alpha_is_upscaled_and_measured(channels: int) -> None:
    lr = noise(64, 72, channels)
    steps = list(sweep(flat(0), flat(0.04), (0, 0.5, 1, 1.5), upscaler, lr, border=4))
    assert [(step.alpha, step.pictures) for step in steps] == [(0, False), (0.5, False), (1, False), (1.5, False)]
    for step in steps:
        expected = np.rint(lr.repeat(4, 0).repeat(4, 1) + step.alpha * 0.04 * 255)
        assert np.abs(step.result - expected).max() <= 1
        reading = step.reading
        assert (reading.psnr_y, reading.ssim_y, reading.drift) == (None, None, None)
        assert reading.niqe == niqe(luma(step.result), 4)
        assert reading.drift_lr == pytest.approx(max(map(abs, colour_shift(resize(step.result, 64, 72), lr))))


def test_a_reference_is_measured_with_as_by_evaluate() -> None:
    lr, reference = noise(24, 28), noise(96, 112)
    (step,) = sweep(flat(0), flat(0.04), (0.5,), upscaler, lr, reference, border=4)
    assert step.result.shape == reference.shape
    assert step.reading.psnr_y == psnr(luma(step.result), luma(reference), 4)
    assert step.reading.ssim_y == ssim(luma(step.result), luma(reference), 4)
    assert step.reading.drift == pytest.approx(max(map(abs, colour_shift(step.result, reference))))


def test_pictures_are_blended_to_compare_with() -> None:
    lr, made = noise(24, 28), []

    def counting(weights: Weights) -> Upscaler:
        made.append(weights)
        return upscaler(weights)

    alphas = (0.25, 1)
    steps = list(sweep(flat(0), flat(0.08), alphas, counting, lr, border=4, pictures=True))
    assert [(step.alpha, step.pictures) for step in steps] == [(0.25, False), (0.25, True), (1, False), (1, True)]
    assert len(made) == runs(alphas, pictures=True) == 3
    ends = [upscaler(parent.weights).upscale(lr) for parent in (flat(0), flat(0.08))]
    np.testing.assert_array_equal(steps[1].result, blended(ends[0], ends[1], 0.25))
    np.testing.assert_array_equal(steps[2].result, ends[1])
    np.testing.assert_array_equal(steps[3].result, ends[1])


@pytest.mark.parametrize(
    ("alphas", "pictures", "count"), [((0, 0.5, 1), True, 3), ((-1, 2), True, 4), ((0, 1), False, 2)]
)
def test_no_picture_is_upscaled_twice(alphas: tuple[float, ...], pictures: bool, count: int) -> None:
    made = []

    def counting(weights: Weights) -> Upscaler:
        made.append(weights)
        return upscaler(weights)

    for _ in sweep(flat(0), flat(0.08), alphas, counting, noise(24, 28), border=4, pictures=pictures):
        pass
    assert len(made) == runs(alphas, pictures=pictures) == count


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pictures_are_rounded_and_clipped(kind: Any) -> None:
    top = np.iinfo(kind).max
    a, b = np.array([[[0, top, 10, 1]]], kind), np.array([[[top, 0, 20, 2]]], kind)
    assert blended(a, b, 0.25).tolist() == [[[round(top / 4), round(top * 3 / 4), 12, 1]]]
    assert blended(a, b, 2).tolist() == [[[top, 0, 30, 3]]]
    assert blended(a, b, 0).tolist() == a.tolist()
    assert blended(a, b, 1).dtype == kind


def test_results_are_gone_when_the_next_is_made() -> None:
    """Each may be hundreds of megabytes."""
    given: list[weakref.ref[Any]] = []

    def watching(weights: Weights) -> Upscaler:
        gc.collect()
        assert not any(each() is not None for each in given)
        return upscaler(weights)

    for step in sweep(flat(0), flat(0.04), (0, 0.3, 0.6, 1), watching, noise(24, 28), border=4):
        given.append(weakref.ref(step.result))
        del step
    assert len(given) == 4


def test_a_picture_too_small_for_niqe_has_none() -> None:
    (step,) = sweep(flat(0), flat(0.04), (0.5,), upscaler, noise(8, 8), border=4)
    assert step.reading.niqe is None
    assert step.reading.drift_lr > 0
