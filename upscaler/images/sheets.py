"""Sheets that show people what happened to a picture: before beside after, rows of crops, maps of a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from upscaler.images.resize import resize

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""(top, left, bottom, right) of a part of a picture."""

_BACKGROUND = (24, 24, 24)
_TEXT = (230, 230, 230)
_MARK = (255, 196, 0)
_UNKNOWN = (128, 128, 128)
_BEHIND = np.uint16(128)
_LARGEST_SIDE = 2000
_DETAIL = 1000
_LEGEND_HEIGHT = 120
_WIDEST = 0.000888
"""The upper end of a legend whose numbers are as wide as they become."""
GAP = 8
"""Pixels between the columns of a sheet."""
_HEAT_PATH = (
    (0, 0, 0),
    (40, 20, 140),
    (185, 25, 150),
    (250, 120, 30),
    (255, 220, 60),
    (255, 255, 255),
)


def as_rgb(pixels: NDArray[Any]) -> Picture:
    """Any picture as a sheet can show it: 8 bits deep, grey as RGB, transparency over mid-grey.

    Args:
        pixels: (H, W, C), uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    Returns:
        (H, W, 3); ``pixels`` itself where it is 8-bit RGB already.
    """
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    colour, alpha = (pixels[..., :-1], pixels[..., -1:]) if pixels.shape[2] in (2, 4) else (pixels, None)
    if alpha is not None:
        opacity = alpha.astype(np.uint16)
        colour = ((colour * opacity + _BEHIND * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour


def before_after(before: Picture, after: Picture, labels: tuple[str, str] = ("before", "after")) -> Picture:
    """Two pictures of one size side by side, each under a strip with its label.

    Pictures of more than 2000 pixels along an edge are shown reduced, and under the reduced view
    comes the part of ``after`` with the most detail, up to 1000x1000 pixels of both at their own size;
    a frame in the reduced view says where it is.

    Args:
        before: (H, W, 3).
        after: (H, W, 3).
        labels: what stands above each of them.

    Returns:
        The sheet, (H', W', 3).

    Raises:
        ValueError: pictures of different sizes.
    """
    if before.shape != after.shape:
        raise ValueError(f"before of {before.shape} beside after of {after.shape}")
    height, width = after.shape[:2]
    labelled = list(zip((before, after), labels, strict=True))
    if max(height, width) <= _LARGEST_SIDE:
        font = _font(max(height, width))
        return side_by_side([_labelled(picture, label, font) for picture, label in labelled])

    top, left = most_detailed(after, _DETAIL, _DETAIL)
    bottom, right = min(top + _DETAIL, height), min(left + _DETAIL, width)
    font = _font(_DETAIL)
    columns = []
    for picture, label in labelled:
        reduced = _labelled(overview(picture, [(top, left, bottom, right)], _DETAIL), label, font)
        detail = _labelled(picture[top:bottom, left:right], f"{label}, detail 1:1", font)
        columns.append(_stack([reduced, detail]))
    return side_by_side(columns)


def overview(picture: Picture, frames: Sequence[Box], side: int) -> Picture:
    """A picture reduced to a longer edge of ``side`` pixels, if it is larger, with frames around parts of it.

    Args:
        picture: (H, W, 3).
        frames: parts of it, in its own pixels.
        side: of the result.

    Returns:
        (H', W', 3).
    """
    height, width = picture.shape[:2]
    scale = min(side / max(height, width), 1)
    small = Image.fromarray(resize(picture, ceil(height * scale), ceil(width * scale)))
    draw = ImageDraw.Draw(small)
    for frame in frames:
        top, left, bottom, right = (int(edge * scale) for edge in frame)
        # A dark edge on both sides, for pictures of the mark's own colour.
        draw.rectangle((left - 1, top - 1, right, bottom), outline=_BACKGROUND, width=4)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_MARK, width=2)
    return np.asarray(small)


def crops_sheet(rows: Sequence[Sequence[tuple[str, Picture]]], title: str = "") -> Picture:
    """Crops under their labels, one row for each picture and one column for each way it was made.

    Args:
        rows: of equally many (label, (H, W, 3)) each; the crops of one row are equally high, and so are its labels,
            which may have several lines.
        title: what stands above them all.

    Returns:
        The sheet, (H', W', 3).

    Raises:
        ValueError: no rows, or rows of different lengths.
    """
    if not rows:
        raise ValueError("a sheet of no crops")
    font = _font(max(max(crop.shape[:2]) for row in rows for _, crop in row))
    columns = zip(*rows, strict=True)
    sheet = side_by_side([_stack([_labelled(crop, label, font) for label, crop in column]) for column in columns])
    return _labelled(sheet, title, font) if title else sheet


def titled(pictures: Sequence[tuple[str, Picture]], *, enlarge: int = 1) -> list[Picture]:
    """The frames of an animation, each picture under its label.

    Args:
        pictures: (label, (H, W, 3)) each, all of one size.
        enlarge: how often each pixel is repeated along each axis.

    Returns:
        (H', W', 3) each, all of one size; a label that is wider than its picture widens them all.

    Raises:
        ValueError: pictures of different sizes.
    """
    if len({picture.shape for _, picture in pictures}) > 1:
        raise ValueError("the pictures of an animation are of one size")
    large = [(label, picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)) for label, picture in pictures]
    drawn = [_labelled(picture, label, _font(max(picture.shape[:2]))) for label, picture in large]
    widest = np.empty((0, max((frame.shape[1] for frame in drawn), default=0), 3), np.uint8)
    return [_stack([frame, widest]) for frame in drawn]


