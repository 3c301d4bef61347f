"""Write a picture a band at a time; the file appears when it is complete, or not at all.

The bands go through a pipe to a thread in which libvips saves the format that was asked for.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np

from upscaler.errors import UserError
from upscaler.images.formats import (
    BMP_BYTES,
    FORMATS,
    SUFFIXES,
    Pixels,
    encode,
    format_named,
    reason,
    storable,
    stored,
    vips,
)
from upscaler.images.metadata import Metadata
from upscaler.images.pipes import PngStream
from upscaler.saving import check_place, whole_file

_DRAIN_BYTES = 2**20
_STREAMED_BYTES = 2**24


def check_output(
    path: str | Path,
    *,
    width: int,
    height: int,
    channels: int,
    depth: int,
    format: str | None = None,
) -> list[str]:
    """Whether a result can be written, before there is one.

    Args:
        path: of the file; folders above it may be missing if they can be made.
        width, height, channels, depth: of the result.
        format: a value or a suffix of ``SUFFIXES``; None goes by the suffix of ``path``.

    Returns:
        What the format will lose, in sentences for people.

    Raises:
        UserError: no known format, a picture too large for it, or a place that cannot be written to.
    """
    path = Path(path)
    name = _format(path, format)
    limits = FORMATS[name]
    if max(width, height) > limits.side:
        raise UserError(
            f"cannot write {path}: {width} x {height} pixels are too many for {name.upper()}, "
            f"where a side can be {limits.side}; use PNG or TIFF"
        )
    stride = (width * (1 if channels < 3 else 3) + 3) // 4 * 4
    if name == "bmp" and stride * height > BMP_BYTES:
        raise UserError(f"cannot write {path}: {width} x {height} pixels are too many for BMP; use PNG or TIFF")
    check_place(path)
    warnings = []
    if depth > limits.depth:
        warnings.append(f"{path}: {name.upper()} has {limits.depth} bits per channel; the {depth} are reduced")
    if channels in (2, 4) and not limits.alpha:
        warnings.append(f"{path}: {name.upper()} has no transparency; the picture is laid over white")
    if name == "gif":
        warnings.append(f"{path}: GIF has 256 colours and no partial transparency; use PNG to keep everything")
    return warnings


class PictureWriter:
    """Writes a picture file in bands, as a context manager.

    On a clean exit the complete file is under ``path``, with the permissions of the file that was
    there; on an exception nothing is left and an older file is as it was. Memory stays small for
    PNG, JPEG and TIFF; WebP, AVIF, GIF and BMP are encoded as a whole.

    16 bits become 8 (12 in AVIF) and alpha is laid over white where the format asks for it, as
    ``check_output`` tells. AVIF, WebP and GIF keep grey as RGB. Formats that always state a resolution
    say 72 dpi where ``metadata`` has none.

    Args:
        path: of the file; its folder is made where it is missing.
        width, height: of the whole picture.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        depth: 8 or 16.
        metadata: of the source; sizes and orientation in it become those of this picture, and what
            does not fit the channels or the format is left out.
        format: a value or a suffix of ``SUFFIXES``; None goes by the suffix of ``path``.
        quality: 1..100 for JPEG (95), WebP (95; 100 is lossless) and AVIF (80); others ignore it.
        provenance: how the picture was made, for ``read_provenance``; JSON values. BMP cannot keep it.

    Raises:
        UserError: what ``check_output`` refuses, a quality out of range; as a context manager: the file
            cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        channels: int,
        depth: int,
        metadata: Metadata,
        format: str | None = None,
        quality: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        check_output(path, width=width, height=height, channels=channels, depth=depth, format=format)
        if quality is not None and not 1 <= quality <= 100:
            raise UserError(f"a quality of {quality} is not possible; it must be 1 to 100")
        self.path = Path(path)
        self._shape = (height, width, channels)
        self._dtype = np.uint8 if depth == 8 else np.uint16
        self._format = _format(self.path, format)
        self._quality = quality
        self._metadata = storable(
            metadata, self._format, width=width, height=height, channels=channels, provenance=provenance
        )
        self._written = 0
        self._failure: Exception | None = None

    def __enter__(self) -> PictureWriter:
        with ExitStack() as begun:
            self._file = begun.enter_context(whole_file(self.path))
            receiving, sending = os.pipe()
            self._stream = PngStream(os.fdopen(sending, "wb", buffering=0))
            # A daemon: a second Ctrl-C while libvips is encoding shall not have to wait for it.
            self._saver = Thread(target=self._save, args=(receiving,), daemon=True)
            self._saver.start()
            begun.push(self._end)
            self._ends = begun.pop_all()
        return self

    def write(self, rows: Pixels) -> None:
        """The next rows, (n, width, channels), uint8 or uint16 as ``depth`` says.

        Raises:
            ValueError: other rows than were announced, or more.
            UserError: the file cannot be written, for example for want of space.
        """
        if rows.shape[1:] != self._shape[1:] or rows.dtype != self._dtype:
            raise ValueError(f"rows of {rows.shape} {rows.dtype} for a picture of {self._shape} {self._dtype.__name__}")
        if self._written + len(rows) > self._shape[0]:
            raise ValueError(f"more than {self._shape[0]} rows")
        if self._failure is not None:
            raise self._failure
        if not len(rows):
            return
        if self._written == 0:
            first = stored(rows[:1], self._format)
            self._stream.begin(self._shape[1], self._shape[0], first.shape[2], first.dtype.itemsize * 8)
        step = max(_STREAMED_BYTES // rows[0].nbytes, 1)
        for top in range(0, len(rows), step):
            self._stream.write(stored(rows[top : top + step], self._format))
        self._written += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.__exit__(kind, error, trace)

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._written == self._shape[0]:
            self._stream.end()
        self._stream.close()
        self._saver.join()
        if kind is None and self._written != self._shape[0]:
            raise ValueError(f"{self._written} rows of a picture of {self._shape[0]}")
        if kind is None and self._failure is not None:
            raise self._failure

    def _save(self, receiving: int) -> None:
        try:
            source = vips().Source.new_from_descriptor(receiving)
            image = vips().Image.pngload_source(source, access="sequential", fail_on="truncated")
            encode(image, self._file, self._format, self._metadata, self._quality)
        except (OSError, vips().Error) as error:
            # Without the error itself: its traceback would keep libvips' objects alive until they are
            # collected, in whatever thread that happens.
            self._failure = self._failed(error)
        except Exception as error:  # noqa: BLE001 - a bug; raised in the thread that writes
            self._failure = error
        finally:
            # The writing thread must not wait for a reader that is gone.
            while os.read(receiving, _DRAIN_BYTES):
                pass
            os.close(receiving)

    def _failed(self, error: Exception) -> UserError:
        cause = reason(error)
        advice = "; make room or choose another place" if "No space" in cause or "too large" in cause else ""
        return UserError(f"cannot write {self.path}: {cause}{advice}")


def _format(path: Path, format: str | None) -> str:
    known = ", ".join(SUFFIXES)
    if format is not None:
        if (name := format_named(format)) is None:
            raise UserError(f"the format {format!r} is not known; use one of {', '.join(FORMATS)}")
        return name
    if (name := SUFFIXES.get(path.suffix.lower())) is None:
        what = f"the suffix {path.suffix} is not known" if path.suffix else "its name has no suffix"
        raise UserError(f"cannot write {path}: {what}; use one of {known}, or --format")
    return name
