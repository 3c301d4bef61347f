"""What the inspections of all sources say together: what is used, and the numbers in the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np

from upscaler.training.fingerprints import SMALLEST, Luma, Thumbnails
from upscaler.training.inspection import Inspection


def decided(inspections: Sequence[Inspection], *, duplicates: bool) -> list[Inspection]:
    """The inspections with a reason for what only a look at all of them can tell.

    Args:
        inspections: of all sources.
        duplicates: of pictures that show the same keep the largest only, the first by name among equals.
    """
    found = list(inspections)
    seen = Thumbnails()
    order = sorted(range(len(found)), key=lambda i: (-found[i].height * found[i].width, found[i].name))
    for index in order:
        each = found[index]
        if each.reason:
            continue
        if not each.boxes:
            reason = max(each.dropped, key=lambda name: each.dropped[name])
            found[index] = replace(each, reason=reason, because=f"all of it is {' or '.join(each.dropped)}")
        elif duplicates:
            small = _thumbnail(each)
            if other := seen.find(small):
                found[index] = replace(each, reason="duplicate", because=f"it shows the same as {other}")
            else:
                seen.add(each.name, small)
    return found


def groups(inspections: Sequence[Inspection]) -> list[int]:
    """Which pictures show the same: for each the index of the first of its group, mostly its own.

    Args:
        inspections: of sources that are used.
    """
    first = list(range(len(inspections)))
    seen = Thumbnails()
    for index, each in enumerate(inspections):
        small = _thumbnail(each)
        joined = {index, *(first[int(name)] for name in seen.find_all(small))}
        if len(joined) > 1:
            first = [min(joined) if group in joined else group for group in first]
        seen.add(str(index), small)
    return first


def statistics(inspections: Sequence[Inspection], splits: Mapping[int, str]) -> dict[str, Any]:
    """What the manifest says in numbers.

    Args:
        inspections: of all sources, decided.
        splits: ``train`` or ``validation`` for the indices of those that are used.
    """
    crops: Counter[str] = Counter()
    for index in splits:
        crops.update(inspections[index].dropped)
    parts = {
        split: _amounts([inspections[index] for index in splits if splits[index] == split])
        for split in ("train", "validation")
    }
    reasons = Counter(each.reason for each in inspections if each.reason)
    return {
        "sources": len(inspections),
        **parts,
        "dropped_sources": {reason: reasons[reason] for reason in sorted(reasons)},
        "dropped_crops": {reason: crops[reason] for reason in sorted(crops)},
    }


def _amounts(inspections: Sequence[Inspection]) -> dict[str, Any]:
    """Counts, and mean and standard deviation of red, green and blue, 0..1, of what is kept."""
    pixels = sum(box.height * box.width for each in inspections for box in each.boxes)
    amounts: dict[str, Any] = {
        "sources": len(inspections),
        "pictures": sum(len(each.boxes) for each in inspections),
        "megapixels": round(pixels / 1e6, 6),
    }
    if pixels:
        means = [sum(each.sums[channel] for each in inspections) / pixels for channel in range(3)]
        squares = [sum(each.squares[channel] for each in inspections) / pixels for channel in range(3)]
        deviations = [sqrt(max(square - mean * mean, 0)) for mean, square in zip(means, squares, strict=True)]
        amounts["mean"] = [round(mean / 255, 6) for mean in means]
        amounts["std"] = [round(deviation / 255, 6) for deviation in deviations]
    return amounts


def entry(each: Inspection, split: str | None) -> dict[str, Any]:
    """A source as the manifest names it."""
    entry: dict[str, Any] = {"name": each.name, "sha256": list(each.digests)}
    if each.height:
        entry |= {"width": each.width, "height": each.height}
    if split:
        return entry | {"split": split, "pictures": len(each.boxes), "dropped": each.dropped}
    return entry | {"reason": each.reason, "because": each.because}


def _thumbnail(each: Inspection) -> Luma:
    return np.frombuffer(bytes.fromhex(each.thumbnail), np.uint8).reshape(SMALLEST, SMALLEST)
