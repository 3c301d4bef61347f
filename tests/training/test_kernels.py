from __future__ import annotations

from dataclasses import replace
from math import pi

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from upscaler.training.kernels import (
    Blur,
    chance,
    choice,
    filter_each,
    gaussian,
    gaussian_averages,
    mirror_pad,
    plateau,
    sharpen,
    sinc,
    sometimes,
    uniform,
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def moments(kernel: Tensor) -> tuple[float, float, float]:
    """Variance of the columns, variance of the rows and covariance of a kernel."""
    half = len(kernel) // 2
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    x, y = offsets[None], offsets[:, None]
    return float((kernel * x**2).sum()), float((kernel * y**2).sum()), float((kernel * x * y).sum())


def response(kernel: Tensor, frequency: float) -> float:
    """Gain of a horizontal wave of that frequency in radians per pixel."""
    half = len(kernel) // 2
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    return float((kernel.sum(0) * torch.cos(frequency * offsets)).sum())


def test_every_kernel_drawn_has_sum_1_and_is_symmetric_about_its_centre() -> None:
    kernels = Blur().draw(500, seeded())
    assert kernels.shape == (500, 21, 21)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(500, dtype=torch.float64))
    torch.testing.assert_close(kernels, kernels.flip(1, 2))


def test_kernels_end_at_their_size_and_all_sizes_are_equally_common() -> None:
    blur = replace(Blur(), sinc_probability=1.0)
    count = 4000
    kernels = blur.draw(count, seeded())
    centre = kernels[:, 10].abs() > 1e-12
    sizes = [int(row.nonzero().max()) * 2 - 19 for row in centre]
    assert set(sizes) == set(range(7, 22, 2))
    for size in range(7, 22, 2):
        assert sizes.count(size) / count == pytest.approx(1 / 8, abs=0.02)


def test_the_array_is_as_wide_as_the_largest_kernel_drawn() -> None:
    assert Blur(sizes=(7,)).draw(3, seeded()).shape == (3, 7, 7)


def test_a_gaussian_has_the_standard_deviations_asked_for_along_its_axes() -> None:
    kernels = gaussian(numbers(3, 3), numbers(1, 1), numbers(0, pi / 2), numbers(1, 1), torch.tensor([21, 21]))
    across, down, mixed = moments(kernels[0])
    assert (across, down, mixed) == pytest.approx((9, 1, 0), rel=0.02, abs=1e-9)
    torch.testing.assert_close(kernels[1], kernels[0].T)


def test_rotation_turns_from_rightwards_to_downwards() -> None:
    kernel = gaussian(numbers(3), numbers(1), numbers(pi / 4), numbers(1), torch.tensor([21]))[0]
    across, down, mixed = moments(kernel)
    assert across == pytest.approx(down)
    assert mixed > 3


def test_an_isotropic_gaussian_follows_its_formula() -> None:
    kernel = gaussian(numbers(1.5), numbers(1.5), numbers(0.7), numbers(1), torch.tensor([9]))[0]
    offsets = torch.arange(-4, 5, dtype=torch.float64)
    row = torch.exp(-(offsets**2) / (2 * 1.5**2))
    expected = row[:, None] * row[None]
    torch.testing.assert_close(kernel, expected / expected.sum())


@pytest.mark.parametrize(("beta", "distance"), [(0.5, 1), (1.0, 2), (2.0, 1), (4.0, 2)])
def test_generalised_gaussians_and_plateaus_fall_off_as_the_paper_says(beta: float, distance: int) -> None:
    arguments = numbers(2), numbers(2), numbers(0), numbers(beta), torch.tensor([13])
    power = (distance / 2) ** (2 * beta)
    peaked, flat = gaussian(*arguments)[0], plateau(*arguments)[0]
    assert float(peaked[6, 6 + distance] / peaked[6, 6]) == pytest.approx(float(torch.exp(torch.tensor(-power / 2))))
    assert float(flat[6, 6 + distance] / flat[6, 6]) == pytest.approx(1 / (1 + power))


