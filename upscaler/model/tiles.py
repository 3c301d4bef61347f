"""Boxes, halos and the plan: how a picture is cut so that it fits in memory and no cut shows.

Geometry only; nothing here computes a pixel. The trunk of a network works at low resolution and sees
far, its head sees a few feature pixels. Where the trunk fits the budget, it runs over the whole
picture and the head in bands: exact, with nothing computed twice. Where it does not, the picture is
cut into tiles, each computed with a halo of surrounding pixels that is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Literal

from upscaler.model.network import Network

# Halo, in feature pixels, beyond which no network's result moves by 1/255: measured, see docs/tiling.md.
MEASURED_HALO = 96
_SMALLEST_TILE = 16
# The head's bands are this large or smaller, in bytes: larger ones gain nothing.
_HEAD_BAND_BYTES = 256 * 2**20
# Memory that allocators and convolution workspaces add to the tensors themselves, measured.
_OVERHEAD = 1.15


class NoPlanError(Exception):
    """No plan keeps the budget; ``least`` is the smallest one that would do, in bytes."""

    def __init__(self, least: int) -> None:
        super().__init__(f"no plan takes less than {least} bytes")
        self.least = least


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, half open."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def grown(self, halo: int, height: int, width: int) -> Box:
        """This box with a halo on every side, kept inside a picture of height x width."""
        return Box(
            max(self.top - halo, 0),
            min(self.bottom + halo, height),
            max(self.left - halo, 0),
            min(self.right + halo, width),
        )

    def inside(self, outer: Box, factor: int = 1) -> tuple[slice, slice]:
        """Where this box lies in an array that covers ``outer`` with ``factor`` elements per pixel."""
        return (
            slice((self.top - outer.top) * factor, (self.bottom - outer.top) * factor),
            slice((self.left - outer.left) * factor, (self.right - outer.left) * factor),
        )


@dataclass(frozen=True)
class Plan:
    """How one pass of a network over one picture is cut.

    All lengths are in input pixels; height and width are padded to multiples of the network's
    unshuffle, and so is every edge of a tile.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    halo: int
    head_rows: int
    """Feature rows that the head turns into picture at once."""
    memory: int
    """Predicted peak, in bytes, of everything this pass holds in the memory that its budget is of, but ``held``."""
    held: int = 0
    """Bytes that the network keeps, once for all passes that are at work together."""
    accelerated: bool = False
    """Whether it is for a network by fast convolutions, which takes other memory."""

    @property
    def whole(self) -> bool:
        """Whether the trunk runs over the whole picture at once."""
        return self.tile_height >= self.height and self.tile_width >= self.width

    @property
    def tiles(self) -> int:
        return ceil(self.height / self.tile_height) * ceil(self.width / self.tile_width)

    def together(self, passes: int) -> int:
        """Bytes of so many passes like this one that are at work together."""
        return self.memory * passes + self.held

    def row(self, top: int) -> list[Box]:
        """The tiles, left to right, of the row of tiles that starts at ``top``."""
        bottom = min(top + self.tile_height, self.height)
        return [
            Box(top, bottom, left, min(left + self.tile_width, self.width))
            for left in range(0, self.width, self.tile_width)
        ]

    def boxes(self) -> Iterator[tuple[Box, Box]]:
        """Every tile and the same with its halo."""
        for top in range(0, self.height, self.tile_height):
            for box in self.row(top):
                yield box, box.grown(self.halo, self.height, self.width)

    def operations(self, network: Network) -> float:
        """Multiplications that this plan costs, recomputed halos included."""
        columns, rows = self.row(0), [self.row(top)[0] for top in range(0, self.height, self.tile_height)]
        widths = sum(box.grown(self.halo, self.height, self.width).width for box in columns)
        trunk = widths * sum(box.grown(self.halo, self.height, self.width).height for box in rows)
        return float(
            (trunk * network.trunk_operations + self.height * self.width * network.head_operations)
            / network.unshuffle**2
        )


def halo_of(network: Network) -> int:
    """Input pixels of halo that keep a tile within 1/255 of the whole picture.

    The exact reach where that is small (``compact`` always, shallow RRDBNets); the measured reach of
    the deep ones, whose far pixels have an influence that is there but too small to see.
    """
    unit = network.unshuffle
    exact = ceil((network.trunk_reach + network.head_reach * unit) / unit) * unit
    return min(exact, MEASURED_HALO * unit)


