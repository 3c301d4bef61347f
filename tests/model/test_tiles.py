from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.tiles import MEASURED_HALO, Box, NoPlanError, halo_of, make_plan, megabytes

COMPACT = Compact(features=16, convolutions=3)
UNSHUFFLED = RRDBNet(features=8, growth=4, blocks=2, scale=2, unshuffle=2)
DEEP = RRDBNet(features=4, growth=2, blocks=23)
NETWORKS: dict[str, Any] = {"compact": COMPACT, "unshuffled": UNSHUFFLED, "deep": DEEP}
sides = st.integers(1, 700)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 300), st.sampled_from(["compact", "unshuffled"]))
def test_tiles_cover_every_pixel_once_and_stay_inside(height: int, width: int, tile: int, name: str) -> None:
    network = NETWORKS[name]
    plan = make_plan(network, height, width, budget=0, tile=tile)
    covered = np.zeros((plan.height, plan.width), np.uint8)
    for box, outer in plan.boxes():
        covered[box.top : box.bottom, box.left : box.right] += 1
        assert 0 <= outer.top <= box.top < box.bottom <= outer.bottom <= plan.height
        assert 0 <= outer.left <= box.left < box.right <= outer.right <= plan.width
        assert all(edge % network.unshuffle == 0 for edge in (outer.top, outer.bottom, outer.left, outer.right))
        assert box.top - outer.top in (plan.halo, box.top)
        assert outer.right - box.right in (plan.halo, plan.width - box.right)
    assert (covered == 1).all()
    assert 0 <= plan.height - height < network.unshuffle


@settings(deadline=None, max_examples=50)
@given(sides, st.integers(1, 3000), st.integers(10_000_000, 400_000_000), st.sampled_from(sorted(NETWORKS)))
@example(19, 2992, 26_092_863, "deep")  # the whole height, which hands no rows on, takes less than the smallest tile
@example(400, 2992, 10_000_000, "deep")
def test_the_automatic_plan_keeps_the_budget(height: int, width: int, budget: int, name: str) -> None:
    network = NETWORKS[name]
    least = make_plan(network, height, width, budget=0, tile=16).memory
    taken, told = 0, None
    try:
        taken = make_plan(network, height, width, budget=budget).memory
    except NoPlanError as error:
        told = error.least
    assert taken <= budget
    assert told is None or told == least > budget
    assert make_plan(network, height, width, budget=least).memory <= least


def test_what_fits_is_not_cut() -> None:
    plan = make_plan(COMPACT, 300, 400, budget=10**9)
    assert plan.whole
    assert plan.tiles == 1
    assert plan.operations(COMPACT) == 300 * 400 * COMPACT.trunk_operations


def test_a_smaller_budget_costs_more_operations() -> None:
    costs = [
        make_plan(COMPACT, 1000, 1000, budget=budget).operations(COMPACT)
        for budget in (1_000_000_000, 100_000_000, 20_000_000)
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@pytest.mark.parametrize(("height", "width"), [(441, 2267), (300, 300), (97, 1200), (150, 1200)])
@pytest.mark.parametrize("budget", [60_000_000, 100_000_000])
def test_no_square_tiling_that_fits_costs_much_less(height: int, width: int, budget: int) -> None:
    best = make_plan(DEEP, height, width, budget=budget).operations(DEEP)
    for edge in range(16, 400, 7):
        other = make_plan(DEEP, height, width, budget=0, tile=edge)
        assert other.memory > budget or other.operations(DEEP) > 0.9 * best


def test_operations_count_every_halo() -> None:
    plan = make_plan(UNSHUFFLED, 101, 203, budget=0, tile=30)
    trunk = sum(outer.area for _, outer in plan.boxes()) * UNSHUFFLED.trunk_operations
    assert plan.operations(UNSHUFFLED) == (trunk + plan.height * plan.width * UNSHUFFLED.head_operations) / 4


def test_on_a_gpu_the_rows_around_the_network_do_not_count() -> None:
    apart = make_plan(COMPACT, 2000, 2000, budget=0, tile=64, shared=False)
    assert apart.memory < make_plan(COMPACT, 2000, 2000, budget=0, tile=64).memory / 3


def test_on_a_gpu_a_tile_leaves_while_the_next_is_computed() -> None:
    narrow, wide = (make_plan(COMPACT, 2000, width, budget=0, tile=2000, shared=False) for width in (2000, 2001))
    assert wide.memory - narrow.memory > 0.99 * 2000**2 * COMPACT.scale**2 * 3 * 4


def test_a_very_wide_picture_is_planned_at_once() -> None:
    assert make_plan(COMPACT, 60, 400_000, budget=5 * 10**9).memory <= 5 * 10**9


def test_whole_is_whole_whatever_it_takes() -> None:
    assert make_plan(COMPACT, 3000, 3000, budget=1, tile="whole").whole


def test_no_tile_fits() -> None:
    with pytest.raises(NoPlanError, match="no plan takes less than"):
        make_plan(DEEP, 1000, 1000, budget=1_000_000)


def test_halos_are_exact_or_measured() -> None:
    assert halo_of(COMPACT) == COMPACT.trunk_reach
    assert halo_of(UNSHUFFLED) == UNSHUFFLED.trunk_reach + 2 * UNSHUFFLED.head_reach
    assert halo_of(DEEP) == MEASURED_HALO < DEEP.trunk_reach


def test_a_box_inside_another() -> None:
    assert Box(4, 6, 10, 20).inside(Box(2, 8, 5, 30), 4) == (slice(8, 16), slice(20, 60))


@pytest.mark.parametrize(("count", "text"), [(0, "0 MB"), (12_345_678, "12 MB"), (2_500_000_000, "2.5 GB")])
def test_bytes_for_people(count: int, text: str) -> None:
    assert megabytes(count) == text
