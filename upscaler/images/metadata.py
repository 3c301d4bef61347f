"""What a picture file says about itself: colour profile, EXIF, XMP and resolution."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Exif

Result = TypeVar("Result")

_MM_PER_INCH = 25.4
_CM_PER_INCH = 2.54

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_PIXEL_X, _PIXEL_Y, _MAKER_NOTE = 0xA002, 0xA003, 0x927C

_DESCRIPTIVE = frozenset(
    (0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749, _EXIF_IFD, _GPS_IFD)
) | frozenset(range(0x9C9B, 0x9CA0))
"""Tags of a first directory about the photograph and its author; the others say how one file stores its pixels."""

# Silencing warnings is not safe between threads, and pictures are read in one and written in another.
_ONE_AT_A_TIME = Lock()
_EXIF_MAGIC = b"Exif\0\0"
_EXIF_BYTES = 65_200
"""The room of a JPEG's segment, less what libvips adds; it leaves out a longer block in all formats but TIFF."""
_ICC_HEADER = 128
_ICC_SPACE = slice(16, 20)
_ICC_MAGIC = slice(36, 40)


@dataclass(frozen=True)
class Metadata:
    """What travels with the pixels; None where a file says nothing.

    Args:
        icc: an ICC profile.
        exif: an EXIF block that begins with ``Exif\\0\\0``.
        xmp: an XMP packet.
        dpi: pixels per inch, across and down.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def fitting_icc(icc: bytes | None, channels: int) -> bytes | None:
    """The profile if it is whole and for the colours of a picture of that many channels (1 and 2 are grey), else None.

    It states its length; libpng refuses a profile with anything behind that.
    """
    space = b"GRAY" if channels < 3 else b"RGB "
    if icc is None or icc[_ICC_SPACE] != space or icc[_ICC_MAGIC] != b"acsp":
        return None
    length = int.from_bytes(icc[:4], "big")
    return icc[:length] if _ICC_HEADER <= length <= len(icc) else None


def dots_per_inch(per_mm: tuple[float, float]) -> tuple[float, float] | None:
    """Pixels per inch from pixels per millimetre, or None if they are not positive.

    PNG counts whole pixels per metre, so 300 becomes 299.9994; what is that near to a whole number is it.
    """
    exact = [value * _MM_PER_INCH for value in per_mm]
    if not all(0 < value < 1e6 for value in exact):
        return None
    across, down = (float(round(value)) if abs(value - round(value)) < 0.013 else value for value in exact)
    return across, down


def pixels_per_mm(dpi: tuple[float, float]) -> tuple[float, float]:
    """The inverse of ``dots_per_inch``."""
    return dpi[0] / _MM_PER_INCH, dpi[1] / _MM_PER_INCH


def upright_exif(block: bytes | None, width: int, height: int) -> bytes | None:
    """An EXIF block for upright pixels of that size: orientation 1, sizes updated, no thumbnail.

    The maker's note, which no other program can read after a change, makes way where the block would be too long.

    Returns:
        None for no block, and for one that cannot be understood or says nothing of the photograph.
    """

    def written(exif: Exif) -> bytes | None:
        exif.load(block or b"")
        return _upright(exif, width, height)

    return _parsed(written)


def upright_tiff_exif(file: BinaryIO, order: str, big: bool, first: int, width: int, height: int) -> bytes | None:
    """``upright_exif`` of the first directory of a TIFF file, of that byte order, BigTIFF or not, at that offset."""

    def written(exif: Exif) -> bytes | None:
        exif.endian, exif.bigtiff = order, big
        exif.load_from_fp(file, first)
        exif.bigtiff = False
        return _upright(exif, width, height)

    return _parsed(written)


def exif_directory(block: bytes, order: str, big: bool, offset: int) -> bytes | None:
    """An EXIF block as a TIFF directory and its values, to stand at that offset of a file; None if it is broken."""

    def written(exif: Exif) -> bytes:
        exif.load(block)
        for tag in (_EXIF_IFD, _GPS_IFD):
            exif.get_ifd(tag)
        exif.endian, exif.bigtiff = order, big
        return exif.tobytes(offset)[len(_EXIF_MAGIC) + (16 if big else 8) :]

    return _parsed(written)


def exif_dpi(block: bytes) -> tuple[float, float] | None:
    """The resolution in an EXIF block, or None."""

    def resolution(exif: Exif) -> tuple[float, float] | None:
        exif.load(block)
        if _X_RESOLUTION not in exif or _Y_RESOLUTION not in exif:
            return None
        per_mm = 1 / _MM_PER_INCH if exif.get(_RESOLUTION_UNIT, 2) == 2 else _CM_PER_INCH / _MM_PER_INCH
        return dots_per_inch((float(exif[_X_RESOLUTION]) * per_mm, float(exif[_Y_RESOLUTION]) * per_mm))

    return _parsed(resolution)


def _upright(exif: Exif, width: int, height: int) -> bytes | None:
    for tag in set(exif) - _DESCRIPTIVE:
        del exif[tag]
    if not len(exif):
        return None
    exif[_ORIENTATION] = 1
    details = exif.get_ifd(_EXIF_IFD)
    for tag, size in ((_PIXEL_X, width), (_PIXEL_Y, height)):
        if tag in details:
            details[tag] = size
    exif.get_ifd(_GPS_IFD)
    if len(block := exif.tobytes()) > _EXIF_BYTES and _MAKER_NOTE in details:
        del details[_MAKER_NOTE]
        block = exif.tobytes()
    return block


def _parsed(use: Callable[[Exif], Result]) -> Result | None:
    """What ``use`` makes of an empty Exif object that it loads; None if the bytes are beyond understanding."""
    from PIL.Image import Exif

    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return use(Exif())
        except Exception:  # noqa: BLE001 - hostile bytes; whatever the parser stumbles on, there is no EXIF
            return None
