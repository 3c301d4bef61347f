"""Pixels between Python and libvips, through pipes: neither side ever holds more than it works on.

libvips runs in a thread of its own at the other end. Its regions, which would hand out pixels
without a pipe, belong to the thread that made them and abort the process if another one, or the
garbage collector in another one, lets go of them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from threading import Thread
from typing import Any, BinaryIO

import numpy as np

from upscaler.images.formats import Pixels, reason, vips

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def bands_of(image: Any, rows: int) -> Iterator[Pixels]:
    """The pixels of a vips image from top to bottom, (that many rows or at the end fewer, width, channels).

    Raises:
        OSError: libvips cannot make them.
    """
    height, width, channels = image.height, image.width, image.bands
    dtype = np.uint16 if image.format == "ushort" else np.uint8
    receiving, sending = os.pipe()
    failures: list[str] = []
    thread = Thread(target=_send, args=(image, sending, failures), daemon=True)
    # Where the reader stops early, closing its end ends the thread; waiting for it is left to the others.
    with os.fdopen(receiving, "rb", buffering=0) as file:
        thread.start()
        for top in range(0, height, rows):
            band = np.empty((min(rows, height - top), width, channels), dtype)
            rest = band.data.cast("B")
            while rest:
                received = file.readinto(rest)
                if not received:
                    thread.join()
                    raise OSError(*failures)
                rest = rest[received:]
            yield band
        thread.join()


def _send(image: Any, sending: int, failures: list[str]) -> None:
    try:
        image.rawsave_target(vips().Target.new_to_descriptor(sending))
    except vips().Error as error:
        failures.append(reason(error))
    finally:
        os.close(sending)


class PngStream:
    """A PNG without compression, written in bands: what libvips reads from a pipe, with all depths and channels.

    Args:
        file: the end of a pipe.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._deflate = zlib.compressobj(level=0)

    def begin(self, width: int, height: int, channels: int, depth: int) -> None:
        """What comes before the rows."""
        self._put(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0))

    def write(self, rows: Pixels) -> None:
        """The next rows, (n, width, channels), uint8 or uint16."""
        line = rows.shape[1] * rows.shape[2] * rows.dtype.itemsize
        # Each line begins with the number of its filter, which is none.
        lines = np.zeros((len(rows), 1 + line), np.uint8)
        big_endian = np.ascontiguousarray(rows, rows.dtype.newbyteorder(">"))
        lines[:, 1:] = big_endian.view(np.uint8).reshape(len(rows), line)
        self._chunk(b"IDAT", self._deflate.compress(lines.data))

    def end(self) -> None:
        """What comes after the last row; without it the picture counts as cut off."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def close(self) -> None:
        """Close the pipe; more than once does no harm."""
        self._file.close()

    def _chunk(self, kind: bytes, content: bytes) -> None:
        self._put(struct.pack(">I", len(content)) + kind)
        self._put(content)
        self._put(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))

    def _put(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
