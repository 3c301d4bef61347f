from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.images.resize import resize
from upscaler.model.compact import Compact
from upscaler.model.sources import PixelSource
from upscaler.model.upscaler import Size, Upscaler


def nearest(scale: int = 4, channels: int = 3) -> Compact:
    """A network that repeats pixels: its residual is zero."""
    made = Compact(features=2, convolutions=1, scale=scale, channels=channels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def repeated(pixels: Any, scale: int) -> Any:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def noise(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (130, 20), (300, 7)])
def test_depth_and_channels_come_out_as_they_went_in(dtype: Any, channels: int, height: int, width: int) -> None:
    pixels = noise(height, width, channels, dtype=dtype)
    result = Upscaler(nearest(), device="cpu").upscale(pixels)
    assert result.dtype == dtype
    assert np.array_equal(result, repeated(pixels, 4))


@pytest.mark.parametrize("upsampler", ["network", "bicubic"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_enlarged_beside_the_colours(channels: int, upsampler: Any) -> None:
    pixels = noise(150, 20, channels)
    pixels[..., -1] = np.maximum(pixels[..., -1], 1)  # nothing is hidden, so no colour is replaced
    result = Upscaler(nearest(), device="cpu", alpha=upsampler).upscale(pixels)
    assert np.array_equal(result[..., :-1], repeated(pixels, 4)[..., :-1])
    if upsampler == "network":
        assert np.array_equal(result[..., -1], repeated(pixels, 4)[..., -1])
    else:
        expected = resize(pixels[..., -1:].astype(np.float32), 600, 80)[..., 0].clip(0, 255)
        assert np.abs(result[..., -1] - expected).max() <= 0.51


def test_hidden_colours_do_not_reach_the_edge() -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :20] = (200, 100, 50, 255)
    pixels[:, 20:] = (0, 255, 0, 0)
    torch.manual_seed(0)
    result = Upscaler(nearest(), device="cpu").upscale(pixels, Size(1.5))
    visible = result[..., 3] > 0
    assert visible.any()
    assert np.abs(result[visible][:, :3].astype(int) - (200, 100, 50)).max() <= 2


def test_opaque_alpha_stays_opaque() -> None:
    pixels = noise(20, 20, 4)
    pixels[..., 3] = 255
    torch.manual_seed(0)
    assert (Upscaler(Compact(features=4, convolutions=1), device="cpu").upscale(pixels)[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("size", "expected", "passes"),
    [
        (Size(), (40, 80), 1),
        (Size(4), (40, 80), 1),
        (Size(1.5), (15, 30), 1),
        (Size(0.5), (5, 10), 1),
        (Size(0.001), (1, 1), 1),
        (Size(4.1), (41, 82), 2),
        (Size(16), (160, 320), 2),
        (Size(17), (170, 340), 3),
        (Size(width=100), (50, 100), 2),
        (Size(height=40), (40, 80), 1),
        (Size(width=33, height=11), (11, 33), 1),
    ],
)
def test_every_size_is_reached_with_the_fewest_passes(size: Size, expected: tuple[int, int], passes: int) -> None:
    upscaler = Upscaler(nearest(), device="cpu")
    pixels = noise(10, 20, 3)
    estimate = upscaler.estimate(PixelSource(pixels), size)
    assert (estimate.height, estimate.width) == expected
    assert len(estimate.passes) == passes
    assert upscaler.upscale(pixels, size).shape == (*expected, 3)


def test_a_network_that_does_not_enlarge_is_run_once() -> None:
    upscaler = Upscaler(nearest(scale=1), device="cpu")
    assert len(upscaler.estimate(PixelSource(noise(8, 8, 3)), Size(3)).passes) == 1
    assert upscaler.upscale(noise(8, 8, 3), Size(3)).shape == (24, 24, 3)


def test_the_result_does_not_depend_on_the_plan() -> None:
    torch.manual_seed(0)
    made = Compact(features=8, convolutions=3)
    pixels = noise(150, 61, 4)
    results = [
        Upscaler(made, device="cpu", tile=tile, colour_fix=True).upscale(pixels, Size(3.3)).astype(int)
        for tile in ("whole", 16, 50)
    ]
    assert max(np.abs(result - results[0]).max() for result in results) <= 1


def test_the_colour_fix_takes_a_tint_away() -> None:
    made = nearest()
    with torch.no_grad():
        made.body[-1].bias[::3] += 0.05  # type: ignore[operator,index]
    pixels = noise(64, 64, 3) // 2 + 60
    tinted = Upscaler(made, device="cpu").upscale(pixels)
    mended = Upscaler(made, device="cpu", colour_fix=True).upscale(pixels)
    assert np.abs(tinted.mean((0, 1)) - pixels.mean((0, 1))).max() > 3
    assert np.abs(mended.mean((0, 1)) - pixels.mean((0, 1))).max() < 0.3


def test_bands_are_made_on_demand() -> None:
    asked: list[int] = []

    class Counted(PixelSource):
        def bands(self, rows: int) -> Any:
            for band in super().bands(rows):
                asked.append(len(band))
                yield band

    upscaler = Upscaler(nearest(), device="cpu", tile=64)
    next(iter(upscaler.bands(Counted(noise(2000, 8, 3)))))
    assert sum(asked) < 300


@pytest.mark.parametrize("pixels", [noise(4, 4), noise(4, 4, 5), noise(0, 4, 3), np.zeros((4, 4, 3), np.float32)])
def test_arrays_that_are_no_pictures(pixels: Any) -> None:
    with pytest.raises(ValueError, match="pixels must be"):
        Upscaler(nearest(), device="cpu").upscale(pixels)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(UserError, match="scale"):
        Size(scale)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -3}, {"width": 10**9}])