@pytest.mark.parametrize("cutoff", [pi / 3, pi / 2, 2 * pi / 3])
def test_a_sinc_filter_passes_what_is_below_its_cutoff_and_stops_what_is_above(cutoff: float) -> None:
    kernel = sinc(numbers(cutoff), torch.tensor([21]))[0]
    assert response(kernel, cutoff - 0.5) == pytest.approx(1, abs=0.12)
    assert response(kernel, cutoff) == pytest.approx(0.5, abs=0.12)
    assert response(kernel, cutoff + 0.5) == pytest.approx(0, abs=0.12)
    assert float(kernel.min()) < 0


def test_a_smaller_kernel_in_a_wide_array_is_the_kernel_alone() -> None:
    both = sinc(numbers(2, 1), torch.tensor([7, 21]))
    alone = sinc(numbers(2), torch.tensor([7]))
    torch.testing.assert_close(both[0, 7:14, 7:14], alone[0])
    assert int(both[0].count_nonzero()) == 49


def test_shapes_and_sinc_filters_are_as_common_as_asked_for() -> None:
    count = 6000
    # With one sigma, isotropic Gaussians are all equal, and so are isotropic plateaus with one beta.
    blur = Blur(sizes=(9,), sigma=(1.5, 1.5), plateau_beta=(1.0, 1.0))
    kernels = blur.draw(count, seeded())
    one, size = numbers(1), torch.tensor([9])
    plain = gaussian(one * 1.5, one * 1.5, one, one, size)
    flat = plateau(one * 1.5, one * 1.5, one, one, size)
    share = ((kernels - plain).abs().amax((1, 2)) < 1e-9).double().mean()
    assert float(share) == pytest.approx(0.9 * 0.70, abs=0.025)
    share = ((kernels - flat).abs().amax((1, 2)) < 1e-9).double().mean()
    assert float(share) == pytest.approx(0.9 * 0.15, abs=0.02)
    assert float((kernels.amin((1, 2)) < 0).double().mean()) == pytest.approx(0.1, abs=0.015)


def test_anisotropic_kernels_are_as_common_as_asked_for() -> None:
    kernels = replace(Blur(), sizes=(21,), sinc_probability=0.0).draw(4000, seeded())
    turned = (kernels - kernels.transpose(1, 2).flip(1)).abs().amax((1, 2))
    assert float((turned > 1e-6).double().mean()) == pytest.approx(0.31, abs=0.03)


