"""Which low-resolution picture and which results belong to a reference picture, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from upscaler.errors import UserError
from upscaler.images.alpha import without_alpha
from upscaler.images.files import SUFFIXES, PictureFile, open_picture
from upscaler.images.listing import pictures_in
from upscaler.images.metrics import SSIM_WINDOW
from upscaler.images.resize import resize

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A reference and what belongs to it; all of it was looked at, and is to be read by ``read_opaque``."""

    reference: Path
    height: int
    """Of the reference cropped to a multiple of the scale."""
    width: int
    lr: Path | None
    """None where it is to be made from the reference."""
    results: Mapping[str, Path]
    """By the names of their rows; as large as the reference, cropped or not."""


@dataclass(frozen=True)
class Failed:
    """A reference is passed over."""

    reference: Path
    message: str


@dataclass(frozen=True)
class Cases:
    """What was found for a folder of references."""

    cases: list[Case]
    failures: list[Failed]
    unused: list[Path]
    """Pictures that belong to no reference."""


def find_cases(
    references: Path, *, scale: int, border: int, lr: Path | None = None, results: Mapping[str, Path] | None = None
) -> Cases:
    """Match folders of pictures by the stems of their names, and check all sizes.

    A partner has the stem of its reference, or one that agrees with it when endings such as ``x4``,
    ``_LR``, ``_SRF_4_HR``, ``_out`` or ``-upscaled`` are taken off both.

    Args:
        references: a folder of pictures.
        scale: reference pixels per low-resolution pixel.
        border: pixels at each edge that will not count.
        lr: a folder of low-resolution pictures; None if they are to be made.
        results: folders of results to measure, by the names of their rows.

    Raises:
        UserError: a folder that is not there or has no pictures, or one in which nothing matches.
    """
    named = _pictures(references)
    folders = {name: _Folder(folder, scale) for name, folder in (results or {}).items()}
    lr_folder = _Folder(lr, scale) if lr else None
    everything = [*folders.values(), *([lr_folder] if lr_folder else [])]
    for folder in everything:
        folder.claim(named)
    for folder in everything:
        if not any(folder.matches(reference) for reference in named):
            raise UserError(f"no picture in {folder.path} is named like one in {references}")
    cases, failures = [], []
    for reference in named:
        try:
            case = case_of(reference, scale=scale, border=border)
            own_lr = lr_folder.partner(reference) if lr_folder else None
            partners = {name: folder.partner(reference) for name, folder in folders.items()}
            cases.append(with_partners(case, scale, lr=own_lr, results=partners))
        except UserError as error:
            failures.append(Failed(reference, str(error)))
    unused = [file for folder in everything for file in folder.unused()]
    return Cases(cases, failures, unused)


def case_of(reference: Path, *, scale: int, border: int) -> Case:
    """A reference by itself.

    Raises:
        UserError: it cannot be read, has transparency, or is too small to be measured.
    """
    picture = _opaque(reference)
    height, width = picture.height // scale * scale, picture.width // scale * scale
    if min(height, width) < SSIM_WINDOW + 2 * border:
        raise UserError(
            f"{reference}: {picture.width} x {picture.height} pixels are too few for x{scale} with a border of {border}"
        )
    return Case(reference, height, width, None, {})


def with_partners(case: Case, scale: int, *, lr: Path | None, results: Mapping[str, Path] | None = None) -> Case:
    """A reference and pictures that belong to it, their sizes checked.

    Raises:
        UserError: a picture that cannot be read, has transparency, or does not fit the reference.
    """
    results = results or {}
    whole = _opaque(case.reference)
    full = (case.width, case.height)
    if lr:
        _check_size(_opaque(lr), case.reference, {(case.width // scale, case.height // scale)})
    for result in results.values():
        _check_size(_opaque(result), case.reference, {full, (whole.width, whole.height)})
    return replace(case, lr=lr, results=results)


def read_case(case: Case, scale: int) -> tuple[Pixels, Pixels]:
    """The reference, cropped, and the low-resolution picture, made by MATLAB's bicubic if none is given.

    Raises:
        UserError: one of them cannot be read.
    """
    reference = read_opaque(case.reference)[: case.height, : case.width]
    if case.lr:
        return reference, read_opaque(case.lr)
    return reference, resize(reference, case.height // scale, case.width // scale)


def core_of(stem: str, scale: int) -> str:
    """A name without the endings that tell LR, HR and results of that scale apart."""
    endings = rf"(?:[-_. ]?x{scale}|[-_. ](?:SRF[-_]{scale}|LR|HR|GT|SR|out|upscaled))+$"
    return re.sub(endings, "", stem, flags=re.IGNORECASE) or stem


def read_opaque(path: Path) -> Pixels:
    """The pixels of a file, (H, W, 1 or 3) uint8 or uint16; an alpha channel that hides nothing is left out.

    Raises:
        UserError: it cannot be read or has transparency.
    """
    return _colours(open_picture(path))


class _Folder:
    """The pictures of a folder and the references they belong to."""

    def __init__(self, path: Path, scale: int) -> None:
        self.path = path
        self._scale = scale
        self._by_stem: dict[str, list[Path]] = {}
        self._by_core: dict[str, list[Path]] = {}
        self._claims: dict[Path, list[str]] = {}
        for file in _pictures(path):
            self._by_stem.setdefault(file.stem, []).append(file)
            self._by_core.setdefault(self._core(file), []).append(file)

    def matches(self, reference: Path) -> list[Path]:
        """The files of the very same stem, else those of the same stem without endings."""
        return self._by_stem.get(reference.stem) or self._by_core.get(self._core(reference), [])

    def claim(self, references: list[Path]) -> None:
        """Note which files belong to which references, so that none is taken for two."""
        for reference in references:
            for match in self.matches(reference):
                self._claims.setdefault(match, []).append(reference.name)

    def partner(self, reference: Path) -> Path:
        """The one file that belongs to a reference."""
        matches = self.matches(reference)
        if not matches:
            raise UserError(f"{reference.name} has no partner in {self.path}")
        if len(matches) > 1:
            raise UserError(f"{reference.name} could belong to {' or '.join(str(match) for match in matches)}")
        if others := [name for name in self._claims[matches[0]] if name != reference.name]:
            raise UserError(
                f"{matches[0]} could belong to {reference.name} or {' or '.join(others)} by name; rename one of them"
            )
        return matches[0]

    def unused(self) -> list[Path]:
        """The files that belong to no reference."""
        return [file for files in self._by_stem.values() for file in files if file not in self._claims]

    def _core(self, path: Path) -> str:
        return core_of(path.stem, self._scale)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give a folder of pictures")
    found = sorted(pictures_in(folder, SUFFIXES, recursive=False))
    if not found:
        raise UserError(f"there is no picture in the folder {folder}")
    return found


def _opaque(path: Path) -> PictureFile:
    picture = open_picture(path)
    if picture.channels in (2, 4):
        _colours(picture)
    return picture


def _colours(picture: PictureFile) -> Pixels:
    pixels = without_alpha(picture.read().pixels)
    if pixels is None:
        raise UserError(f"{picture.path} has transparency, which cannot be measured; flatten it first")
    return pixels


def _check_size(picture: PictureFile, reference: Path, sizes: set[tuple[int, int]]) -> None:
    """Sizes are (width, height)."""
    if (picture.width, picture.height) not in sizes:
        wanted = " or ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise UserError(
            f"{picture.path} is {picture.width} x {picture.height} where {reference.name} asks for {wanted}"
        )
