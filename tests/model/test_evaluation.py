from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.images.files import Metadata, Picture, write_picture
from upscaler.images.metrics import luma, psnr, ssim
from upscaler.images.partners import Case, Failed, find_cases
from upscaler.images.resize import resize
from upscaler.model.compact import Compact
from upscaler.model.evaluation import BICUBIC, Measured, Scores, Started, average, evaluate, measure
from upscaler.model.events import Event, Worked
from upscaler.model.upscaler import Upscaler


def random_pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def write(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_picture(path, Picture(pixels, Metadata(None, None, None, None)))


def nearest(scale: int = 4, notify: Any = lambda _: None) -> Upscaler:
    network = Compact(features=2, convolutions=0, scale=scale)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return Upscaler(network.eval().requires_grad_(False), device="cpu", precision="fp32", notify=notify)


def run(cases: list[Case], **models: Upscaler) -> list[Any]:
    return list(evaluate(cases, models, scale=4, border=4))


def test_a_model_and_bicubic_on_pictures_made_small_here(tmp_path: Path) -> None:
    pixels = random_pixels(43, 50)
    write(tmp_path / "a.png", pixels)
    told: list[Event] = []
    started, measured = run(find_cases(tmp_path, scale=4, border=4).cases, mine=nearest(notify=told.append))
    assert isinstance(started, Started)
    assert started.operations == sum(event.operations for event in told if isinstance(event, Worked)) > 0
    assert isinstance(measured, Measured)
    reference = pixels[:40, :48]
    lr = resize(reference, 10, 12)
    np.testing.assert_array_equal(measured.reference, reference)
    np.testing.assert_array_equal(measured.lr, lr)
    assert list(measured.scores) == list(measured.results) == [BICUBIC, "mine"]
    np.testing.assert_array_equal(measured.results["mine"], lr.repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(measured.results[BICUBIC], resize(lr, 40, 48))
    for name, result in measured.results.items():
        scores = measured.scores[name]
        assert replace(scores, seconds=None, memory=None) == measure(result, reference, lr, 4)
        assert scores.seconds is not None
        assert scores.seconds > 0


def test_given_small_pictures_and_given_results(tmp_path: Path) -> None:
    reference, lr = random_pixels(42, 40), random_pixels(10, 10, seed=1)
    write(tmp_path / "hr/a.png", reference)
    write(tmp_path / "lr/ax4.png", lr)
    write(tmp_path / "sr/a.png", reference)
    cases = find_cases(tmp_path / "hr", scale=4, border=2, lr=tmp_path / "lr", results={"same": tmp_path / "sr"}).cases
    _, measured = run(cases)
    np.testing.assert_array_equal(measured.results[BICUBIC], resize(lr, 40, 40))
    same = measured.scores["same"]
    assert (same.psnr_y, same.psnr_rgb, same.drift) == (inf, inf, 0)
    assert same.ssim_y == pytest.approx(1)
    assert (same.seconds, same.memory) == (None, None)
    expected = (resize(reference[:40], 10, 10).astype(float) - lr).mean(axis=(0, 1))
    assert same.shift_lr == pytest.approx(expected)
    assert same.drift_lr == pytest.approx(np.abs(expected).max())


def test_an_alpha_channel_that_hides_nothing_makes_no_difference(tmp_path: Path) -> None:
    opaque = np.concatenate([random_pixels(40, 40), np.full((40, 40, 1), 255, np.uint8)], axis=2)
    for folder in ("hr", "lr", "sr"):
        write(tmp_path / folder / "a.png", opaque[:10, :10] if folder == "lr" else opaque)
    cases = find_cases(tmp_path / "hr", scale=4, border=4, lr=tmp_path / "lr", results={"mine": tmp_path / "sr"}).cases
    _, measured = run(cases)
    assert measured.lr.shape == (10, 10, 3)
    assert measured.scores["mine"].psnr_rgb == inf


def test_a_model_of_another_scale_is_brought_to_the_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png", random_pixels(40, 40))
    _, measured = run(find_cases(tmp_path, scale=4, border=4).cases, two=nearest(scale=2))
    assert measured.results["two"].shape == (40, 40, 3)


def test_a_tint_is_a_drift() -> None:
    reference = random_pixels(32, 32) // 2 + 40
    scores = measure(reference + np.array([0, 3, 0], np.uint8), reference, resize(reference, 8, 8), 4)
    assert scores.shift == pytest.approx((0, 3, 0))
    assert scores.drift == pytest.approx(3)
    assert scores.shift_lr == pytest.approx((0, 3, 0), abs=0.3)


def test_grey_is_measured_as_it_is_and_beside_a_coloured_reference_as_rgb() -> None:
    reference, result = random_pixels(32, 32, 1), random_pixels(32, 32, 1, seed=1)
    lr = resize(reference, 8, 8)
    scores = measure(result, reference, lr, 4)
    assert scores.psnr_y == scores.psnr_rgb == psnr(result, reference, 4)
    assert len(scores.shift) == len(scores.shift_lr) == 3
    colour = reference.repeat(3, axis=2)
    mixed = measure(result, colour, lr, 4)
    assert mixed.psnr_y == psnr(luma(result.repeat(3, axis=2)), luma(colour), 4)
    assert mixed.ssim_rgb == ssim(result, reference, 4) == scores.ssim_rgb


def test_a_picture_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.png", random_pixels(120, 120))
    cases = find_cases(tmp_path, scale=4, border=4).cases
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    events = run(cases)
    assert [type(event) for event in events] == [Started, Measured, Failed, Started, Measured]
    assert events[2].reference == tmp_path / "b.png"
    assert str(tmp_path / "b.png") in events[2].message


def test_a_model_that_fails_fails_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png", random_pixels(40, 40))
    model = nearest()

    def upscale(*_: object) -> None:
        raise UserError("memory ran out")

    monkeypatch.setattr(model, "upscale", upscale)
    assert run(find_cases(tmp_path, scale=4, border=4).cases, mine=model)[1:] == [
        Failed(tmp_path / "a.png", "memory ran out")
    ]


def test_the_average_of_what_there_is() -> None:
    one = Scores(30, 0.75, 28, 0.5, None, 2, 1, (2.0, 0.0, -1.0), (1.0, 0.0, 0.0), 1.0, 500)
    two = Scores(20, 0.25, inf, 0.25, 6.0, 4, 3, (-4.0, 0.0, 1.0), (3.0, 0.0, 0.0), 3.0, 300)
    assert average([one, two]) == Scores(25, 0.5, inf, 0.375, 6.0, 3, 2, (-1.0, 0.0, 0.0), (2.0, 0.0, 0.0), 2.0, 500)
    nothing = average([replace(one, seconds=None, memory=None)])
    assert (nothing.niqe, nothing.seconds, nothing.memory) == (None, None, None)


def test_grey_saved_as_rgb_scores_the_same() -> None:
    random = np.random.default_rng(0)
    reference = random.integers(0, 256, (40, 40, 1), np.uint8)
    result = np.clip(reference + random.integers(-9, 10, reference.shape), 0, 255).astype(np.uint8)
    lr = reference[::4, ::4]
    grey = measure(result, reference, lr, 4)
    assert measure(np.repeat(result, 3, axis=2), reference, lr, 4) == grey
    tinted = np.repeat(result, 3, axis=2)
    tinted[..., 0] ^= 1
    assert measure(tinted, reference, lr, 4).psnr_y == pytest.approx(grey.psnr_y, abs=0.3)