def test_impossible_sizes_are_refused(size: dict[str, int]) -> None:
    with pytest.raises(UserError, match="pixels is not possible"):
        Size(**size)


def test_a_result_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="result would be"):
        Upscaler(nearest(), device="cpu").estimate(PixelSource(noise(10, 10, 3)), Size(200_000))


def test_a_budget_that_is_too_small_is_refused() -> None:
    source = PixelSource(noise(10, 10, 3))
    with pytest.raises(UserError, match=r"needs --memory (\d+)MB or more") as caught:
        Upscaler(nearest(), device="cpu", memory=1_000_000).estimate(source)
    enough = (int(re.findall(r"(\d+)MB", str(caught.value))[0]) + 30) * 1_000_000
    upscaler = Upscaler(nearest(), device="cpu", memory=enough)
    assert upscaler.in_all(upscaler.estimate(source)) <= enough


def test_grey_networks_are_refused() -> None:
    with pytest.raises(UserError, match="1 channels"):
        Upscaler(nearest(channels=1), device="cpu")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"device": "cuda:99"}, "cuda:99 is not there"),
        ({"device": "gpu"}, "no kind of device called 'gpu'"),
        ({"device": "cpu", "precision": "fp8"}, "precision 'fp8' is unknown"),
    ],
)
def test_devices_and_precisions_that_are_not_there(how: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Upscaler(nearest(), **how)


def test_half_precision_is_near_full_precision() -> None:
    torch.manual_seed(0)
    made, pixels = Compact(features=8, convolutions=2), noise(30, 30, 3)
    full = Upscaler(made, device="cpu", precision="fp32").upscale(pixels).astype(int)
    half = Upscaler(made, device="cpu", precision="bf16").upscale(pixels).astype(int)
    assert 0 < np.abs(full - half).max() < 12


def test_16_bits_are_not_computed_in_half_precision_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "upscaler.model.upscaler.choose_precision", lambda name, _: torch.float32 if name == "fp32" else torch.bfloat16
    )
    pixels = noise(8, 8, 3, dtype=np.uint16)
    assert np.array_equal(Upscaler(nearest(), device="cpu").upscale(pixels), repeated(pixels, 4))
    assert not np.array_equal(Upscaler(nearest(), device="cpu", precision="bf16").upscale(pixels), repeated(pixels, 4))


def test_a_budget_is_kept_from_picture_to_picture() -> None:
    torch.manual_seed(0)
    upscaler = Upscaler(Compact(features=16, convolutions=2), device="cpu", memory=10**10)
    source = PixelSource(noise(600, 600, 3))
    first = upscaler.estimate(source)
    upscaler.upscale(source.pixels)
    assert upscaler.estimate(source) == first


def test_tiles_that_do_not_fit_the_budget_are_refused() -> None:
    upscaler = Upscaler(nearest(), device="cpu", memory=10**9, tile="whole")
    with pytest.raises(UserError, match=r"with --tile whole, this picture needs --memory .* or use --tile auto"):
        upscaler.estimate(PixelSource(noise(1, 1, 3).repeat(4000, 0).repeat(4000, 1)))


def test_the_time_a_picture_takes_is_estimated() -> None:
    upscaler = Upscaler(nearest(), device="cpu")
    small, large = (upscaler.estimate(PixelSource(noise(edge, edge, 3))) for edge in (50, 100))
    assert 0 < upscaler.seconds(small) < 10
    assert upscaler.seconds(large) == pytest.approx(4 * upscaler.seconds(small))
