from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.animations import check_animation, films, pace, write_animation
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
    for frames, times in (
        ([plain(1), plain(1, 41)], [1, 1]),
        ([], []),
        ([plain(1)], [1, 1]),
        ([plain(1), plain(2), plain(3)], [1, 1]),
    ):
        with pytest.raises(ValueError, match=r"one size|frames"):
            write_animation(tmp_path / name, frames, times)
    assert not any(tmp_path.iterdir())


def test_frames_too_large_for_the_format_are_refused(tmp_path: Path) -> None:
    wide = plain(1, 1, 16384)
    with pytest.raises(UserError, match="16384 x 1 pixels are too many, a side can be 16383"):
        write_animation(tmp_path / "film.webp", [wide], [1])
    write_animation(tmp_path / "film.gif", [wide], [1])


@pytest.mark.parametrize("name", ["film.avi", "film", "film.png"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"must end in \.gif, \.webp, \.mp4"):
        check_animation(tmp_path / name)


@FORMATS
def test_frames_are_not_kept(tmp_path: Path, name: str) -> None:
    alive: list[weakref.ref[Picture]] = []

    def frames() -> Iterator[Picture]:
        for level in range(6):
            assert sum(each() is not None for each in alive) <= 1
            frame = plain(40 * level)
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    write_animation(tmp_path / name, frames(), [40] * 6)
    assert len(frames_of(tmp_path / name)) == 6


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something of that name that writes its arguments and what it got; it fails beside a file 'fail'."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "if pathlib.Path(__file__).with_name('fail').exists(): sys.exit('no such encoder')\n"
        "got = sys.stdin.buffer.read()\n"
        "pathlib.Path(sys.argv[-1]).write_text(' '.join(sys.argv[1:-1]) + f' {len(got)} {sorted(set(got))}')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.usefixtures("ffmpeg")
def test_a_film_has_frames_at_an_even_rate(tmp_path: Path) -> None:
    write_animation(tmp_path / "film.mp4", [plain(10, 4, 6), plain(20, 4, 6), plain(30, 4, 6)], [20, 60, 120])
    said = (tmp_path / "film.mp4").read_text()
    assert "-s 6x4 -framerate 25" in said
    assert said.endswith(f" {5 * 4 * 6 * 3} [20, 30]"), "20 ms are nearer to none than to one of 40 ms"


def test_what_ffmpeg_cannot_do_is_one_line(tmp_path: Path, ffmpeg: Path) -> None:
    (ffmpeg / "fail").touch()
    with pytest.raises(UserError, match=r"cannot write .*film\.mp4: ffmpeg says: no such encoder"):
        write_animation(tmp_path / "film.mp4", [plain(10, 400, 400)] * 30, [40] * 30)
    assert not (tmp_path / "film.mp4").exists()


def test_a_film_that_breaks_off_leaves_nothing(tmp_path: Path, ffmpeg: Path) -> None:
    def frames() -> Iterator[Picture]:
        yield plain(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_animation(tmp_path / "film.mp4", frames(), [40, 40])
    assert list(tmp_path.iterdir()) == [ffmpeg]


def test_without_ffmpeg_there_is_no_mp4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not films()
    with pytest.raises(UserError, match="ffmpeg, which makes MP4, is not installed"):
        check_animation(tmp_path / "film.mp4")


def test_a_folder_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "film.gif").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        check_animation(tmp_path / "film.gif")
