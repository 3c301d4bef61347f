"""From what a person names to the pictures that are meant: names, LR partners, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from os.path import commonpath
from pathlib import Path

from upscaler.errors import UserError
from upscaler.images.files import SUFFIXES
from upscaler.images.listing import fixed_part, passed_over, pictures_in
from upscaler.training.pairing import Partners


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
class LeftOut:
    """What lies in the folders that were named and is no source; hidden files are not counted.

    Args:
        linked: folders that are not followed, because a link may lead anywhere.
        others: how many files there are of each suffix; ``broken link`` and ``no suffix`` beside those.
    """

    linked: Sequence[Path]
    others: Mapping[str, int]

    def __str__(self) -> str:
        """In words, empty if nothing is."""
        parts = []
        if self.linked:
            folders = "a linked folder" if len(self.linked) == 1 else f"{len(self.linked)} linked folders"
            parts.append(f"{folders}, as {self.linked[0]} (name it to include it)")
        if self.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.others.items())
            total = sum(self.others.values())
            parts.append(
                f"1 file of a kind that is not read ({next(iter(self.others))})"
                if total == 1
                else f"{total} files of kinds that are not read ({kinds})"
            )
        return " and ".join(parts)


def left_out(inputs: Iterable[str], exclude: Path | None = None) -> LeftOut:
    """What ``find_sources`` does not take of the same inputs.

    Args:
        inputs: what a person named.
        exclude: as for ``find_sources``.
    """
    inputs = list(inputs)
    unwanted = exclude.resolve() if exclude else None
    taken = [Path(text).resolve() for text in inputs]
    linked: set[Path] = set()
    files: set[Path] = set()
    for path in (path for text in inputs for path in _others(text)):
        target = path.resolve()
        if unwanted and (path.parent.resolve() / path.name).is_relative_to(unwanted):
            continue
        if not path.is_dir():
            files.add(path)
        elif not any(target.is_relative_to(root) for root in taken):
            linked.add(path)
    kinds = Counter((path.suffix.lower() or "no suffix") if path.exists() else "broken link" for path in files)
    return LeftOut(sorted(linked), dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))))


def find_sources(inputs: Iterable[str], exclude: Path | None = None) -> list[Source]:
    """The pictures that are meant by files, folders (with all folders inside) and glob patterns, by name.

    Args:
        inputs: what a person named.
        exclude: a folder whose pictures are no sources, such as the one that is written to.

    Raises:
        UserError: something that is not there, a folder or pattern without pictures but those of ``exclude``.
    """
    found: dict[Path, Path] = {}
    roots: list[Path] = []
    for text in inputs:
        root, paths = _matches(text)
        # Links keep their own names, so only what is above them is resolved.
        there = {root.resolve() / path.relative_to(root): path for path in paths}
        places = {at: path for at, path in there.items() if not (exclude and at.is_relative_to(exclude.resolve()))}
        if not places:
            if there:
                raise UserError(f"all pictures of {text} lie in {exclude}, which is written to; use another -o")
            rest = str(left_out([text]))
            raise UserError(f"there is no picture in {text}" + (f", only {rest}" if rest else ""))
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


def _others(text: str) -> Iterator[Path]:
    """What lies in a folder, or matches a pattern, and is no picture."""
    path = Path(text)
    if path.is_dir():
        yield from passed_over(path, SUFFIXES)
    elif not path.exists():
        fixed = fixed_part(path)
        yield from (match for match in _glob(text) if match.is_file() and not _is_picture(match, fixed))


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
    return fixed, [match for match in _glob(text) if _is_picture(match, fixed)]


def _glob(pattern: str) -> Iterator[Path]:
    return (Path(match) for match in glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns


def _is_picture(file: Path, below: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()
