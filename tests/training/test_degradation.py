from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from math import pi

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from upscaler.errors import UserError
from upscaler.images.resize import resize_tensor
from upscaler.training.degradation import PRESETS, Classic, Degradation, Stage, find_preset, preset_sheet
from upscaler.training.jpeg import jpeg
from upscaler.training.kernels import Blur
from upscaler.training.noise import Noise

NAMES = tuple(PRESETS)
RANDOM = ("noise", "jpeg", "realesrgan")
LABEL = 26
"""Height of a label on the sheet."""

NO_NOISE = Noise(1.0, (0.0, 0.0))
CLEAN = Stage(blur_probability=0.0, resize_shares=(0.0, 0.0, 1.0), noise=NO_NOISE, jpeg_quality=(100.0, 100.0))
"""A stage that changes next to nothing."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small pictures gain nothing from threads, and lose much where other processes need the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, height: int, width: int) -> Tensor:
    """Smooth colours with an edge, (count, 3, height, width)."""
    y, x = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 7, indexing="ij")
    shifts = torch.arange(count * 3).reshape(count, 3, 1, 1)
    waves = 0.5 + 0.4 * torch.sin(x + shifts) * torch.cos(y - shifts)
    waves[..., width // 2 :] *= 0.5
    return waves


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_every_preset_makes_pictures_of_the_size_and_levels_promised(name: str, scale: int) -> None:
    hr = pictures(5, 12 * scale, 7 * scale)
    lr = PRESETS[name](hr, scale, seeded())
    assert lr.shape == (5, 3, 12, 7)
    assert lr.dtype == torch.float32
    assert lr.is_contiguous()
    assert float(lr.min()) >= 0
    assert float(lr.max()) <= 1
    torch.testing.assert_close(lr * 255, (lr * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width", "scale"), [(30, 32, 4), (32, 30, 4), (8, 8, 3), (8, 8, 0), (8, 8, -2)])
def test_sizes_that_are_not_multiples_of_the_scale_are_refused(name: str, height: int, width: int, scale: int) -> None:
    with pytest.raises(ValueError, match=f"pictures of {height}x{width} cannot be reduced by {scale}"):
        PRESETS[name](torch.zeros(1, 3, height, width), scale, seeded())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_state_of_the_generator_gives_the_same_pictures(name: str) -> None:
    hr = pictures(6, 48, 40)
    first, again, other = (PRESETS[name](hr, 4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_degrades_without_gradient_and_stays_as_it_was(name: str) -> None:
    hr = pictures(2, 32, 32).requires_grad_()
    before = hr.detach().clone()
    assert not PRESETS[name](hr, 2, seeded()).requires_grad
    assert torch.equal(hr, before)


def test_the_number_of_threads_makes_no_difference() -> None:
    hr = pictures(4, 64, 64)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(PRESETS["realesrgan"](hr, 4, seeded()))
    # A sum in another order may move a value across a rounding step, but not more than here and there.
    assert float((results[0] != results[1]).double().mean()) < 0.01


@pytest.mark.parametrize("side", [4, 16, 24])
def test_the_smallest_pictures_survive_the_strongest_reduction(side: int) -> None:
    smallest = Stage(resize_shares=(0.0, 1.0, 0.0), resize_range=(0.15, 0.15))
    degrade = Degradation(first=smallest, second=smallest)
    assert degrade(pictures(3, side, side), 4, seeded()).shape == (3, 3, side // 4, side // 4)


def test_autocast_does_not_reach_inside() -> None:
    hr = pictures(2, 32, 32)
    expected = PRESETS["realesrgan"](hr, 4, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PRESETS["realesrgan"](hr, 4, seeded()), expected)


def test_pictures_of_a_batch_are_degraded_differently() -> None:
    hr = pictures(1, 48, 48).expand(8, -1, -1, -1)
    lr = replace(Degradation(), group=8)(hr, 4, seeded())
    for number in range(1, 8):
        assert not torch.equal(lr[0], lr[number])


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    hr = pictures(4, 48, 48)
    changed = hr.clone()
    changed[[0, 1, 3]] = torch.rand(3, 3, 48, 48, generator=seeded())
    degrade = PRESETS["realesrgan"]
    torch.testing.assert_close(degrade(hr, 4, seeded())[2], degrade(changed, 4, seeded())[2], atol=1 / 255, rtol=0)


def test_groups_share_the_resize_and_nothing_else() -> None:
    """With blur, noise and JPEG next to off, pictures differ only by how they were resized."""
    hr = torch.rand(1, 3, 64, 64, generator=seeded()).expand(32, -1, -1, -1)
    resizing = replace(CLEAN, resize_shares=(0.2, 0.7, 0.1), resize_range=(0.15, 1.5))
    degrade = Degradation(first=resizing, second=CLEAN, final_sinc_probability=0.0, group=4)
    lr = degrade(hr, 4, seeded()).reshape(8, 4, -1)
    torch.testing.assert_close(lr, lr[:, :1].expand_as(lr), atol=2 / 255, rtol=0)
    for number in range(1, 8):
        assert float((lr[number, 0] - lr[0, 0]).abs().mean()) > 0.01


def test_a_clean_degradation_is_only_a_resize() -> None:
    hr = pictures(6, 64, 64)
    lr = Degradation(first=CLEAN, second=CLEAN, final_sinc_probability=0.0)(hr, 2, seeded())
    expected = resize_tensor(hr, 32, 32)
    assert float((lr - expected).abs().mean()) < 0.02


def test_resize_factors_have_the_shares_and_the_range_they_are_given() -> None:
    generator = seeded()
    factors = [Stage().draw_factor(generator) for _ in range(4000)]
    up = [factor for factor in factors if factor > 1]
    down = [factor for factor in factors if factor < 1]
    assert len(up) / 4000 == pytest.approx(0.2, abs=0.03)
    assert len(down) / 4000 == pytest.approx(0.7, abs=0.03)
    assert (min(down), max(up)) == pytest.approx((0.15, 1.5), abs=0.005)
    assert sum(down) / len(down) == pytest.approx(0.575, abs=0.02)


def test_a_stage_resizes_to_its_factor_of_the_size_it_is_given() -> None:
    half = replace(CLEAN, resize_shares=(0.0, 1.0, 0.0), resize_range=(0.5, 1.0))
    height, width = half.distort(torch.zeros(1, 3, 8, 6), 1000, 2000, seeded()).shape[-2:]
    assert 500 <= height <= 1000
    assert width == pytest.approx(2 * height, abs=1)


def test_the_defaults_are_those_of_real_esrgan() -> None:
    degradation = PRESETS["realesrgan"]
    assert isinstance(degradation, Degradation)
    first, second = degradation.first, degradation.second
    assert first.blur.sizes == second.blur.sizes == (7, 9, 11, 13, 15, 17, 19, 21)
    assert (first.blur.sigma, second.blur.sigma) == ((0.2, 3), (0.2, 1.5))
    for blur in (first.blur, second.blur):
        assert (*blur.gaussian, *blur.generalised, *blur.plateau) == (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
        assert (blur.generalised_beta, blur.plateau_beta, blur.sinc_probability) == ((0.5, 4), (1, 2), 0.1)
        assert (blur.sinc_cutoff, blur.large_sinc_cutoff) == ((pi / 3, pi), (pi / 5, pi))
    assert (first.blur_probability, second.blur_probability) == (1, 0.8)
    assert (first.resize_shares, first.resize_range) == ((0.2, 0.7, 0.1), (0.15, 1.5))
    assert (second.resize_shares, second.resize_range) == ((0.3, 0.4, 0.3), (0.3, 1.2))
    assert first.noise == Noise(0.5, (1, 30), (0.05, 3), 0.4)
    assert second.noise == Noise(0.5, (1, 25), (0.05, 2.5), 0.4)
    assert first.jpeg_quality == second.jpeg_quality == (30, 95)
    assert (degradation.final_sinc_probability, degradation.final_sinc_cutoff) == (0.8, (pi / 3, pi))


def test_settings_cannot_be_changed_behind_a_preset() -> None:
    with pytest.raises(FrozenInstanceError):
        PRESETS["realesrgan"].group = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        PRESETS["other"] = PRESETS["bicubic"]  # type: ignore[index]


def test_blur_noise_and_jpeg_of_a_stage_reach_the_picture() -> None:
    hr = pictures(8, 64, 64)
    clean = Degradation(first=CLEAN, second=CLEAN, final_sinc_probability=0.0)
    plain = clean(hr, 2, seeded())
    changes = {
        "blur": replace(CLEAN, blur=Blur(sigma=(3.0, 3.0), sinc_probability=0.0), blur_probability=1.0),
        "noise": replace(CLEAN, noise=Noise(1.0, (20.0, 20.0))),
        "jpeg": replace(CLEAN, jpeg_quality=(10.0, 10.0)),
    }
    for name, stage in changes.items():
        for degrade in (replace(clean, first=stage), replace(clean, second=stage)):
            change = float((degrade(hr, 2, seeded()) - plain).abs().mean())
            assert change > 0.008, name
    assert not torch.equal(replace(clean, final_sinc_probability=1.0)(hr, 2, seeded()), plain)


def test_bicubic_is_matlabs_resize() -> None:
    hr = pictures(2, 48, 36)
    expected = (resize_tensor(hr, 16, 12).clamp(0, 1) * 255).round() / 255
    torch.testing.assert_close(PRESETS["bicubic"](hr, 3, seeded()), expected)


@pytest.mark.parametrize(("scale", "taken"), [(2, [1, 3, 5]), (3, [1, 4, 7]), (4, [2, 6, 10])])
def test_nearest_takes_the_pixel_after_the_centre(scale: int, taken: list[int]) -> None:
    columns = torch.arange(3 * scale) / 255
    hr = columns.expand(1, 3, scale, -1)
    assert (PRESETS["nearest"](hr, scale, seeded())[0, 0, 0] * 255).round().tolist() == taken


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_blur_has_its_sigma_and_does_not_move_the_picture(scale: int) -> None:
    side = 24 * scale
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    ramp = (x + 2 * y) / (3 * side)
    lr = PRESETS["blur"](ramp.expand(1, 3, -1, -1), scale, seeded())[0, 0]
    blocks = ramp.reshape(24, scale, 24, scale).mean((1, 3))
    torch.testing.assert_close(lr[6:-6, 6:-6], blocks[6:-6, 6:-6], atol=0.51 / 255, rtol=0)

    wave = 0.5 + 0.4 * torch.cos(2 * pi * (x + 0.5) / (6 * scale))
    seen = PRESETS["blur"](wave.expand(1, 3, -1, -1), scale, seeded())[0, 0, :, 6:-6]
    gain = float(seen.max() - seen.min())
    still = 0.5 + 0.4 * torch.cos(2 * pi * (torch.arange(6, 18) + 0.5) / 6)
    expected = float(torch.exp(torch.tensor(-0.5 * (1.6 * 2 * pi / (6 * scale)) ** 2)))
    assert gain == pytest.approx(expected * float(still.max() - still.min()), abs=0.01)


def test_noise_is_bicubic_with_colour_noise_of_a_sigma_drawn_for_each_picture() -> None:
    hr = torch.full((300, 3, 64, 64), 0.5)
    added = (PRESETS["noise"](hr, 2, seeded()) - 0.5) * 255
    sigmas = added.std((1, 2, 3))
    assert 0.9 < float(sigmas.min()) < 2
    assert 24 < float(sigmas.max()) < 26
    assert float(sigmas.mean()) == pytest.approx(13, abs=1.2)
    fixed = Classic("bicubic", noise=Noise(1.0, (10.0, 10.0), grey_probability=0.0))
    measured = (fixed(hr[:4], 2, seeded()) - 0.5).std() * 255
    assert float(measured) == pytest.approx(10, abs=0.3)


def test_every_other_picture_is_a_jpeg() -> None:
    hr = torch.rand(200, 3, 32, 32, generator=seeded())
    clean, made = PRESETS["bicubic"](hr, 2, seeded()), PRESETS["jpeg"](hr, 2, seeded())
    changed = (made != clean).flatten(1).any(1)
    assert 80 < int(changed.sum()) < 120
    always = Classic("bicubic", jpeg_quality=(80.0, 80.0), jpeg_probability=1.0)
    assert torch.equal(always(hr[:4], 2, seeded()), jpeg(clean[:4], torch.full((4,), 80.0)))


def test_presets_are_found_by_name_and_offered_by_likeness() -> None:
    assert find_preset("realesrgan") is PRESETS["realesrgan"]
    with pytest.raises(UserError, match=r"^no degradation is called 'Bicubik'; did you mean bicubic\?$"):
        find_preset("Bicubik")
    with pytest.raises(UserError, match=r"'zzz'; there are bicubic, nearest, blur, noise, jpeg, realesrgan$"):
        find_preset("zzz")


def test_the_sheet_shows_the_picture_through_every_preset() -> None:
    picture = (pictures(1, 90, 130)[0].permute(1, 2, 0) * 255).byte().numpy()
    sheet = preset_sheet(picture, 4, seed=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * (LABEL + 88), 4 * 128 + 3 * 8, 3)
    hr = sheet[LABEL : LABEL + 88, :128]
    assert any(np.array_equal(hr, picture[top : top + 88, left : left + 128]) for top in range(3) for left in range(3))
    bicubic = sheet[LABEL : LABEL + 88, 136 : 136 + 128]
    assert np.array_equal(bicubic, bicubic[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))
    assert np.array_equal(sheet, preset_sheet(picture, 4, seed=3))
    assert not np.array_equal(sheet, preset_sheet(picture, 4, seed=4))


def test_the_sheet_of_a_large_picture_shows_a_part_of_it() -> None:
    picture = np.zeros((40, 900, 3), np.uint8)
    assert preset_sheet(picture, 3, seed=0).shape == (3 * (LABEL + 39), 4 * 384 + 3 * 8, 3)


def test_the_sheet_of_pixels_larger_than_a_sheet_shows_one() -> None:
    assert preset_sheet(np.zeros((800, 800, 3), np.uint8), 400, seed=0).shape[1] == 4 * 400 + 3 * 8


def test_the_sheet_of_a_picture_smaller_than_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="a picture of 3x9 cannot be reduced by 4"):
        preset_sheet(np.zeros((3, 9, 3), np.uint8), 4, seed=0)
