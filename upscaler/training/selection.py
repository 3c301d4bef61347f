"""Which parts of which pictures are worth training on: crops, what is too flat or blurred, and the validation split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from upscaler.errors import UserError
from upscaler.training.fingerprints import Luma


@dataclass(frozen=True)
class Crops:
    """How a picture is cut into sub-pictures.

    Args:
        size: edge of each in pixels; None keeps pictures whole.
        step: from one to the next; None is ``size``, without overlap.
        least: a last row or column of crops is added at the edge if at least so many pixels remain
            there uncovered; None is a quarter of ``size``.
    """

    size: int | None = None
    step: int | None = None
    least: int | None = None

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """The (top, left, height, width) of every crop, row by row; none if the picture is smaller than one."""
        if self.size is None:
            return [(0, 0, height, width)]
        return [
            (top, left, self.size, self.size)
            for top in self._starts(height, self.size)
            for left in self._starts(width, self.size)
        ]

    def _starts(self, length: int, size: int) -> list[int]:
        starts = list(range(0, length - size + 1, self.step or size))
        least = max(1, size // 4 if self.least is None else self.least)
        if starts and length - size - starts[-1] >= least:
            starts.append(length - size)
        return starts


def detail(grey: Luma) -> float:
    """How much there is to see: the root mean square of the gradient, in levels of 255 from pixel to pixel.

    Computed in integers, so that a threshold decides alike on every machine.

    Args:
        grey: (H, W), both at least 2.
    """
    levels = grey.astype(np.int32)
    return sqrt(sum(float(np.square(np.diff(levels, axis=axis)).mean(dtype=np.float64)) for axis in (0, 1)))


def parse_validation(text: str) -> float | int:
    """``0.05`` or ``5%`` as a share, ``20`` as a count of pictures.

    Raises:
        UserError: anything else.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    match = re.fullmatch(r"(\d*\.?\d+)(%?)", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share < 1:
        raise UserError(f"{text!r} is no validation split; use a share such as 0.05 or 5%, or a count such as 20")
    return share


def parse_sizes(text: str) -> tuple[float, ...]:
    """``1,0.7,0.5`` as shares of a picture's size.

    Raises:
        UserError: one of them is no number of 0.1 to 1, or comes twice.
    """
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or not all(0.1 <= size <= 1 for size in sizes) or len({f"{size:g}" for size in sizes}) < len(sizes):
        raise UserError(f"{text!r} are no sizes; use different shares of 0.1 to 1, such as 1,0.7,0.5")
    return sizes


def validation_split(digests: Sequence[str], wanted: float | int, groups: Sequence[int]) -> frozenset[int]:
    """Which pictures are set apart for validation.

    They are those with the smallest digests: the same ones whatever the files are called and in
    whatever order they come, and nearly the same when pictures are added. A group has the smallest
    digest of its pictures; it is passed over where it is more than what is still wanted.

    Args:
        digests: SHA-256 of each source picture, hexadecimal.
        wanted: a share 0..1 as float, rounded but at least one picture of a share above 0; or a count as int.
        groups: a number for each picture; those with the same number stay together.

    Returns:
        Their indices, no more than wanted.

    Raises:
        UserError: nothing would be left to train on, or every group is too large.
    """
    count = wanted if isinstance(wanted, int) else max(round(wanted * len(digests)), 1 if wanted > 0 else 0)
    if count and count >= len(digests):
        raise UserError(
            f"taking {count} for validation would leave none of {len(digests)} to train on; use a smaller split"
        )
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(digests)), key=lambda index: (digests[index], index)):
        members.setdefault(groups[index], []).append(index)
    apart: list[int] = []
    for group in members.values():
        if len(apart) + len(group) <= count:
            apart += group
    if count and not apart:
        raise UserError(
            f"every picture has so many copies that {count} for validation would part them; "
            "use a larger split, or do without --keep-duplicates"
        )
    return frozenset(apart)
