"""The pictures that `srup zoom` leaves: of every step, side by side, moving, and from inside the networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import numpy as np

from upscaler.cli.console import Console, Progress
from upscaler.images.animations import write_animation
from upscaler.images.files import Metadata, open_picture, write_picture
from upscaler.images.files import Picture as PictureWithMetadata
from upscaler.images.flights import Flight, Level
from upscaler.images.metadata import fitting_icc
from upscaler.images.resize import resize
from upscaler.images.sheets import Picture, as_rgb, captioned, crops_sheet, overview, side_by_side
from upscaler.model.activations import FeatureMap
from upscaler.model.sources import Pixels
from upscaler.model.zooming import Course

_TILE, _COLUMNS = 256, 6
"""Of the sheet: pixels along the edge of a picture, and steps in a row."""
_FRAME, _FRAMES = 512, 1280
"""Of the animation: pixels along the edge of a method's frame, and most of all beside each other."""
_DOUBLING = 18
"""Frames in which what is seen grows to twice its size."""
_SHOWN, _FIRST_SHOWN, _LAST_SHOWN = 40, 1000, 2000
"""Milliseconds: for each frame, the first and the last one."""
_GIF = 2
"""By which a GIF is coarser in space and in time: without, it has hundreds of megabytes."""
_MAP = 128
"""Pixels along the edge of a feature map, at least."""

ACTIVATIONS = "activations.png"
"""The feature maps, in a method's folder."""


def step_file(step: int) -> str:
    """The name of a step's picture, in a method's folder."""
    return f"step-{step:02}.png"


class Album:
    """A folder that fills with pictures; of those of the steps nothing but small copies is kept in memory.

    Args:
        folder: where to write.
        names: of each method's own folder in it.
        course: of the zoom.
        icc: colour profile of the pictures of the steps.
    """

    def __init__(self, folder: Path, names: Mapping[str, str], course: Course, icc: bytes | None) -> None:
        self.folder, self.names, self.course = folder, names, course
        self._metadata = Metadata(icc=fitting_icc(icc, 3))
        self._tiles: dict[str, list[tuple[str, Picture]]] = {}

    def add_first(self, picture: Pixels) -> None:
        """The first crop, from which all methods begin."""
        tile = self._written(self._path(None, 0), 0, picture)
        self._tiles = {method: [(f"{method}: first crop", tile)] for method in self.names}

    def add(self, method: str, step: int, picture: Pixels, provenance: dict[str, Any]) -> None:
        """The result of a step, and how it was made."""
        tile = self._written(self._path(method, step), step, picture, provenance)
        self._tiles[method].append((f"{method}: step {step}, x{self.course.factor**step:,}", tile))

    def write_sheet(self) -> None:
        """``sheet.png``: a row for each method and a column for each step, or several rows for many steps."""
        rows = []
        count = len(self.course.cuts)
        for begin in range(0, count, _COLUMNS):
            for tiles in self._tiles.values():
                row = tiles[begin : begin + _COLUMNS]
                missing = min(count, _COLUMNS) - len(row)
                rows.append([*row, *[("", np.zeros((1, 1, 3), np.uint8))] * missing])
        self._write(self.folder / "sheet.png", crops_sheet(rows))

    def write_animation(self, console: Console, suffix: str, methods: Sequence[str]) -> None:
        """``zoom.SUFFIX``: a flight through the steps of each method, side by side.

        Args:
            console: shows the progress.
            suffix: gif, webp or mp4.
            methods: from left to right.
        """
        coarser = _GIF if suffix == "gif" else 1
        edge = min(_FRAME, _FRAMES // len(methods)) // coarser
        first, *others = self.course.cuts
        levels = [Level(first.edge, float(first.point.x), float(first.point.y))]
        levels += [Level(self.course.edge, float(cut.point.x), float(cut.point.y)) for cut in others]
        flights = {method: Flight(levels, self.course.factor, edge, partial(self._read, method)) for method in methods}
        times = flights[methods[0]].times(_DOUBLING // coarser)

        def frames(progress: Progress) -> Iterator[Picture]:
            for number, time in enumerate(times):
                progress.update(number)
                zoomed = _magnification(self.course.factor**time)
                yield side_by_side(
                    [captioned(flight.frame(time), f"{method}  x{zoomed}") for method, flight in flights.items()]
                )

        milliseconds = [_FIRST_SHOWN, *[_SHOWN * coarser] * (len(times) - 2), _LAST_SHOWN]
        with console.progress(f"drawing zoom.{suffix}", len(times), unit="frames") as progress:
            write_animation(self.folder / f"zoom.{suffix}", frames(progress), milliseconds)

    def write_activations(self, method: str, crop: Pixels, maps: Mapping[str, Sequence[FeatureMap]]) -> None:
        """``ACTIVATIONS`` in the method's folder: a row of feature maps for each layer."""
        rows = [[("the first crop", _enlarged(as_rgb(crop)))]]
        for layer, found in maps.items():
            row = [
                (f"{each.channel}: sd {each.deviation:.2g}", _enlarged(as_rgb(each.picture[..., None])))
                for each in found
            ]
            rows.append([(layer, crops_sheet([row]))])
        title = f"{method}\nAbove each map: its channel, standard deviation; in it: 1st percentile black, 99th white"
        self._write(self.folder / self.names[method] / ACTIVATIONS, crops_sheet(rows, title))

    def _path(self, method: str | None, step: int) -> Path:
        folder = self.folder / self.names[method] if method else self.folder
        return folder / step_file(step)

    def _written(self, path: Path, step: int, picture: Pixels, provenance: dict[str, Any] | None = None) -> Picture:
        """A small copy of a picture that is written, with a frame around what the next step takes."""
        shown = as_rgb(picture)
        write_picture(path, PictureWithMetadata(shown, self._metadata), provenance=provenance)
        edge = min(_TILE, self.course.edge)
        tile, scale = resize(shown, edge, edge), edge / len(picture)
        taken = []
        for cut in self.course.cuts[step + 1 : step + 2]:
            top, left, inner = (round(side * scale) for side in (cut.top, cut.left, cut.edge))
            taken.append((top, left, top + inner, left + inner))
        return overview(tile, taken, edge)

    def _read(self, method: str, step: int) -> Picture:
        return open_picture(self._path(method if step else None, step), trusted=True).read().pixels

    def _write(self, path: Path, picture: Picture) -> None:
        write_picture(path, PictureWithMetadata(picture, Metadata()))


def _enlarged(picture: Picture) -> Picture:
    """With each pixel repeated, so that one can see it."""
    repeat = max(round(_MAP / len(picture)), 1)
    return picture.repeat(repeat, 0).repeat(repeat, 1)


def _magnification(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{floor(value):,}"