def make_plan(
    network: Network,
    height: int,
    width: int,
    *,
    budget: int,
    element: int = 4,
    tile: int | Literal["auto", "whole"] = "auto",
    copies: int = 1,
    shared: bool = True,
    held: Callable[[int, int], int] = lambda *_: 0,
    passes: int = 1,
) -> Plan:
    """The cheapest way to cut a picture so that the passes over it stay within the budget.

    Args:
        network: what will run.
        height, width: of the picture, in pixels.
        budget: bytes that all passes together may hold at once.
        element: bytes of one number in the precision that computes.
        tile: ``auto``; ``whole`` to run the trunk over everything whatever it takes; or the edge of
            square tiles in pixels.
        copies: of a tile's result that are alive together.
        shared: the rows around the network lie in the same memory as its tensors; not so on a GPU.
        held: bytes that the network keeps once it has run over a height and width of pixels.
        passes: that are at work at the same time, each of them with as much memory as this one.

    Raises:
        NoPlanError: not even the smallest tile fits the budget.
    """
    unit = network.unshuffle
    height, width = ceil(height / unit) * unit, ceil(width / unit) * unit
    halo = halo_of(network)

    def plan(tile_height: int, tile_width: int) -> Plan:
        rough = Plan(height, width, min(tile_height, height), min(tile_width, width), halo, 0, 0)
        return _with_memory(rough, network, element, copies, shared, held)

    def fits(tile_width: int, tile_height: int) -> bool:
        return plan(tile_height, tile_width).together(passes) <= budget

    if tile == "whole":
        return plan(height, width)
    if tile != "auto":
        edge = max(ceil(tile / unit) * unit, unit)
        return plan(edge, edge)
    best = plan(height, width)
    if best.together(passes) <= budget:
        return best

    fitting: list[tuple[float, Plan]] = []
    for columns in _column_counts(ceil(width / _SMALLEST_TILE)):
        tile_width = ceil(width / columns / unit) * unit
        rows = _fewest_rows(height, unit, partial(fits, tile_width))
        if rows is None:
            continue
        candidate = plan(ceil(height / rows / unit) * unit, tile_width)
        fitting.append((candidate.operations(network), candidate))
    if not fitting:
        raise NoPlanError(plan(_SMALLEST_TILE, _SMALLEST_TILE).together(passes))
    return min(fitting, key=lambda pair: pair[0])[1]


def _fewest_rows(height: int, unit: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number of rows of tiles whose height fits; None where not even the smallest tile does."""
    if fits(height):  # on its own: less than the whole height also holds the rows that are handed on
        return 1
    low, high = 0, ceil(height / unit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle - 1)
    return ceil(height / (low * unit)) if low * unit >= min(_SMALLEST_TILE, height) else None


def _column_counts(most: int) -> Iterator[int]:
    """Numbers of columns worth trying: each one up to 32, then ever fewer, and the most there can be."""
    columns = 1
    while columns < most:
        yield columns
        columns += max(columns // 32, 1)
    yield most


def _with_memory(
    plan: Plan, network: Network, element: int, copies: int, shared: bool, held: Callable[[int, int], int]
) -> Plan:
    """The same plan with the head's bands chosen and its peak memory predicted."""
    unit, enlarged = network.unshuffle, network.scale**2 * network.channels
    outer = Box(0, plan.tile_height, 0, plan.tile_width).grown(plan.halo, plan.height, plan.width)
    # A tile in the middle has its halo on both sides.
    outer_height = min(plan.tile_height + 2 * plan.halo, plan.height) if not plan.whole else outer.height
    outer_width = min(plan.tile_width + 2 * plan.halo, plan.width) if not plan.whole else outer.width
    feature_pixels = outer_height * outer_width // unit**2
    core_width = min(plan.tile_width // unit + 2 * network.head_reach, outer_width // unit)
    row = core_width * network.head_floats * element
    head_rows = max(min(plan.tile_height // unit, _HEAD_BAND_BYTES // row - 2 * network.head_reach), 1)

    trunk = feature_pixels * network.trunk_floats * element
    head = feature_pixels * network.feature_floats * element + (head_rows + 2 * network.head_reach) * row
    tile = plan.tile_height * plan.tile_width * enlarged * 4
    rows = (outer_height + plan.halo) * plan.width * network.channels * 4 * 2
    result = 0 if plan.tile_width >= plan.width else plan.tile_height * plan.width * enlarged * 4
    # The band that is handed on is still read while the next one is made.
    handed_on = 0 if plan.tile_height >= plan.height else plan.tile_height * plan.width * enlarged * 4
    # On a GPU a tile's neighbour is computed while it leaves for the host.
    leaving = 0 if plan.tile_width >= plan.width else tile
    around = rows + result + handed_on if shared else leaving
    # Of several results their sum is there while the next one is computed.
    memory = _OVERHEAD * (max(trunk + (tile if copies > 1 else 0), head + tile * copies) + around)
    return replace(plan, head_rows=head_rows, memory=int(memory), held=held(outer_height, outer_width))


def megabytes(count: int) -> str:
    """A number of bytes for people: MB, or GB from a thousand of them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
