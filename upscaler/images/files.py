"""Read and write picture files: PNG, JPEG, WebP, TIFF, AVIF, BMP and GIF, in bands of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upscaler.errors import UserError
from upscaler.images.containers import gif_xmp
from upscaler.images.formats import SUFFIXES, decoded, format_named, takes_quality
from upscaler.images.metadata import Metadata
from upscaler.images.reading import Picture, PictureFile, blob, format_of, open_picture, reading
from upscaler.images.writing import PictureWriter, check_output
from upscaler.images.xmp import provenance_in

__all__ = [
    "SUFFIXES",
    "Metadata",
    "Picture",
    "PictureFile",
    "PictureWriter",
    "check_output",
    "format_named",
    "open_picture",
    "read_provenance",
    "takes_quality",
    "write_picture",
]

_ROWS = 256


def write_picture(
    path: str | Path,
    picture: Picture,
    *,
    format: str | None = None,
    quality: int | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write a picture that is in memory; parameters and errors as of ``PictureWriter``."""
    height, width, channels = picture.pixels.shape
    with PictureWriter(
        path,
        width=width,
        height=height,
        channels=channels,
        depth=picture.pixels.dtype.itemsize * 8,
        metadata=picture.metadata,
        format=format,
        quality=quality,
        provenance=provenance,
    ) as writer:
        for top in range(0, height, _ROWS):
            writer.write(picture.pixels[top : top + _ROWS])


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """How a picture was made, if srup wrote it; reads the head of the file only.

    Returns:
        What was given to ``PictureWriter``. None for anything else: another file, a damaged one, none
        at all, or a BMP, which has no place for it.
    """
    path = Path(path)
    try:
        with reading(path):
            format = format_of(path)
            if format == "bmp":
                return None
            if format == "gif":
                with path.open("rb") as file:
                    return provenance_in(gif_xmp(file))
            return provenance_in(blob(decoded(path, format, sequential=True), "xmp-data"))
    except UserError:
        return None