def test_half_of_the_generalised_gaussians_are_peaked() -> None:
    nothing = (0.0, 0.0)
    blur = Blur(
        sizes=(7,), sigma=(1.0, 1.0), gaussian=nothing, generalised=(1.0, 0.0), plateau=nothing, sinc_probability=0.0
    )
    kernels = blur.draw(2000, seeded())
    beta = torch.log2(-2 * torch.log(kernels[:, 3, 5] / kernels[:, 3, 3])) / 2
    assert float(beta.min()) >= 0.5 - 1e-9
    assert float(beta.max()) <= 4 + 1e-9
    assert float((beta < 1).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_large_sinc_filters_may_have_a_lower_cutoff() -> None:
    for size, lowest in ((11, pi / 3), (13, pi / 5)):
        blur = Blur(sizes=(size,), sinc_probability=1.0)
        kernels = blur.draw(2000, seeded())
        # Before normalisation the centre is w^2 / (4 pi); its neighbour fixes w without the sum.
        ratio = (kernels[:, size // 2, size // 2 + 1] / kernels[:, size // 2, size // 2]).max()
        bound = 2 * torch.special.bessel_j1(numbers(lowest)) / lowest
        assert float(ratio) == pytest.approx(float(bound), rel=0.002)


def test_sometimes_keeps_that_share_and_replaces_the_rest_with_what_changes_nothing() -> None:
    kernels = torch.full((4000, 7, 7), 1 / 49, dtype=torch.float64)
    mixed = sometimes(kernels, 0.8, seeded())
    assert float((mixed == kernels).all((1, 2)).double().mean()) == pytest.approx(0.8, abs=0.02)
    x = torch.rand(4000, 1, 4, 4, generator=seeded())
    unchanged = (mixed[:, 3, 3] == 1).nonzero().flatten()
    torch.testing.assert_close(filter_each(x, mixed)[unchanged], x[unchanged])


def test_every_picture_is_filtered_with_its_own_kernel() -> None:
    x = torch.rand(5, 3, 20, 17, generator=seeded())
    kernels = Blur().draw(5, seeded())
    together = filter_each(x, kernels)
    assert together.shape == x.shape
    for number in range(5):
        alone = filter_each(x[number : number + 1], kernels[number : number + 1])
        torch.testing.assert_close(together[number], alone[0])
    margin = kernels.shape[1] // 2
    padded = F.pad(x[2:3], (margin,) * 4, mode="reflect").transpose(0, 1)
    reference = F.conv2d(padded, kernels[2].float().flip(0, 1)[None, None]).transpose(0, 1)
    torch.testing.assert_close(together[2:3], reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 9), (5, 4)])
def test_pictures_smaller_than_the_kernel_are_mirrored_as_often_as_it_takes(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width, generator=seeded())
    blurred = filter_each(x, Blur(sizes=(21,), sinc_probability=0.0).draw(2, seeded()))
    assert blurred.shape == x.shape
    assert float(blurred.min()) >= float(x.min()) - 1e-6
    assert float(blurred.max()) <= float(x.max()) + 1e-6


def test_mirror_pad_leaves_the_edge_pixel_single() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert mirror_pad(x, 3)[0, 0, 0].tolist() == [2, 3, 2, 1, 2, 3, 2, 1, 2]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_gaussian_averages_are_those_of_the_pixels_around_each_centre(step: int) -> None:
    x = torch.rand(2, 3, 5 * step, 4 * step, generator=seeded(), dtype=torch.float64)
    averages = gaussian_averages(x, 1.6, 9, step)
    assert averages.shape == (2, 3, 5, 4)
    margin = 12
    padded = mirror_pad(x, margin)
    top, left = 3 * step + (step - 1) / 2, (step - 1) / 2
    y = torch.arange(-margin, 5 * step + margin, dtype=torch.float64) - top
    column = torch.arange(-margin, 4 * step + margin, dtype=torch.float64) - left
    weights = torch.exp(-(y[:, None] ** 2 + column**2) / (2 * 1.6**2))
    expected = (padded * weights / weights.sum()).sum((2, 3))
    torch.testing.assert_close(averages[:, :, 3, 0], expected, atol=1e-5, rtol=0)


def test_sharpening_steepens_edges_and_leaves_faint_texture_and_flat_parts_alone() -> None:
    x = torch.full((1, 3, 40, 120), 0.3)
    x[..., 60:] = 0.7
    x[..., ::2, :20] += 8 / 255
    sharp = sharpen(x)
    assert float(sharp.min()) >= 0
    assert float(sharp.max()) <= 1
    assert float(sharp[..., 59].max()) < 0.25
    assert float(sharp[..., 60].min()) > 0.75
    torch.testing.assert_close(sharp[..., :15], x[..., :15])


def test_sharpening_stays_within_0_and_1() -> None:
    x = (torch.rand(2, 3, 30, 30, generator=seeded()) > 0.5).float()
    sharp = sharpen(x)
    torch.testing.assert_close(sharp, x)


def test_draws_have_the_distributions_they_promise() -> None:
    values = uniform((2.0, 5.0), 4000, seeded())
    assert values.dtype == torch.float64
    assert 2 <= float(values.min()) < 2.01
    assert 4.99 < float(values.max()) < 5
    assert float(chance(0.3, 4000, seeded()).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert not chance(0.0, 4000, seeded()).any()
    assert chance(1.0, 4000, seeded()).all()
    shares = choice((2.0, 0.0, 6.0), 4000, seeded()).bincount(minlength=3) / 4000
    assert shares.tolist() == pytest.approx([0.25, 0, 0.75], abs=0.03)
