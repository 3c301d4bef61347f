from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from upscaler.images.resize import resize
from upscaler.training.benchmarks import Benchmarks, benchmark_picture
from upscaler.training.fingerprints import laid, luma, thumbnail


@pytest.fixture(scope="module")
def benchmarks(scene: Any) -> Benchmarks:
    return Benchmarks(benchmark_picture(str(seed), luma(scene(seed, 320, 360))) for seed in (100, 101))


def found(benchmarks: Benchmarks, pixels: Any) -> str | None:
    grey = luma(np.ascontiguousarray(pixels))
    return benchmarks.find(grey, thumbnail(grey))


def test_a_benchmark_picture_is_found(benchmarks: Benchmarks, scene: Any, change: Any) -> None:
    assert found(benchmarks, change(scene(101, 320, 360))) == "101"


@pytest.mark.parametrize("view", range(8))
def test_a_crop_of_a_benchmark_picture_is_found_however_it_is_laid(
    benchmarks: Benchmarks, scene: Any, view: int
) -> None:
    assert found(benchmarks, laid(scene(101, 320, 360)[37:237, 91:291], view)) == "101"


@pytest.mark.parametrize("factor", [0.4, 0.5, 0.6, 0.75, 0.9, 1.1, 1.3, 1.5, 2])
def test_a_crop_is_found_at_another_size(benchmarks: Benchmarks, scene: Any, factor: float) -> None:
    crop = scene(101, 320, 360)[37:277, 91:331]
    edge = round(240 * factor)
    assert found(benchmarks, resize(crop, edge, edge)) == "101"


def test_a_picture_that_contains_a_benchmark_picture_is_found(benchmarks: Benchmarks, scene: Any) -> None:
    large = scene(7, 600, 700).copy()
    large[211:531, 99:459] = scene(100, 320, 360)
    assert found(benchmarks, large) == "100"


def test_other_pictures_are_no_leak(benchmarks: Benchmarks, scene: Any) -> None:
    assert [found(benchmarks, scene(seed, 320, 360)) for seed in range(10)] == [None] * 10


def test_without_benchmarks_nothing_leaks(scene: Any) -> None:
    assert found(Benchmarks([]), scene(0)) is None


def test_pictures_without_corners(benchmarks: Benchmarks, scene: Any) -> None:
    flat = np.full((200, 200, 3), 90, np.uint8)
    assert found(benchmarks, flat) is None
    small = Benchmarks([benchmark_picture("flat", luma(flat)), benchmark_picture("small", luma(scene(3, 40, 40)))])
    assert found(small, scene(3)) is None
    assert found(small, scene(3, 40, 40)) == "small"


def test_a_benchmark_picture_takes_little_memory(scene: Any) -> None:
    grey = luma(scene(100, 640, 720))
    kept = benchmark_picture("100", grey)
    arrays = (kept.small, kept.plane, kept.scales, *vars(kept.corners).values())
    assert sum(array.nbytes for array in arrays) < grey.size / 3
