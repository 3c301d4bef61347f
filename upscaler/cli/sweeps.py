"""What a sweep over alpha shows: a table, a sheet and an animation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from upscaler.cli.console import Console
from upscaler.cli.display import BatchDisplay
from upscaler.cli.options import check_free
from upscaler.cli.scores import entry
from upscaler.cli.tables import cell
from upscaler.errors import UserError
from upscaler.images import SAMPLE
from upscaler.images.animations import check_animation, pace, write_animation
from upscaler.images.files import Metadata, check_output, open_picture, write_picture
from upscaler.images.files import Picture as PictureWithMetadata
from upscaler.images.partners import case_of, read_case, read_opaque, with_partners
from upscaler.images.resize import resize
from upscaler.images.sheets import GAP, Box, Picture, as_rgb, crops_sheet, most_detailed, overview, titled
from upscaler.model.interpolation import Parent
from upscaler.model.sources import Pixels, PixelSource
from upscaler.model.sweeps import Reading, Step, runs, sweep
from upscaler.model.upscaler import Estimate, Size, Upscaler
from upscaler.model.weights import Weights, build_network

if TYPE_CHECKING:
    from rich.table import Table

_COLUMN, _ENLARGED = 320, 2
"""Pixels across a column of the sheet, and how often its details repeat each pixel."""
_COLUMNS: tuple[tuple[str, Callable[[Reading], float | None], str], ...] = (
    ("PSNR-Y", lambda reading: reading.psnr_y, ".2f"),
    ("SSIM-Y", lambda reading: reading.ssim_y, ".4f"),
    ("NIQE", lambda reading: reading.niqe, ".2f"),
    ("drift", lambda reading: reading.drift, ".2f"),
    ("drift-LR", lambda reading: reading.drift_lr, ".2f"),
)


@dataclass(frozen=True)
class Sweep:
    """What was asked for; ``at`` are (x, y) in pixels of the picture, without one of the reference."""

    alphas: Sequence[float]
    picture: Path | None
    reference: Path | None
    at: Sequence[tuple[int, int]]
    pictures: bool
    output: Path | None
    animation: Path | None

    @property
    def source(self) -> Path:
        """The picture that the sweep is over, small or at full size."""
        return self.picture or self.reference or SAMPLE

    @property
    def sheet(self) -> Path:
        return self.output or Path(f"{self.source.stem}-sweep.png")

    @property
    def film(self) -> Path:
        return self.animation or self.sheet.with_suffix(".gif" if self.sheet.suffix.lower() == ".webp" else ".webp")

    def check(self, *, overwrite: bool) -> None:
        """Refuse files that could not be written or would replace something, before any work.

        Raises:
            UserError: as said.
        """
        columns, rows = len(self.alphas) + (1 if self.reference is None else 2), 5 * max(len(self.at), 1)
        check_output(self.sheet, width=columns * (_COLUMN + GAP), height=rows * _COLUMN, channels=3, depth=8)
        check_animation(self.film)
        given = [path for path in (self.picture, self.reference) if path]
        for path in given:
            open_picture(path)
        inputs = [path.resolve() for path in given]
        for path, others in ((self.sheet, inputs), (self.film, [*inputs, self.sheet.resolve()])):
            if path.resolve() in others:
                raise UserError(f"{path} is the picture, the reference or the other result; use another name")
            check_free(path, overwrite=overwrite)

    def read(self, scale: int) -> tuple[Pixels, Pixels | None]:
        """The low-resolution picture, and the reference where there is one.

        Raises:
            UserError: a picture that cannot be read, has transparency, is too small, or does not fit the other.
        """
        if self.reference is None:
            return read_opaque(self.source), None
        case = with_partners(case_of(self.reference, scale=scale, border=scale), scale, lr=self.picture)
        reference, lr = read_case(case, scale)
        return lr, reference


def run_sweep(
    console: Console, asked: Sweep, parents: tuple[Parent, Parent], *, device: str, precision: str, memory: int | None
) -> None:
    """Upscale at every alpha, and show what came out.

    Raises:
        UserError: something cannot be read, upscaled or written.
    """
    psnr, gan = parents
    scale = int(gan.weights.settings["scale"])
    lr, reference = asked.read(scale)
    display = BatchDisplay(console, 1)

    def upscaler(weights: Weights) -> Upscaler:
        network = build_network(weights)
        return Upscaler(network, device=device, precision=precision, memory=memory, notify=display.engine)

    size = Size() if reference is None else Size(width=reference.shape[1], height=reference.shape[0])
    estimate = upscaler(gan.weights).estimate(PixelSource(lr), size)
    views, board = _begun(asked, parents, lr, reference, estimate, scale)
    with console.progress("sweep", 1) as progress:
        display.restart(progress, "sweep", estimate, runs(asked.alphas, pictures=asked.pictures))
        for step in sweep(psnr, gan, asked.alphas, upscaler, lr, reference, border=scale, pictures=asked.pictures):
            way = "pictures" if step.pictures else "networks"
            console.event("step", alpha=step.alpha, blended=way, **entry(step.reading))
            board.add(step, views.of(as_rgb(step.result)))
            del step  # and with it its result, before there is another one
    # The title of a table would be broken to its width.
    console.result(board.title)
    console.result(board.table())
    write_picture(asked.sheet, PictureWithMetadata(board.sheet(), Metadata()))
    frames = board.frames()
    write_animation(asked.film, frames, pace(len(frames)))
    console.event("finished", sheet=asked.sheet, animation=asked.film)
    console.result(f"sheet: {asked.sheet}")
    console.result(f"animation: {asked.film}")


def _begun(
    asked: Sweep,
    parents: tuple[Parent, Parent],
    lr: Pixels,
    reference: Pixels | None,
    estimate: Estimate,
    scale: int,
) -> tuple[_Views, _Board]:
    """What is shown of every result, and the sheet with what is there before the first one."""
    bicubic = as_rgb(resize(lr, estimate.height, estimate.width))
    guide = bicubic if reference is None else as_rgb(reference)
    # Places are in the small picture, unless that was made from the reference.
    factor = scale if asked.picture or reference is None else 1
    views = _Views(guide, [_centre(place, guide, factor) for place in asked.at])
    return views, _Board(asked, parents, views.of(bicubic), None if reference is None else views.of(guide))


def _centre(place: tuple[int, int], guide: Picture, factor: int) -> tuple[int, int]:
    """(y, x) in the result of a place in a picture that is smaller by a factor."""
    x, y = place
    height, width = guide.shape[0] // factor, guide.shape[1] // factor
    if x >= width or y >= height:
        raise UserError(f"--at {x},{y} is outside of the picture, which has {width} x {height} pixels")
    return y * factor + factor // 2, x * factor + factor // 2


class _Views:
    """Which parts of every result are shown: around each place a large and a small one; and all of it, reduced."""

    def __init__(self, guide: Picture, centres: Sequence[tuple[int, int]]) -> None:
        self._boxes: list[tuple[Box, Box]] = []
        for centre in centres or (None,):
            large = _box(guide, _COLUMN, centre)
            self._boxes.append((_box(guide, _COLUMN // _ENLARGED, centre, large), large))

    def of(self, picture: Picture) -> list[Picture]:
        """For each place the small part, each pixel repeated, and the large one; at last the whole, with frames."""
        parts = []
        for small, large in self._boxes:
            parts += [_cut(picture, small).repeat(_ENLARGED, 0).repeat(_ENLARGED, 1), _cut(picture, large).copy()]
        return [*parts, overview(picture, [box for pair in self._boxes for box in pair], _COLUMN)]


def _box(guide: Picture, edge: int, centre: tuple[int, int] | None, inside: Box | None = None) -> Box:
    """A square around a place, or where there is most detail, inside of the picture or of another box."""
    top, left, bottom, right = inside or (0, 0, *guide.shape[:2])
    height, width = min(edge, bottom - top), min(edge, right - left)
    if centre is None:
        y, x = most_detailed(guide[top:bottom, left:right], height, width)
        y, x = y + top, x + left
    else:
        y = min(max(centre[0] - height // 2, top), bottom - height)
        x = min(max(centre[1] - width // 2, left), right - width)
    return y, x, y + height, x + width


def _cut(picture: Picture, box: Box) -> Picture:
    top, left, bottom, right = box
    return picture[top:bottom, left:right]


@dataclass(frozen=True)
class _Column:
    name: str
    scores: str
    views: list[Picture]


class _Board:
    """Everything that the results of a sweep leave behind."""

    def __init__(
        self, asked: Sweep, parents: tuple[Parent, Parent], bicubic: list[Picture], reference: list[Picture] | None
    ) -> None:
        self.title = f"{asked.source.name}: from {parents[0].name} (alpha 0) to {parents[1].name} (alpha 1)"
        self._bicubic, self._reference = bicubic, reference
        self._readings: list[tuple[str, Reading]] = []
        self._networks: list[_Column] = []
        self._pictures: list[_Column] = []

    def add(self, step: Step, views: list[Picture]) -> None:
        """A result, as ``_Views.of`` shows it."""
        name = f"{'pictures at' if step.pictures else 'alpha'} {step.alpha:g}"
        self._readings.append((name, step.reading))
        (self._pictures if step.pictures else self._networks).append(_Column(name, _told(step.reading), views))

    def table(self) -> Table:
        """A row for each result."""
        from rich import box
        from rich.table import Table

        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        drawn.add_column("blend")
        columns = [each for each in _COLUMNS if any(each[1](reading) is not None for _, reading in self._readings)]
        for heading, _, _ in columns:
            drawn.add_column(heading, justify="right", no_wrap=True)
        for name, reading in self._readings:
            drawn.add_row(name, *(cell(value(reading), form) for _, value, form in columns))
        return drawn

    def sheet(self) -> Picture:
        """A column for each alpha between bicubic and the reference, a row for each view."""
        last = len(self._bicubic) - 1
        # Beside the details the pictures' blends have nothing to show.
        rows = [
            self._row(way, view, scores=view == 0, whole=view == last)
            for view in range(last + 1)
            for way in (self._networks, self._pictures if view < last else ())
            if way
        ]
        return crops_sheet(rows, self.title)

    def _row(self, way: Sequence[_Column], view: int, *, scores: bool, whole: bool) -> list[tuple[str, Picture]]:
        last = ", whole" if whole else "" if view % 2 == 0 else ", 1:1"
        columns = [_Column("bicubic", "", self._bicubic), *way]
        if self._reference:
            columns.append(_Column("reference", "", self._reference))
        return [(f"{each.name}{last}" + f"\n{each.scores}" * scores, each.views[view]) for each in columns]

    def frames(self) -> list[Picture]:
        """The first place at every alpha, for an animation."""
        return titled([(f"{each.name}   {each.scores}", each.views[1]) for each in self._networks], enlarge=_ENLARGED)


def _told(reading: Reading) -> str:
    """The scores that a choice is made by, in one line."""
    drift = reading.drift_lr if reading.drift is None else reading.drift
    psnr = "" if reading.psnr_y is None else f"{cell(reading.psnr_y, '.2f')} dB   "
    niqe = "" if reading.niqe is None else f"NIQE {reading.niqe:.2f}   "
    return f"{psnr}{niqe}drift {drift:.2f}"
