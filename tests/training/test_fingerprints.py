from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from upscaler.training.fingerprints import (
    Thumbnails,
    frequencies,
    hashes,
    laid,
    luma,
    placed,
    thumbnail,
    views,
)


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


@pytest.mark.parametrize("view", range(8))
def test_a_place_goes_with_its_view(view: int) -> None:
    plane = np.arange(12).reshape(3, 4)
    row, column = placed((1.5, 3.5), plane.shape, view)
    assert laid(plane, view)[int(row), int(column)] == plane[1, 3]


def test_a_hash_has_a_bit_for_each_frequency_above_their_median() -> None:
    windows = np.random.default_rng(0).integers(0, 256, (5, 33, 33), np.uint8)
    low = frequencies(windows)
    assert low.shape == (5, 8, 8)
    assert low[:, 0, 0] == pytest.approx(windows.sum(axis=(1, 2)))
    assert np.bitwise_count(hashes(low)).tolist() == [31] * 5


def test_a_picture_is_found_again(scene: Any, change: Any) -> None:
    seen = Thumbnails()
    for seed in range(5):
        seen.add(str(seed), thumbnail(luma(scene(seed))))
    assert seen.find(thumbnail(luma(change(scene(3))))) == "3"


def test_other_pictures_are_not_the_same(scene: Any) -> None:
    seen = Thumbnails()
    for seed in range(300):
        small = thumbnail(luma(scene(seed, 64, 64)))
        assert seen.find(small) is None
        seen.add(str(seed), small)
    assert seen.find(thumbnail(luma(scene(299, 64, 64)))) == "299"
