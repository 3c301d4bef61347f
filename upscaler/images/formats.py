"""The seven picture formats: what each can hold, and how libvips (for BMP Pillow) reads and writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from upscaler.images.containers import add_tiff_exif, with_gif_xmp
from upscaler.images.metadata import Metadata, fitting_icc, pixels_per_mm, upright_exif
from upscaler.images.xmp import updated

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[Any]
"""(H, W, C), uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".png": "png",
        ".jpg": "jpeg",
        ".jpeg": "jpeg",
        ".webp": "webp",
        ".tif": "tiff",
        ".tiff": "tiff",
        ".avif": "avif",
        ".bmp": "bmp",
        ".gif": "gif",
    }
)
"""File name suffixes, in lower case, and the format each stands for."""


def format_named(name: str) -> str | None:
    """The format that a person means by its name or by a suffix, in any case, with a dot or without."""
    return SUFFIXES.get(f".{name.lower().removeprefix('.')}")


@dataclass(frozen=True)
class Format:
    """What a format, as it is written here, can hold.

    Args:
        side: longest width and height in pixels.
        depth: most bits of a channel.
        alpha: whether it has transparency.
        quality: that of a file where none is asked for; None where every file is lossless or as good as it gets.
        exif: whether it carries EXIF.
        xmp: longest XMP packet in bytes.
    """

    side: int
    depth: int = 8
    alpha: bool = True
    quality: int | None = None
    exif: bool = True
    xmp: int = 2**30


_MOST = 99_999_999
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "png": Format(side=_MOST, depth=16),
        "jpeg": Format(side=65_500, alpha=False, quality=95, xmp=65_502),
        "webp": Format(side=16_383, quality=95),
        "tiff": Format(side=_MOST, depth=16),
        "avif": Format(side=16_384, depth=12, quality=80),
        "bmp": Format(side=_MOST, alpha=False, exif=False, xmp=0),
        "gif": Format(side=65_535, exif=False),
    }
)
BMP_BYTES = 2**32 - 2**16
"""BMP counts its bytes in 32 bits."""

# A TIFF of more is a BigTIFF; what deflate adds to incompressible pixels, and metadata, fit in the rest.
_TIFF_BYTES = 4_000_000_000
# For files that state no resolution where libvips always writes one.
_USUAL_DPI = (72.0, 72.0)


@cache
def vips() -> Any:
    """The pyvips module, on first use: importing it takes longer than showing a command's help."""
    import pyvips

    # A remembered operation keeps its file open and its decoder alive, and no file is decoded alike twice.
    pyvips.cache_set_max(0)
    return pyvips


def reason(error: Exception) -> str:
    """What went wrong, in one line, from an exception of pyvips, Pillow or the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in getattr(error, "detail", str(error)).splitlines() if line.strip()]
    system = [line.removeprefix("system error: ") for line in lines if re.match("system error: (?!Unknown)", line)]
    return (system or lines or [type(error).__name__])[0]


def takes_quality(format: str) -> bool:
    """Whether files of this format are compressed as strongly as one says."""
    return FORMATS[format].quality is not None


def identify(head: bytes) -> str | None:
    """The format of a file from its first 64 bytes; None if it is none of the seven."""
    if head[4:8] == b"ftyp":
        brands = head[8 : max(int.from_bytes(head[:4], "big"), 12)]
        return "avif" if {brands[i : i + 4] for i in range(0, len(brands), 4)} & {b"avif", b"avis"} else None
    if head[:4] == b"RIFF":
        return "webp" if head[8:12] == b"WEBP" else None
    for magic, name in (
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpeg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"II+\0", "tiff"),
        (b"MM\0+", "tiff"),
        (b"BM", "bmp"),
    ):
        if head.startswith(magic):
            return name
    return None


def decoded(path: Path, format: str, *, sequential: bool) -> Any:
    """A file other than a BMP as a vips image whose pixels are read when they are asked for.

    Args:
        sequential: the pixels will be asked for from top to bottom only, so none need be kept.

    Raises:
        OSError, pyvips.Error: it cannot be read.
    """
    image_class = vips().Image
    load = {
        "png": image_class.pngload_source,
        "jpeg": image_class.jpegload_source,
        "webp": image_class.webpload_source,
        "tiff": image_class.tiffload_source,
        "avif": image_class.heifload_source,
        "gif": image_class.gifload_source,
    }[format]
    # Not by name: libvips reads options out of names with brackets.
    with path.open("rb") as file:
        source = vips().Source.new_from_descriptor(file.fileno())
    return load(source, access="sequential" if sequential else "random", fail_on="truncated")


def bitmap(file: BinaryIO) -> Image:
    """A BMP whose pixels are not read yet; its size is not limited as by ``PIL.Image.open``.

    Raises:
        OSError: it cannot be read.
    """
    from PIL.BmpImagePlugin import BmpImageFile

    try:
        return BmpImageFile(file)
    except Exception as error:
        # Pillow's parser stumbles over broken files in many ways.
        raise OSError(str(error)) from error


def bitmap_pixels(image: Image) -> Pixels:
    """The pixels of a BMP: grey, RGB, or RGB and alpha.

    Raises:
        OSError: it cannot be read.
    """
    try:
        pixels = np.asarray(image.convert(bitmap_mode(image)))
    except Exception as error:
        raise OSError(str(error)) from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def bitmap_mode(image: Image) -> str:
    """Pillow's name of what ``bitmap_pixels`` gives."""
    return {"1": "L", "L": "L", "RGBA": "RGBA"}.get(image.mode, "RGB")


