"""A sheet of pictures from a training set, to see what a network will see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upscaler.images.files import Metadata, write_picture
from upscaler.images.files import Picture as PictureWithMetadata
from upscaler.training.shards import Picture, Pictures

COLUMNS, ROWS = 8, 4
EDGE = 192
_GAP = 8
_BACKGROUND = 24


def write_samples(path: Path, pictures: Pictures) -> None:
    """Write the middles of up to 32 pictures, evenly spread over the set; LR at the right, pixels repeated.

    Raises:
        UserError: it cannot be written.
    """
    chosen = np.unique(np.linspace(0, len(pictures) - 1, COLUMNS * ROWS).round().astype(int)).tolist()
    edge = min(EDGE, int(pictures.sizes[chosen].max()))
    cells = [_cell(pictures, index, edge) for index in chosen]
    height, width = cells[0].shape[:2]
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _BACKGROUND, np.uint8)
    for place, cell in enumerate(cells):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = cell
    write_picture(path, PictureWithMetadata(sheet, Metadata()))


def _cell(pictures: Pictures, index: int, edge: int) -> Picture:
    hr = pictures.hr(index)
    scale = pictures.scale or 1
    shown = [_middle(hr, edge, scale, 1)]
    if pictures.scale:
        shown.append(_middle(pictures.lr(index), edge, 1, scale))
    return np.concatenate(shown, axis=1)


def _middle(picture: Picture, edge: int, multiple: int, times: int) -> Picture:
    """The middle of a picture, every pixel repeated, on a square."""
    square = np.full((edge, edge, 3), _BACKGROUND, np.uint8)
    height, width = (min(length, edge // times // multiple * multiple) for length in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    top, left = top // multiple * multiple, left // multiple * multiple
    part = picture[top : top + height, left : left + width].repeat(times, axis=0).repeat(times, axis=1)
    square[: part.shape[0], : part.shape[1]] = part
    return square
