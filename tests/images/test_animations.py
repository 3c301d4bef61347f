from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.animations import check_animation, pace, write_animation
from upscaler.images.sheets import Picture

FORMATS = pytest.mark.parametrize("name", ["film.gif", "film.webp", "FILM.GIF"])


def plain(level: int, height: int = 40, width: int = 60) -> Picture:
    return np.full((height, width, 3), level, np.uint8)


def frames_of(path: Path) -> list[tuple[Picture, int]]:
    """Each frame with its milliseconds."""
    with Image.open(path) as image:
        assert image.format == path.suffix[1:].upper()
        assert image.info["loop"] == 0
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            frames.append((np.asarray(image.convert("RGB")), int(image.info["duration"])))
        return frames


@FORMATS
def test_pictures_follow_each_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    write_animation(path, [plain(10), plain(120), plain(240)], [80, 120, 2000])
    frames = frames_of(path)
    assert [duration for _, duration in frames] == [80, 120, 2000]
    for (frame, _), level in zip(frames, (10, 120, 240), strict=True):
        assert frame.shape == (40, 60, 3)
        assert np.abs(frame.astype(int) - level).max() <= 3
    assert [file.name for file in path.parent.iterdir()] == [name]


@FORMATS
def test_colours_are_close(tmp_path: Path, name: str) -> None:
    across, down = np.meshgrid(np.arange(256), np.arange(256))
    frame = np.stack([across, down, 255 - (across + down) // 2], axis=2).astype(np.uint8)
    write_animation(tmp_path / name, [frame, frame[::-1]], [100, 100])
    first, second = (np.asarray(each, np.float64) for each, _ in frames_of(tmp_path / name))
    for made, wanted in ((first, frame), (second, frame[::-1])):
        # Of the colours around a place, which dithering mixes.
        blocks = (made - wanted).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
        assert np.sqrt(np.square(blocks).mean()) < 2.5


@pytest.mark.parametrize(("count", "each"), [(2, 700), (6, 700), (10, 500), (30, 155), (50, 120)])
def test_there_is_time_to_see_every_frame(count: int, each: int) -> None:
    durations = pace(count)
    assert durations == [each] * (count - 1) + [2000]
    if count >= 5:
        assert 4000 <= sum(durations) <= 8000


@FORMATS
def test_one_frame_is_a_picture(tmp_path: Path, name: str) -> None:
    write_animation(tmp_path / name, [plain(10)], pace(1))
    with Image.open(tmp_path / name) as image:
        assert getattr(image, "n_frames", 1) == 1


@FORMATS
def test_frames_that_are_no_animation_leave_no_file(tmp_path: Path, name: str) -> None:
    for frames, times in (([plain(1), plain(1, 41)], [1, 1]), ([], []), ([plain(1)], [1, 1])):
        with pytest.raises(ValueError, match=r"one size|frames"):
            write_animation(tmp_path / name, frames, times)
    assert not any(tmp_path.iterdir())


def test_frames_too_large_for_the_format_are_refused(tmp_path: Path) -> None:
    wide = plain(1, 1, 16384)
    with pytest.raises(UserError, match="16384 x 1 pixels are too many, a side can be 16383"):
        write_animation(tmp_path / "film.webp", [wide], [1])
    write_animation(tmp_path / "film.gif", [wide], [1])


@pytest.mark.parametrize("name", ["film.mp4", "film", "film.png"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"must end in \.gif or \.webp"):
        check_animation(tmp_path / name)


def test_a_folder_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "film.gif").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        check_animation(tmp_path / "film.gif")
