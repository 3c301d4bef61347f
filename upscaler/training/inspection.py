"""One source picture looked at: can it be used, what does it look like, which crops of it are worth keeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from glob import glob, has_magic
from os.path import commonpath
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.images.files import SUFFIXES, open_picture
from upscaler.images.listing import fixed_part, pictures_in
from upscaler.images.sheets import as_rgb
from upscaler.training.benchmarks import Benchmarks
from upscaler.training.fingerprints import SMALLEST, luma, thumbnail
from upscaler.training.pairing import Partners, pair_problem
from upscaler.training.selection import Crops, detail, sharpness
from upscaler.training.shards import Picture

Box = tuple[int, int, int, int]
"""(top, left, height, width)."""

FAILURES = ("unreadable", "transparent", "pair")
"""Reasons that somebody should mend; the others are what the settings ask for."""


@dataclass(frozen=True)
class Source:
    """A picture to make training pictures of.

    Args:
        name: relative to what all sources have in common, with slashes.
        path: of the file.
        lr: the given LR picture, if there are such.
        problem: why it cannot be used, where that is known before it is opened.
        digests: SHA-256 of the file, and of ``lr``; empty where it could not be read.
    """

    name: str
    path: Path
    lr: Path | None = None
    problem: str | None = None
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What makes a picture or a crop worth keeping.

    Args:
        crops: how pictures are cut.
        flat: crops with less ``selection.detail`` are dropped; 0 keeps all.
        blurred: crops with less ``selection.sharpness`` are dropped; 0 keeps all.
        multiple: sizes are cut down to multiples of this, at the right and at the bottom.
        first_frame: take the first frame or page of files with several.
    """

    crops: Crops = field(default_factory=Crops)
    flat: float = 2.0
    blurred: float = 8.0
    multiple: int = 1
    first_frame: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was found out about a source; plain values, so that it survives in a journal.

    Args:
        name: of the source.
        digests: of the source.
        height, width: in pixels; 0 where it could not be read.
        reason: why all of it is dropped, in one word, or None.
        because: the same in words.
        thumbnail: hexadecimal ``fingerprints.thumbnail``.
        boxes: the crops that are kept.
        dropped: crops that are not, by reason.
        sums, squares: of each channel over all pixels of ``boxes``, in levels of 255.
    """

    name: str
    digests: tuple[str, ...]
    height: int = 0
    width: int = 0
    reason: str | None = None
    because: str | None = None
    thumbnail: str = ""
    boxes: tuple[Box, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    sums: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Back from ``as_json``."""
        lists = {name: tuple(fields[name]) for name in ("digests", "sums", "squares")}
        return cls(**{**fields, **lists, "boxes": tuple(tuple(box) for box in fields["boxes"])})


def find_sources(inputs: Iterable[str], exclude: Path | None = None) -> list[Source]:
    """The pictures that are meant by files, folders (with all folders inside) and glob patterns, by name.

    Args:
        inputs: what a person named.
        exclude: a folder whose pictures are no sources, such as the one that is written to.

    Raises:
        UserError: something that is not there, a folder or pattern without pictures.
    """
    found: dict[Path, Path] = {}
    roots: list[Path] = []
    for text in inputs:
        root, paths = _matches(text)
        # Links keep their own names, so only what is above them is resolved.
        places = {root.resolve() / path.relative_to(root): path for path in paths}
        places = {at: path for at, path in places.items() if not (exclude and at.is_relative_to(exclude.resolve()))}
        if not places:
            raise UserError(f"there is no picture in {text}")
        roots.append(root.resolve())
        found |= places
    try:
        common = Path(commonpath(roots)) if roots else Path()
    except ValueError as error:
        raise UserError("the sources lie on several drives; prepare those of one drive at a time") from error
    named = {path.relative_to(common).as_posix(): given for path, given in found.items()}
    # Names that are not UTF-8 could not stand in a manifest.
    return [Source(name.encode("utf-8", "backslashreplace").decode(), named[name]) for name in sorted(named)]


