from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.resize import resize
from upscaler.training.fingerprints import Benchmarks, Thumbnails, luma, thumbnail, views


def jpeg(pixels: Any, folder: Path, quality: int = 40) -> Any:
    path = folder / "compressed.jpg"
    write_picture(path, Picture(np.ascontiguousarray(pixels), Metadata()), quality=quality)
    return open_picture(path).read().pixels


def changed(pixels: Any, how: str, folder: Path) -> Any:
    height, width = pixels.shape[:2]
    ways = {
        "same": lambda: pixels,
        "halved": lambda: resize(pixels, height // 2, width // 2),
        "enlarged": lambda: resize(pixels, height * 3 // 2, width * 3 // 2),
        "stretched": lambda: resize(pixels, height, width * 5 // 4),
        "compressed": lambda: jpeg(pixels, folder),
        "mirrored": lambda: pixels[:, ::-1],
        "upside down": lambda: pixels[::-1],
        "turned": lambda: np.rot90(pixels),
        "all of it": lambda: jpeg(np.rot90(resize(pixels, height // 2, width // 2), 3)[::-1], folder),
    }
    return np.ascontiguousarray(ways[how]())


WAYS = ("same", "halved", "enlarged", "stretched", "compressed", "mirrored", "upside down", "turned", "all of it")


def test_luma_is_that_of_bt601() -> None:
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    assert luma(colours)[0].tolist() == [255, 0, 77, 149, 29, 90]


def test_a_thumbnail_has_the_means_of_its_cells() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    means = grey.reshape(32, 2, 32, 3).mean(axis=(1, 3)).round()
    assert np.array_equal(thumbnail(grey), means)
    assert thumbnail(grey[:33, :47]).shape == (32, 32)


def test_there_are_eight_views() -> None:
    plane = np.arange(12).reshape(3, 4)
    assert len({view.tobytes() + bytes(view.shape) for view in views(plane)}) == 8


@pytest.mark.parametrize("how", WAYS)
def test_a_picture_is_found_again(scene: Any, tmp_path: Path, how: str) -> None:
    seen = Thumbnails()
    for seed in range(5):
        seen.add(str(seed), thumbnail(luma(scene(seed))))
    assert seen.find(thumbnail(luma(changed(scene(3), how, tmp_path)))) == "3"


def test_other_pictures_are_not_the_same(scene: Any) -> None:
    seen = Thumbnails()
    for seed in range(300):
        small = thumbnail(luma(scene(seed, 64, 64)))
        assert seen.find(small) is None
        seen.add(str(seed), small)
    assert seen.find(thumbnail(luma(scene(299, 64, 64)))) == "299"


@pytest.fixture(scope="module")
def benchmarks(scene: Any) -> Benchmarks:
    return Benchmarks((str(seed), luma(scene(seed, 320, 360))) for seed in (100, 101))


def found(benchmarks: Benchmarks, pixels: Any) -> str | None:
    grey = luma(np.ascontiguousarray(pixels))
    return benchmarks.find(grey, thumbnail(grey))


@pytest.mark.parametrize("how", WAYS)
def test_a_benchmark_picture_is_found(benchmarks: Benchmarks, scene: Any, tmp_path: Path, how: str) -> None:
    assert found(benchmarks, changed(scene(101, 320, 360), how, tmp_path)) == "101"


@pytest.mark.parametrize("how", ["same", "halved", "compressed", "mirrored", "turned"])
def test_a_crop_of_a_benchmark_picture_is_found(benchmarks: Benchmarks, scene: Any, tmp_path: Path, how: str) -> None:
    crop = scene(101, 320, 360)[37:269, 91:331]
    assert found(benchmarks, changed(crop, how, tmp_path)) == "101"


def test_a_picture_that_contains_a_benchmark_picture_is_found(benchmarks: Benchmarks, scene: Any) -> None:
    large = scene(7, 600, 700).copy()
    large[211:531, 99:459] = scene(100, 320, 360)
    assert found(benchmarks, large) == "100"


def test_other_pictures_are_no_leak(benchmarks: Benchmarks, scene: Any) -> None:
    assert [found(benchmarks, scene(seed, 320, 360)) for seed in range(10)] == [None] * 10


def test_without_benchmarks_nothing_leaks(scene: Any) -> None:
    assert found(Benchmarks([]), scene(0)) is None
    assert found(Benchmarks([("tiny", np.zeros((8, 8), np.uint8))]), scene(0)) is None
