"""Parts of files that libvips leaves out: EXIF in TIFF, XMP in GIF, and what tells formats apart."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from upscaler.images.metadata import exif_directory, upright_tiff_exif

_IFD_POINTERS = frozenset((0x8769, 0x8825))
_LONG8 = 16
_COMPRESSION, _PHOTOMETRIC = 259, 262
_JPEG, _YCBCR = 7, 6
_LARGEST_XMP = 2**22
_XMP_APPLICATION = b"\x21\xff\x0bXMP DataXMP"
# Walks a decoder that skips unknown blocks by their length byte out of the packet, wherever it enters.
_XMP_TRAILER = b"\x01" + bytes(range(0xFF, -1, -1)) + b"\x00"


class _Tiff(NamedTuple):
    """How a TIFF file counts: byte order, sizes, and where its first directory is."""

    order: str
    big: bool
    pointer: int
    first: int

    @property
    def number(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "L"))

    @property
    def length(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHL4s"))


def tiff_exif(file: BinaryIO, width: int, height: int) -> bytes | None:
    """The EXIF of a TIFF file's first picture as a block for upright pixels of that size, or None."""
    tiff = _tiff(file)
    return upright_tiff_exif(file, tiff.order, tiff.big, tiff.first, width, height)


def is_plain_ycbcr(file: BinaryIO) -> bool:
    """Whether the first picture of a sound TIFF file has YCbCr outside of JPEG, which libvips takes for RGB."""
    tiff = _tiff(file)
    values = {tag: struct.unpack(f"{tiff.order}H", value[:2])[0] for tag, _, _, value in _directory(file, tiff)}
    return values.get(_PHOTOMETRIC) == _YCBCR and values.get(_COMPRESSION) != _JPEG


def add_tiff_exif(file: BinaryIO, block: bytes) -> None:
    """Put an EXIF block into the first directory of a TIFF file that was written complete.

    The directory is written again at the end, with the new entries in it; the pixels stay where they are.

    Raises:
        OSError: the file cannot be written.
    """
    tiff = _tiff(file)
    own = _directory(file, tiff)
    following = file.read(tiff.number.size)
    end = file.seek(0, 2)
    end += file.write(b"\0" * (end % 2))
    added = exif_directory(block, tiff.order, tiff.big, end)
    if added is None:
        return
    (count,) = tiff.length.unpack_from(added)
    entries = {
        entry[0]: entry
        for entry in tiff.entry.iter_unpack(added[tiff.length.size : tiff.length.size + count * tiff.entry.size])
    }
    for tag in _IFD_POINTERS & entries.keys():
        if tiff.big:
            entries[tag] = (tag, _LONG8, *entries[tag][2:])
    merged = sorted((entries | {entry[0]: entry for entry in own}).values())
    directory = end + file.write(added)
    file.write(tiff.length.pack(len(merged)) + b"".join(tiff.entry.pack(*entry) for entry in merged) + following)
    file.seek(tiff.pointer)
    file.write(tiff.number.pack(directory))


def gif_xmp(file: BinaryIO) -> bytes | None:
    """The XMP packet of a GIF file that stands before its first picture, or None."""
    head = file.read(13)
    file.seek(_colour_table(head), 1)
    while file.read(1) == b"\x21":
        start = file.tell() - 1
        if file.read(13) == _XMP_APPLICATION[1:]:
            rest = file.read(_LARGEST_XMP)
            end = rest.find(_XMP_TRAILER)
            return rest[:end] if end >= 0 else None
        file.seek(start + 2)
        while length := int.from_bytes(file.read(1), "little"):
            file.seek(length, 1)
    return None


def with_gif_xmp(content: bytes, packet: bytes) -> bytes:
    """A complete GIF file with an XMP packet put before its first picture."""
    start = 13 + _colour_table(content)
    return content[:start] + _XMP_APPLICATION + packet + _XMP_TRAILER + content[start:]


def is_sequence(file: BinaryIO, format: str) -> bool:
    """Whether a PNG is animated or an AVIF a sequence, which libvips does not tell."""
    if format == "avif":
        return file.read(12)[8:] == b"avis"
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">L4s", head)
        if kind in (b"acTL", b"IDAT"):
            return bool(kind == b"acTL")
        file.seek(length + 4, 1)
    return False


def _colour_table(head: bytes) -> int:
    """Bytes of the colour table that follows the first 13 bytes of a GIF file."""
    packed = int.from_bytes(head[10:11], "little")
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _tiff(file: BinaryIO) -> _Tiff:
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    pointer = 8 if big else 4
    return _Tiff(order, big, pointer, struct.unpack_from(order + ("Q" if big else "L"), head, pointer)[0])


def _directory(file: BinaryIO, tiff: _Tiff) -> list[tuple[int, int, int, bytes]]:
    """Tag, type, count and value of each entry of the first directory; the file stands behind them then."""
    file.seek(tiff.first)
    (count,) = tiff.length.unpack(file.read(tiff.length.size))
    return list(tiff.entry.iter_unpack(file.read(count * tiff.entry.size)))
