"""Animations: pictures of one size one after the other, over and over, as GIF or WebP, or as MP4 where ffmpeg is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from shutil import copyfileobj, which
from tempfile import TemporaryDirectory
from typing import IO, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.formats import FORMATS
from upscaler.saving import check_place, whole_file

Frame = NDArray[np.uint8]

_FORMATS = {".gif": "gif", ".webp": "webp", ".mp4": "mp4"}
_FFMPEG = "ffmpeg"
_RATE = 25
"""Frames of a second of MP4."""
_BITS = 0.4
"""Of MP4 for each pixel of a frame, which every encoder takes: fur and grain stay without blocks."""
_COLOURS = 256
_ASKED = 40_000
"""Pixels that choose the colours of a GIF's frame; choosing takes long."""
_HELD = 2000
_MOVING, _SHORTEST, _LONGEST = 4500, 120, 700
"""Milliseconds: of all frames but the last one, and of each."""


def films() -> bool:
    """Whether MP4 can be written: ffmpeg is installed."""
    return which(_FFMPEG) is not None


def pace(count: int) -> list[int]:
    """Milliseconds for each of so many frames: some seconds for them all, and two for the last one."""
    others = max(count - 1, 0)
    return [min(max(_MOVING // max(others, 1), _SHORTEST), _LONGEST)] * others + [_HELD]


def check_animation(path: Path) -> None:
    """Refuse a file that could not be written, before the work that makes its frames.

    Raises:
        UserError: its name does not end in ``.gif``, ``.webp`` or ``.mp4``, ffmpeg is not there for the last, or it
            would lie in a place that cannot be written to.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"cannot write {path}: the name of an animation must end in {', '.join(_FORMATS)}")
    if _FORMATS[path.suffix.lower()] == "mp4" and not films():
        raise UserError(f"cannot write {path}: ffmpeg, which makes MP4, is not installed; write .webp or .gif")
    check_place(path)


def write_animation(path: Path, frames: Iterable[Frame], milliseconds: Sequence[int]) -> None:
    """Write an animation that begins again for ever, as what its name ends in. It appears complete or not at all.

    Args:
        path: ends in ``.gif``, which has 256 colours a frame, dithered, and times in hundredths of a second; in
            ``.webp``; or in ``.mp4``, of 25 frames a second, where it is the player that begins again. The folder is
            made where it is missing.
        frames: (H, W, 3) each, all of one size. Each is asked for when it is its turn and not kept, but that GIF
            keeps all of them, at a byte a pixel.
        milliseconds: how long each of them stays.

    Raises:
        ValueError: no frames, frames of different sizes, or not as many times.
        UserError: what ``check_animation`` refuses, frames too large for the format, or a file that cannot be written.
    """
    check_animation(path)
    format = _FORMATS[path.suffix.lower()]
    with whole_file(path) as file:
        checked = _checked(path, frames, len(milliseconds), format)
        if format == "mp4":
            _write_mp4(path, file, checked, milliseconds)
            return
        film: Image.Image = _Film(checked, len(milliseconds), colours=_COLOURS if format == "gif" else None)
        quality = {} if format == "gif" else {"quality": 90, "method": 2}
        film.save(file, format, save_all=True, duration=list(milliseconds), loop=0, **quality)
        # Looks whether there are more.
        next(checked, None)


def _checked(path: Path, frames: Iterable[Frame], count: int, format: str) -> Iterator[Frame]:
    """The frames, as many as there are times."""
    shape, seen = None, 0
    for seen, frame in enumerate(frames, start=1):
        if shape is None:
            shape = frame.shape
            side = FORMATS[format].side if format in FORMATS else None
            if side and max(shape) > side:
                raise UserError(
                    f"cannot write {path}: {shape[1]} x {shape[0]} pixels are too many, a side can be {side}"
                )
        if frame.shape != shape:
            raise ValueError(f"an animation needs frames of one size, not {frame.shape} after {shape}")
        if seen <= count:
            yield frame
    if seen != count or not count:
        raise ValueError(f"an animation of {seen} frames and {count} times")


class _Film(Image.Image):
    """Frames as Pillow's writers take a file with several: one after the other, not all in memory.

    Args:
        frames: in their order.
        count: how many.
        colours: of the palette that each frame gets; None leaves them in RGB.
    """

    def __init__(self, frames: Iterator[Frame], count: int, colours: int | None) -> None:
        super().__init__()
        self.n_frames, self._frames, self._colours, self._number = count, frames, colours, -1
        self.seek(0)

    def tell(self) -> int:
        return self._number

    def seek(self, frame: int) -> None:
        # Writers go back to the beginning when they have finished.
        if frame <= self._number:
            return
        image = next(self._frames, None)
        if image is None:
            raise EOFError
        self._number = frame
        shown = Image.fromarray(image)
        if self._colours:
            step = ceil((shown.height * shown.width / _ASKED) ** 0.5)
            palette = Image.fromarray(image[::step, ::step]).quantize(self._colours, kmeans=1)
            shown = shown.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        self.im, self.palette, self._mode, self._size = shown.im, shown.palette, shown.mode, shown.size


def _write_mp4(path: Path, file: BinaryIO, frames: Iterator[Frame], milliseconds: Sequence[int]) -> None:
    # Through a file of its own: ffmpeg goes back to the head of what it writes, which a pipe does not allow.
    with TemporaryDirectory() as folder:
        made, told = Path(folder, "film.mp4"), Path(folder, "errors")
        with told.open("wb") as errors:
            code = _run_ffmpeg(made, errors, frames, milliseconds)
        if code:
            said = told.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
            raise UserError(f"cannot write {path}: ffmpeg says: {said[-1]}")
        with made.open("rb") as source:
            copyfileobj(source, file)


def _run_ffmpeg(made: Path, errors: BinaryIO, frames: Iterator[Frame], milliseconds: Sequence[int]) -> int:
    first = next(frames)
    command = [which(_FFMPEG) or _FFMPEG, "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{first.shape[1]}x{first.shape[0]}", "-framerate", str(_RATE), "-i", "-"]
    command += ["-b:v", str(int(first.shape[0] * first.shape[1] * _RATE * _BITS))]
    # What every player can show: 4:2:0, which needs even sizes, and the index before the pictures.
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(made)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors)  # noqa: S603 - no shell
    shown = until = 0
    try:
        with cast(IO[bytes], process.stdin) as pipe:
            for frame, time in zip(chain([first], frames), milliseconds, strict=True):
                until += time
                while shown < round(until * _RATE / 1000):
                    pipe.write(frame.data)
                    shown += 1
    except BrokenPipeError:
        pass  # ffmpeg has given up, and says why
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.wait()