def with_partners(sources: Iterable[Source], given: Sequence[Source], scale: int) -> list[Source]:
    """The sources with their LR pictures; one without exactly one has a ``problem``.

    Args:
        sources: HR pictures.
        given: LR pictures.
        scale: HR pixels per LR pixel.
    """
    paths = {lr.name: lr.path for lr in given}
    partners = Partners(paths, scale)
    paired = []
    for source in sources:
        found = partners.find(source.name)
        problem = (
            f"several LR pictures fit it by name: {', '.join(found)}" if found else "no LR picture fits it by name"
        )
        paired.append(replace(source, lr=paths[found[0]]) if len(found) == 1 else replace(source, problem=problem))
    return paired


def read_rgb(path: Path, *, first_frame: bool = False) -> Picture:
    """A picture file as (H, W, 3) uint8: grey repeated, 16 bits rounded to 8, an opaque alpha channel left out.

    Raises:
        UserError: it cannot be read.
        TransparentError: it has transparent pixels, under which there may be anything.
    """
    pixels = open_picture(path, first_frame=first_frame).read().pixels
    if pixels.shape[2] in (2, 4):
        if pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
            raise TransparentError("it has transparent pixels; lay it over a colour first")
        pixels = pixels[..., :-1]
    return as_rgb(pixels)


class TransparentError(UserError):
    """A picture with transparent pixels."""


def inspect(source: Source, rules: Rules, benchmarks: Benchmarks, scale: int | None) -> Inspection:
    """Look at a source; what is wrong with it is part of the result.

    Args:
        source: with its digests.
        rules: of what to keep.
        benchmarks: what must not be in it.
        scale: HR pixels per LR pixel, where ``source.lr`` is given.
    """

    def refused(reason: str, because: str, pixels: NDArray[np.uint8] | None = None) -> Inspection:
        height, width = (0, 0) if pixels is None else pixels.shape[:2]
        return Inspection(source.name, source.digests, height, width, reason, because)

    if source.problem:
        return refused("pair" if source.digests else "unreadable", source.problem)
    try:
        pixels = read_rgb(source.path, first_frame=rules.first_frame)
        lr = None if source.lr is None else read_rgb(source.lr, first_frame=rules.first_frame)
    except TransparentError as error:
        return refused("transparent", str(error))
    except UserError as error:
        # The same words wherever the files lie.
        words = str(error).replace(f"cannot read {source.path}: ", "").replace(f"cannot read {source.lr}: ", "LR: ")
        return refused("unreadable", words)
    height, width = pixels.shape[:2]
    boxes = rules.crops.boxes(height - height % rules.multiple, width - width % rules.multiple)
    if min(height, width) < SMALLEST or not boxes:
        return refused("small", f"{width} x {height} pixels are too few", pixels)
    grey = luma(pixels)
    if lr is not None and scale is not None and (problem := pair_problem(grey, luma(lr), scale)):
        return refused("pair", problem, pixels)
    small = thumbnail(grey)
    if leak := benchmarks.find(grey, small):
        return refused("benchmark", f"it shares something with the benchmark picture {leak}", pixels)
    kept: list[Box] = []
    dropped: Counter[str] = Counter()
    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for box in boxes:
        part = cut(grey, box)
        if detail(part) < rules.flat:
            dropped["flat"] += 1
        elif sharpness(part) < rules.blurred:
            dropped["blurred"] += 1
        else:
            kept.append(box)
            levels = cut(pixels, box).reshape(-1, 3).astype(np.int64)
            sums += levels.sum(axis=0)
            squares += (levels * levels).sum(axis=0)
    return Inspection(
        source.name,
        source.digests,
        height,
        width,
        thumbnail=small.tobytes().hex(),
        boxes=tuple(kept),
        dropped=dict(sorted(dropped.items())),
        sums=tuple(sums.tolist()),
        squares=tuple(squares.tolist()),
    )


def cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The part of (H, W, ...) that a box says."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def _matches(text: str) -> tuple[Path, list[Path]]:
    """The pictures of one input and the folder that their names begin in."""
    path = Path(text)
    if path.is_dir():
        return path, list(pictures_in(path, SUFFIXES, recursive=True))
    if path.is_file():
        return path.parent, [path]
    if not has_magic(text):
        raise UserError(f"{text} does not exist")
    fixed = fixed_part(path)
    matches = (Path(match) for match in glob(text, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    return fixed, [match for match in matches if _is_picture(match, fixed)]


def _is_picture(file: Path, below: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()
