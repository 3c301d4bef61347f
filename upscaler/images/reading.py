"""Read picture files in bands of rows, each brought to 8 or 16 bits of grey or RGB, with or without alpha."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upscaler.errors import UserError
from upscaler.images.containers import is_plain_ycbcr, is_sequence, tiff_exif
from upscaler.images.formats import (
    Pixels,
    bitmap,
    bitmap_mode,
    bitmap_pixels,
    decoded,
    identify,
    reason,
    vips,
)
from upscaler.images.metadata import Metadata, dots_per_inch, exif_dpi, fitting_icc, upright_exif
from upscaler.images.pipes import bands_of

_BOMB_PIXELS = 100_000_000
_BOMB_RATIO = 200
_READ_ROWS = 256
# Pixels per millimetre that libvips gives for a file that does not say; WebP and AVIF never do outside of EXIF.
_UNSTATED = {"png": 2.834, "jpeg": 72 / 25.4, "tiff": 1.0}
_GREY = ("b-w", "grey16")
_RGB = ("srgb", "rgb", "rgb16")
_CONVERTED = ("lab", "labq", "labs", "xyz", "yxy", "lch", "cmc", "hsv")
_NUMBERS = {
    "char": "signed 8-bit",
    "short": "signed 16-bit",
    "uint": "32-bit",
    "int": "signed 32-bit",
    "float": "32-bit floating-point",
    "double": "64-bit floating-point",
}


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Args:
        pixels: (H, W, C), uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha;
            upright, colours not multiplied by alpha.
        metadata: what its file says about it.
    """

    pixels: Pixels
    metadata: Metadata


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file, as ``open_picture`` found it; its pixels are read when they are asked for.

    Args:
        path: of the file.
        format: by the file's content; a value of ``SUFFIXES``.
        width, height: of the upright picture.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        depth: 8 or 16 bits per channel.
        metadata: for the upright picture.
    """

    path: Path
    format: str
    width: int
    height: int
    channels: int
    depth: int
    metadata: Metadata

    def bands(self, rows: int) -> Iterator[Pixels]:
        """The pixels from top to bottom, (that many rows or at the end fewer, width, channels), uint8 or uint16.

        Starts from the top whenever it is called. Only the rows at hand are in memory, except with
        WebP, AVIF, GIF, BMP, interlaced PNG and progressive JPEG, which are decoded as a whole; and a
        picture that is to be turned goes through memory or, from 100 MB on, a temporary file.

        Raises:
            UserError: the file is damaged, or not the one any more that was opened.
        """
        with reading(self.path):
            if self.format == "bmp":
                with self.path.open("rb") as file:
                    pixels = bitmap_pixels(bitmap(file))
                self._check(pixels.shape)
                for top in range(0, self.height, rows):
                    yield pixels[top : top + rows]
                return
            image = _in_kind(self.path, _upright(self.path, self.format))
            self._check((image.height, image.width, image.bands))
            yield from bands_of(image, rows)

    def read(self) -> Picture:
        """The whole picture.

        Raises:
            UserError: as for ``bands``.
        """
        pixels = np.empty((self.height, self.width, self.channels), _dtype(self.depth))
        top = 0
        for band in self.bands(_READ_ROWS):
            pixels[top : top + len(band)] = band
            top += len(band)
        return Picture(pixels, self.metadata)

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape != (self.height, self.width, self.channels):
            raise UserError(f"cannot read {self.path}: the file changed in the meantime; try again")


def open_picture(path: str | Path, *, first_frame: bool = False, trusted: bool = False) -> PictureFile:
    """Look at a picture file without reading its pixels (those of a BMP neither).

    Args:
        path: of a PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF; its suffix does not matter.
        first_frame: take the first of several frames or pages.
        trusted: srup wrote the file itself, so however small it is for its pixels it is no bomb.

    Raises:
        UserError: no such file, another format, a damaged file, a kind of pixels that cannot be kept
            as 8 or 16 bits of grey or RGB with or without alpha, several frames without
            ``first_frame``, or a file that is suspiciously small for its pixels.
    """
    path = Path(path)
    with reading(path):
        format = format_of(path)
        if format == "bmp":
            return _open_bitmap(path, trusted)
        raw = decoded(path, format, sequential=True)
        sample = 2 if raw.format == "ushort" else 1
        if not trusted:
            _refuse_bomb(path, raw.width * raw.height, raw.width * raw.height * raw.bands * sample)
        if not first_frame:
            _refuse_frames(path, format, raw)
        if format == "tiff":
            _refuse_ycbcr(path)
        image = _in_kind(path, _upright(path, format))
        return PictureFile(
            path=path,
            format=format,
            width=image.width,
            height=image.height,
            channels=image.bands,
            depth=16 if image.format == "ushort" else 8,
            metadata=_metadata(path, format, raw, image),
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Failures of the system, libvips and Pillow become one line about the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: there is no such file") from error
    except (OSError, vips().Error) as error:
        raise UserError(f"cannot read {path}: {_explained(reason(error))}") from error


def _explained(cause: str) -> str:
    if "No space left" in cause:
        return f"{cause} for a temporary file; free some, or set TMPDIR to a folder with room"
    return cause if cause == "Permission denied" else f"{cause}; the file is damaged or of an unusual kind"


def format_of(path: Path) -> str:
    """The format of a file, by its content.

    Raises:
        OSError, UserError: it cannot be read, or is none of the seven.
    """
    if path.exists() and not path.is_file():
        raise UserError(
            f"cannot read {path}: it is {'a folder, not a picture' if path.is_dir() else 'no regular file'}"
        )
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise UserError(f"cannot read {path}: the file is empty")
    found = identify(head)
    if found is None:
        raise UserError(f"cannot read {path}: it is not a PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF picture")
    return found


def _open_bitmap(path: Path, trusted: bool) -> PictureFile:
    with path.open("rb") as file:
        image = bitmap(file)
        channels = len(bitmap_mode(image)) if bitmap_mode(image) != "L" else 1
        if not trusted:
            _refuse_bomb(path, image.width * image.height, image.width * image.height * channels)
        dpi = image.info.get("dpi")
        per_mm = None if dpi is None else (dpi[0] / 25.4, dpi[1] / 25.4)
        return PictureFile(
            path=path,
            format="bmp",
            width=image.width,
            height=image.height,
            channels=channels,
            depth=8,
            metadata=Metadata(dpi=None if per_mm is None else dots_per_inch(per_mm)),
        )


def _refuse_bomb(path: Path, pixels: int, size: int) -> None:
    if pixels > _BOMB_PIXELS and size > _BOMB_RATIO * path.stat().st_size:
        raise UserError(
            f"cannot read {path}: {pixels / 1e6:.0f} megapixels in a file of {path.stat().st_size} bytes look like "
            "a decompression bomb; if you trust it, save it as an uncompressed TIFF first"
        )


def _refuse_frames(path: Path, format: str, image: Any) -> None:
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    several = f"{pages} {'pages' if format == 'tiff' else 'frames'}" if pages > 1 else ""
    if format in ("png", "avif"):
        with path.open("rb") as file:
            several = several or ("several frames" if is_sequence(file, format) else "")
    if several:
        raise UserError(
            f"cannot read {path}: it has {several}; save one by itself (upscale and prepare-data have --first-frame)"
        )


def _refuse_ycbcr(path: Path) -> None:
    with path.open("rb") as file:
        if is_plain_ycbcr(file):
            raise UserError(f"cannot read {path}: its colours are YCbCr; convert it to RGB first")


def _upright(path: Path, format: str) -> Any:
    """The picture with its orientation applied. A mirror image still runs from top to bottom, a turned one does not."""
    image = decoded(path, format, sequential=True)
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    return (image if orientation <= 2 else decoded(path, format, sequential=False)).autorot()


def _in_kind(path: Path, image: Any) -> Any:
    """The picture as 8 or 16 bits of grey or RGB, with or without alpha."""
    if image.interpretation in _CONVERTED:
        image = image.colourspace("rgb16" if image.format in ("short", "ushort") else "srgb")
    if image.format not in ("uchar", "ushort"):
        numbers = _NUMBERS.get(image.format, image.format)
        raise UserError(f"cannot read {path}: its pixels are {numbers} numbers; convert it to 8 or 16 bits first")
    if image.interpretation == "cmyk":
        image = _rgb_from_cmyk(image)
    if image.interpretation not in _GREY + _RGB:
        raise UserError(f"cannot read {path}: its colour space is not known; convert it to RGB first")
    extra = image.bands - (1 if image.interpretation in _GREY else 3)
    if extra not in (0, 1):
        raise UserError(f"cannot read {path}: it has {extra} channels beside its colours; remove all but alpha first")
    return image


def _rgb_from_cmyk(image: Any) -> Any:
    """Through the embedded profile, or libvips' own where there is none. Further channels stay as they are."""
    depth = 16 if image.format == "ushort" else 8
    colours = image.extract_band(0, n=4).copy(interpretation="cmyk")
    rgb = colours.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    return rgb if image.bands == 4 else rgb.bandjoin(image.extract_band(4, n=image.bands - 4))


def _metadata(path: Path, format: str, raw: Any, image: Any) -> Metadata:
    exif = blob(raw, "exif-data")
    dpi = exif_dpi(exif) if exif is not None else None
    if raw.xres != _UNSTATED.get(format, raw.xres):
        dpi = dots_per_inch((raw.xres, raw.yres))
    if format == "tiff":
        with path.open("rb") as file:
            exif = tiff_exif(file, image.width, image.height)
    else:
        exif = upright_exif(exif, image.width, image.height)
    same_colours = raw.interpretation in _GREY + _RGB
    icc = fitting_icc(blob(raw, "icc-profile-data"), image.bands) if same_colours else None
    return Metadata(icc=icc, exif=exif, xmp=blob(raw, "xmp-data"), dpi=dpi)


def blob(image: Any, name: str) -> bytes | None:
    """Bytes that come with a vips image, or None."""
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _dtype(depth: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if depth == 8 else np.uint16
