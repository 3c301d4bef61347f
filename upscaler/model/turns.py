"""The eight ways to lay a square: none, left-right, up-down, both; each also transposed."""

from __future__ import annotations

from torch import Tensor

from upscaler.model.tiles import Box

Turn = tuple[bool, bool, bool]
TURNS: tuple[Turn, ...] = tuple((h, v, t) for t in (False, True) for v in (False, True) for h in (False, True))


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Pictures (..., H, W) in one of these ways."""
    across, down, transposed = turn
    x = x.flip(-1) if across else x
    x = x.flip(-2) if down else x
    return x.transpose(-1, -2) if transposed else x


def turned_back(x: Tensor, turn: Turn) -> Tensor:
    """As it was before it was turned."""
    across, down, transposed = turn
    x = x.transpose(-1, -2) if transposed else x
    x = x.flip(-2) if down else x
    return x.flip(-1) if across else x


def turned_box(box: Box, outer: Box, turn: Turn) -> Box:
    """Where the core lies in its turned surroundings."""
    across, down, transposed = turn
    rows, columns = box.inside(outer)
    top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
    if across:
        left, right = outer.width - right, outer.width - left
    if down:
        top, bottom = outer.height - bottom, outer.height - top
    return Box(left, right, top, bottom) if transposed else Box(top, bottom, left, right)
