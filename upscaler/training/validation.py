"""The pictures that a model is measured on while it is trained: whole, and by the rules of `srup evaluate`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from upscaler.errors import UserError
from upscaler.images.files import SUFFIXES, open_picture
from upscaler.images.listing import pictures_in
from upscaler.images.metrics import SSIM_WINDOW
from upscaler.images.resize import resize
from upscaler.images.sheets import as_rgb, most_detailed
from upscaler.model.evaluation import Scores, average, measure
from upscaler.model.upscaler import Size, Upscaler
from upscaler.training.degradation import PRESETS, Degrade
from upscaler.training.readings import Sample
from upscaler.training.shards import Picture, Pictures

SAMPLES = 4
"""Pictures that crops are shown of."""

CROP = 192
"""The longest edge of a crop, in HR pixels."""

Kept = Literal["stored"]
"""In the place of a degradation: the LR pictures that a prepared set holds."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Case:
    name: str
    reference: Picture
    lr: Picture

    @property
    def hr(self) -> Picture:
        return as_rgb(self.reference)


class ValidationSet:
    """A few whole pictures, each with its LR picture.

    Args:
        cases: names, HR pictures (H, W, 3), or (H, W, 1) of grey files, their edges multiples of the scale, and LR
            pictures (H / scale, W / scale, 3), all uint8. The names become words that can be names of files, no two
            alike.
        scale: HR pixels per LR pixel, and the border that does not count in PSNR, SSIM and NIQE.
        left_out: a line about each picture that could not be used.
        available: how many usable pictures there were to choose these from; None is no others.

    Raises:
        UserError: no pictures.
    """

    def __init__(
        self,
        cases: Iterable[tuple[str, Picture, Picture]],
        scale: int,
        left_out: Sequence[str] = (),
        available: int | None = None,
    ) -> None:
        cases = list(cases)
        if not cases:
            reason = f": {left_out[0]}" if left_out else ""
            raise UserError(f"there is no picture to validate with{reason}")
        names = _plain_names([name for name, _, _ in cases])
        self.scale = scale
        self.left_out = tuple(left_out)
        self.available = len(cases) if available is None else available
        self._cases = [_Case(name, hr, lr) for name, (_, hr, lr) in zip(names, cases, strict=True)]
        self._bicubic: Scores | None = None
        self._crops = [_crop(case.hr, scale) for case in self._cases[:SAMPLES]]

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def names(self) -> list[str]:
        """Of the pictures, in their order."""
        return [case.name for case in self._cases]

    @classmethod
    def from_prepared(
        cls, pictures: Pictures, scale: int, degrade: Degrade | Kept, seed: int, most: int
    ) -> ValidationSet:
        """Pictures of a prepared set, evenly spread over what they were cut from, and only then several of one source.

        They stay in its files until they are looked at.

        Args:
            pictures: of the set, usually those of its ``validation`` split.
            scale: HR pixels per LR pixel.
            degrade: what makes the LR pictures, or ``stored``.
            seed: of what is random in making them; it is the same at every validation.
            most: how many pictures to take.

        Raises:
            UserError: none is large enough, or there are no stored LR pictures of that scale.
        """
        if degrade == "stored" and pictures.scale != scale:
            there = f"those of scale {pictures.scale}" if pictures.scale else "none"
            raise UserError(f"validation needs stored LR pictures of scale {scale}, and the set holds {there}")
        sources: dict[str, list[int]] = {}
        left_out = []
        for index, (height, width) in enumerate(pictures.sizes.tolist()):
            name = pictures.names[index]
            if reason := _too_small(height, width, scale):
                left_out.append(f"{name}: {reason}")
            else:
                sources.setdefault(_parts(name)[0], []).append(index)
        cases = []
        for index in _spread_over(list(sources.values()), most):
            hr = _multiple(pictures.hr(index), scale)
            if degrade == "stored":
                lr = pictures.lr(index)[: hr.shape[0] // scale, : hr.shape[1] // scale]
            else:
                lr = _made_small(hr, scale, degrade, seed, index)
            cases.append((pictures.names[index], hr, lr))
        return cls(cases, scale, left_out, sum(map(len, sources.values())))

    @classmethod
    def from_folder(cls, folder: Path, scale: int, degrade: Degrade, seed: int, most: int) -> ValidationSet:
        """Pictures of a folder, evenly spread over them in the order of their names; they are kept in memory.

        What cannot be read, is too small or has transparent pixels is left out, and another takes its place; see
        ``left_out``. Damage behind the header is found in those that would be taken, because only they are read.

        Args:
            folder: of pictures of any format; grey ones are upscaled as RGB and measured as grey.
            scale: HR pixels per LR pixel.
            degrade: what makes the LR pictures.
            seed: of what is random in making them; it is the same at every validation.
            most: how many pictures to take.

        Raises:
            UserError: no such folder, or nothing in it that can be used.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give a folder of pictures")
        try:
            files = sorted(pictures_in(folder, SUFFIXES, recursive=False))
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
        if not files:
            raise UserError(f"there is no picture in the folder {folder}")
        usable, left_out = [], []
        for index, path in enumerate(files):
            try:
                picture = open_picture(path)
            except UserError as error:
                left_out.append(str(error))
                continue
            if reason := _too_small(picture.height, picture.width, scale):
                left_out.append(f"{path}: {reason}")
            else:
                usable.append((index, picture))
        chosen, damaged, cases = _spread(usable, most), 0, []
        spare = [each for each in usable if each not in chosen]
        while chosen:
            index, picture = chosen.pop(0)
            try:
                hr = _multiple(_opaque(picture.read().pixels, picture.path), scale)
            except UserError as error:
                left_out.append(str(error))
                damaged += 1
                if spare:
                    chosen.insert(0, spare.pop(_nearest(index, [other for other, _ in spare])))
                continue
            cases.append((picture.path.name, hr, _made_small(as_rgb(hr), scale, degrade, seed, index)))
        return cls(cases, scale, left_out, len(usable) - damaged)

    def measure(self, upscaler: Upscaler) -> tuple[Scores, Scores, list[Sample]]:
        """Upscale every picture and compare it with its HR picture.

        Returns:
            The mean scores of the results; those of bicubic interpolation, which are computed once; and of the
            first four pictures the crop with the most detail, at most 192 x 192 pixels.

        Raises:
            UserError: the network gives values that are not finite, or there is too little memory.
        """
        scores, samples = [], []
        for number, case in enumerate(self._cases):
            height, width = case.reference.shape[:2]
            result = upscaler.upscale(case.lr, Size(width=width, height=height))
            scores.append(measure(result, case.reference, case.lr, self.scale))
            if number < len(self._crops):
                crop = self._crops[number]
                bicubic = resize(case.lr, height, width)
                # Copies, because a view would keep the whole picture.
                samples.append(Sample(case.name, bicubic[crop].copy(), result[crop].copy(), case.hr[crop].copy()))
        return average(scores), self._bicubic_scores(), samples

    def _bicubic_scores(self) -> Scores:
        if self._bicubic is None:
            self._bicubic = average(
                [
                    measure(resize(case.lr, *case.reference.shape[:2]), case.reference, case.lr, self.scale)
                    for case in self._cases
                ]
            )
        return self._bicubic


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most that many of them, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def _spread_over(groups: Sequence[Sequence[Item]], most: int) -> list[Item]:
    """At most that many, equally many of each group as far as they go; one of each comes before the second of any."""
    counts = [0] * len(groups)
    while left := min(most, sum(map(len, groups))) - sum(counts):
        open_ones = [number for number, group in enumerate(groups) if counts[number] < len(group)]
        for number in _spread(open_ones, left):
            counts[number] += 1
    chosen = [_spread(group, count) for group, count in zip(groups, counts, strict=True)]
    return [group[place] for place in range(max(counts, default=0)) for group in chosen if place < len(group)]


def _nearest(place: int, places: Sequence[int]) -> int:
    """Which of the places is nearest."""
    return min(range(len(places)), key=lambda number: abs(places[number] - place))


def _made_small(hr: Picture, scale: int, degrade: Degrade, seed: int, index: int) -> Picture:
    if degrade == PRESETS["bicubic"]:
        # As the published benchmarks do, on integers; the tensors of training are not rounded between the axes.
        return resize(hr, hr.shape[0] // scale, hr.shape[1] // scale)
    number = int(np.random.default_rng((seed, index)).integers(2**63))
    tensor = torch.from_numpy(hr.copy()).permute(2, 0, 1)[None].float() / 255
    lr: Picture = (
        (degrade(tensor, scale, Generator().manual_seed(number))[0] * 255).round().byte().permute(1, 2, 0).numpy()
    )
    return lr


def _opaque(pixels: NDArray[np.uint8] | NDArray[np.uint16], path: Path) -> Picture:
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise UserError(f"{path} has transparency, which cannot be measured; flatten it first")
        pixels = pixels[..., :-1]
    rgb = as_rgb(pixels)
    return rgb[..., :1] if pixels.shape[2] == 1 else rgb


def _multiple(picture: Picture, scale: int) -> Picture:
    height, width = picture.shape[:2]
    return picture[: height // scale * scale, : width // scale * scale]


def _too_small(height: int, width: int, scale: int) -> str:
    """Why a picture cannot be measured, or nothing."""
    if min(height, width) // scale * scale >= SSIM_WINDOW + 2 * scale:
        return ""
    return f"{width} x {height} pixels are too few for x{scale} with a border of {scale}"


def _crop(hr: Picture, scale: int) -> tuple[slice, slice]:
    """The part with the most detail, on the grid of LR pixels."""
    height, width = (min(CROP // scale * scale, edge) for edge in hr.shape[:2])
    top, left = (edge // scale * scale for edge in most_detailed(hr, height, width))
    return slice(top, top + height), slice(left, left + width)


def _parts(name: str) -> tuple[str, str]:
    """The source of a crop and its place, as ``SOURCE@TOP,LEFT``, ``xSIZE`` of a copy; else a source as a whole."""
    crop = re.fullmatch(r"(.*)@(\d+,\d+(?:x[\d.]+)?)", name, re.DOTALL)
    return (crop[1], crop[2]) if crop else (name, "")


def _plain_names(names: Sequence[str]) -> list[str]:
    """Letters, digits and ``._-`` only, without what makes them look like files; no two alike where case is one."""
    taken: set[str] = set()
    result = []
    for name in names:
        source, place = _parts(name)
        stem, dot, suffix = source.rpartition(".")
        source = stem if f"{dot}{suffix.lower()}" in SUFFIXES else source
        plain = re.sub(r"[^\w.-]+", "_", source).strip(".-") or "_"
        if place:
            plain += "-" + place.replace(",", "-").replace(".", "_")
        number, unique = 2, plain
        while unique.lower() in taken:
            number, unique = number + 1, f"{plain}-{number}"
        taken.add(unique.lower())
        result.append(unique)
    return result