def stored(rows: Pixels, format: str) -> Pixels:
    """Rows with the depth and channels that the format holds: 16 bits rounded to 8, alpha laid over white."""
    limits = FORMATS[format]
    if rows.dtype == np.uint16 and limits.depth == 8:
        rows = ((rows.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if rows.shape[2] in (2, 4) and not limits.alpha:
        colour, alpha = rows[..., :-1].astype(np.uint32), rows[..., -1:].astype(np.uint32)
        rows = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return rows


def storable(
    metadata: Metadata,
    format: str,
    *,
    width: int,
    height: int,
    channels: int,
    provenance: dict[str, Any] | None,
) -> Metadata:
    """Metadata for a result of that size: what fits it and its format, with the provenance in the XMP."""
    limits = FORMATS[format]
    # The provenance decides what is done again later, so it has precedence over a long packet.
    packets = (updated(xmp, width, height, provenance) for xmp in (metadata.xmp, None))
    return replace(
        metadata,
        icc=fitting_icc(metadata.icc, channels),
        exif=upright_exif(metadata.exif, width, height) if limits.exif else None,
        xmp=next((packet for packet in packets if packet is not None and len(packet) <= limits.xmp), None),
    )


def encode(image: Any, file: BinaryIO, format: str, metadata: Metadata, quality: int | None) -> None:
    """Write a vips image, of the depth and channels that ``stored`` leaves, as a complete file.

    Args:
        image: 8 or 16 bits; its pixels are asked for once, downwards.
        file: empty, open for reading and writing.
        metadata: what ``storable`` gave.
        quality: 1..100, None for the format's own.

    Raises:
        OSError, pyvips.Error: it cannot be written.
    """
    if format == "bmp":
        _encode_bitmap(image, file, metadata)
        return
    image = _described(image, metadata)
    target = vips().Target.new_to_descriptor(file.fileno())
    quality = quality or FORMATS[format].quality
    # libvips makes up an EXIF block where there is none; only there do these keep a resolution.
    with_exif = metadata.exif is not None or (metadata.dpi is not None and format in ("jpeg", "webp", "avif"))
    keep = "exif|xmp|icc|other" if with_exif else "xmp|icc|other"
    if format == "png":
        image.pngsave_target(target, compression=4, filter="sub", keep=keep)
    elif format == "jpeg":
        image.jpegsave_target(target, Q=quality, subsample_mode="off", keep=keep)
    elif format == "webp":
        image.webpsave_target(target, Q=quality, lossless=quality == 100, exact=True, keep=keep)
    elif format == "avif":
        depth = 12 if image.format == "ushort" else 8
        image.heifsave_target(target, compression="av1", Q=quality, bitdepth=depth, subsample_mode="off", keep=keep)
    elif format == "gif":
        content = image.gifsave_buffer(keep=keep)
        file.write(content if metadata.xmp is None else with_gif_xmp(content, metadata.xmp))
    else:
        size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
        big = size > _TIFF_BYTES
        image.tiffsave_target(target, compression="deflate", predictor="horizontal", bigtiff=big, keep=keep)
        if metadata.exif is not None:
            add_tiff_exif(file, metadata.exif)
    file.flush()


def _described(image: Any, metadata: Metadata) -> Any:
    across, down = pixels_per_mm(metadata.dpi or _USUAL_DPI)
    image = image.copy(xres=across, yres=down)
    blob = vips().GValue.blob_type
    for name, value in (
        ("icc-profile-data", metadata.icc),
        ("exif-data", metadata.exif),
        ("xmp-data", metadata.xmp),
    ):
        if value is not None:
            image.set_type(blob, name, value)
    image.set_type(vips().GValue.gstr_type, "resolution-unit", "in")
    return image


def _encode_bitmap(image: Any, file: BinaryIO, metadata: Metadata) -> None:
    from PIL.Image import fromarray

    pixels = np.frombuffer(image.write_to_memory(), np.uint8).reshape(image.height, image.width, image.bands)
    bmp = fromarray(pixels[..., 0] if image.bands == 1 else pixels)
    bmp.save(file, "BMP", dpi=metadata.dpi or _USUAL_DPI)
    file.flush()
