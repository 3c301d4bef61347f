from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from upscaler.images.sheets import Picture, animation


def plain(level: int, height: int = 40, width: int = 60) -> Picture:
    return np.full((height, width, 3), level, np.uint8)


def frames_of(data: bytes) -> list[tuple[Picture, int]]:
    """Each frame with its milliseconds."""
    with Image.open(BytesIO(data)) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            frames.append((np.asarray(image.convert("RGB")), int(image.info["duration"])))
        assert image.info["loop"] == 0
        return frames


def test_pictures_follow_each_other_enlarged_and_labelled() -> None:
    frames = frames_of(animation([("a", plain(10)), ("b", plain(120)), ("c", plain(240))], enlarge=3, milliseconds=80))
    assert [duration for _, duration in frames] == [80, 80, 2000]
    for (frame, _), level in zip(frames, (10, 120, 240), strict=True):
        assert frame.shape[1] == 180
        assert frame.shape[0] > 120
        assert np.abs(frame[-120:].astype(int) - level).max() <= 3
        assert frame[:-120].max() > 150, "a label"


@pytest.mark.parametrize(("count", "each"), [(2, 700), (6, 700), (10, 500), (30, 155), (50, 120)])
def test_there_is_time_to_see_every_frame(count: int, each: int) -> None:
    durations = [d for _, d in frames_of(animation([(str(n), plain(5 * n, 16, 16)) for n in range(count)]))]
    assert durations == [each] * (count - 1) + [2000]
    if count >= 5:
        assert 4000 <= sum(durations) <= 8000


def test_one_frame_is_a_picture() -> None:
    with Image.open(BytesIO(animation([("a", plain(10))]))) as image:
        assert image.format == "WEBP"


def test_a_label_that_is_wider_than_its_picture_widens_all_frames_alike() -> None:
    frames = frames_of(animation([("x", plain(10, 20, 20)), ("a label of some length", plain(90, 20, 20))]))
    assert frames[0][0].shape == frames[1][0].shape
    assert frames[0][0].shape[1] > 20


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        animation([("a", plain(1)), ("b", plain(1, 41))])
    with pytest.raises(ValueError, match="frames"):
        animation([])