def side_by_side(pictures: list[Picture]) -> Picture:
    """Pictures from left to right, 8 pixels apart: (H, W, 3) each, the sheet as high as the highest."""
    height = max(len(picture) for picture in pictures)
    sheet = np.full((height, sum(p.shape[1] for p in pictures) + GAP * (len(pictures) - 1), 3), _BACKGROUND, np.uint8)
    left = 0
    for picture in pictures:
        sheet[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return sheet


def captioned(picture: Picture, caption: str) -> Picture:
    """A picture with a line of text over its lower edge, which is darkened for it; text beyond its width is cut off."""
    font = _font(max(picture.shape[:2]))
    drawn = picture.copy()
    strip = drawn[-ceil(font.size * 1.8) :]
    strip //= 3
    image = Image.fromarray(drawn)
    place = (ceil(font.size / 2), image.height - len(strip) / 2)
    ImageDraw.Draw(image).text(place, caption, fill=_TEXT, font=font, anchor="lm")
    return np.asarray(image)


def heat_map(values: NDArray[np.float32], unit: str, top: float | None = None) -> Picture:
    """A quantity as colours, with a legend at the right: black is 0, white is ``top`` and more.

    Equal steps of the quantity are equal steps of lightness (CIE L*), so the order survives grey
    printing and colour blindness. NaN is mid-grey.

    Args:
        values: (H, W), from 0.
        unit: written above the legend.
        top: the value of the legend's upper end; None is the largest finite value.

    Returns:
        (max(H, 120), W', 3): the map at its own size, then the legend.

    Raises:
        ValueError: ``top`` is not above 0.
    """
    if top is None:
        top = float(values.max(initial=0, where=np.isfinite(values))) or 1.0
    if not top > 0:
        raise ValueError(f"the upper end of a legend must be above 0, not {top}")
    colours = _heat_colours()
    picture = np.empty((*values.shape, 3), np.uint8)
    for row, line in zip(picture, values, strict=True):
        unknown = np.isnan(line)
        steps = np.clip(np.where(unknown, 0, line) * (len(colours) / top), 0, len(colours) - 1)
        row[:] = colours[steps.astype(np.uint8)]
        row[unknown] = _UNKNOWN
    return side_by_side([picture, _legend(max(len(picture), _LEGEND_HEIGHT), colours, unit, top)])


def heat_map_size(height: int, width: int, unit: str) -> tuple[int, int]:
    """(height, width) of the ``heat_map`` of so many values, at most."""
    legend = _legend(max(height, _LEGEND_HEIGHT), _heat_colours(), unit, _WIDEST)
    return len(legend), width + GAP + legend.shape[1]


def most_detailed(picture: Picture, height: int, width: int) -> tuple[int, int]:
    """Where a picture has the most high-frequency energy, the squared Laplacian summed over a window.

    Args:
        picture: (H, W, C).
        height: of the window; clipped to the picture.
        width: of the window; clipped to the picture.

    Returns:
        (top, left) of the best window on a grid of 1/32 of its shorter edge.
    """
    full_height, full_width = picture.shape[:2]
    height, width = min(height, full_height), min(width, full_width)
    cell = max(1, min(height, width) // 32)
    lefts = np.arange(0, full_width, cell)
    energy = []
    for y in range(0, full_height, cell):
        strip = picture[np.clip(np.arange(y - 1, min(y + cell, full_height) + 1), 0, full_height - 1)]
        grey = np.pad(strip.sum(axis=2, dtype=np.float32), ((0, 0), (1, 1)), mode="edge")
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        energy.append(np.add.reduceat(np.square(laplacian).sum(axis=0, dtype=np.float64), lefts))

    corner = np.pad(np.cumsum(np.cumsum(energy, axis=0), axis=1), ((1, 0), (1, 0)))
    down, across = height // cell, width // cell
    window = corner[down:, across:] - corner[:-down, across:] - corner[down:, :-across] + corner[:-down, :-across]
    inside = window[: (full_height - height) // cell + 1, : (full_width - width) // cell + 1]
    row, column = np.unravel_index(np.argmax(inside), inside.shape)
    return int(row) * cell, int(column) * cell


def _labelled(picture: Picture, label: str, font: ImageFont.FreeTypeFont) -> Picture:
    padding = ceil(font.size / 2)
    lines = label.split("\n")
    width = max(picture.shape[1], *(ceil(font.getlength(line)) + 2 * padding for line in lines))
    strip = Image.new("RGB", (width, ceil(font.size * (0.4 + 1.4 * len(lines)))), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((padding, font.size * (0.9 + 1.4 * number)), line, fill=_TEXT, font=font, anchor="lm")
    return _stack([np.asarray(strip), picture])


def _legend(height: int, colours: Picture, unit: str, top: float) -> Picture:
    font = _font(height)
    line = ceil(font.size * 1.6)
    bar_top, bar_bottom, bar = line + line // 2, height - line // 2, line
    ticks = max(1, min(4, (bar_bottom - bar_top) // (2 * line)))
    labels = [f"{top * tick / ticks:.3g}" for tick in range(ticks + 1)]
    width = ceil(max(font.getlength(unit), bar + line // 2 + max(font.getlength(label) for label in labels)))
    legend = Image.new("RGB", (width + line, height), _BACKGROUND)
    draw = ImageDraw.Draw(legend)
    left = line // 2
    draw.text((left, line / 2), unit, fill=_TEXT, font=font, anchor="lm")
    gradient = colours[np.linspace(len(colours) - 1, 0, bar_bottom - bar_top).round().astype(np.uint8)]
    legend.paste(Image.fromarray(np.repeat(gradient[:, None], bar, axis=1)), (left, bar_top))
    draw.rectangle((left - 1, bar_top - 1, left + bar, bar_bottom), outline=_TEXT)
    for tick, label in enumerate(labels):
        y = bar_bottom - (bar_bottom - bar_top) * tick / ticks
        draw.text((left + bar + line // 2, y), label, fill=_TEXT, font=font, anchor="lm")
    return np.asarray(legend)


def _font(side: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, about as large beside a small picture as beside a large one with that longer side."""
    font = ImageFont.load_default(min(max(14, side // 50), 48))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType and cannot write labels")
    return font


def _heat_colours() -> Picture:
    """(256, 3) along ``_HEAT_PATH``, equally spaced in lightness."""
    path = np.array(_HEAT_PATH, dtype=np.float64) / 255
    fine = np.linspace(0, len(path) - 1, 4096)
    colours = np.stack([np.interp(fine, np.arange(len(path)), channel) for channel in path.T], axis=1)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    lightness = np.where(luminance <= (6 / 29) ** 3, luminance * (29 / 3) ** 3, 116 * np.cbrt(luminance) - 16)
    even = np.interp(np.linspace(0, lightness[-1], 256), lightness, fine)
    table = np.stack([np.interp(even, fine, channel) for channel in colours.T], axis=1)
    return (table * 255).round().astype(np.uint8)


def _stack(pictures: list[Picture]) -> Picture:
    width = max(picture.shape[1] for picture in pictures)
    sheet = np.full((sum(len(picture) for picture in pictures), width, 3), _BACKGROUND, np.uint8)
    top = 0
    for picture in pictures:
        sheet[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    return sheet
