"""From what a person names to pairs of files: one picture in, one picture out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from upscaler.errors import UserError
from upscaler.images.listing import fixed_part, pictures_in

_SHOWN = 3
_RESULT = "-upscaled"
"""Behind the name of a result that lies beside its picture."""


@dataclass(frozen=True)
class Job:
    """A picture to read and where its result goes."""

    input: Path
    output: Path


@dataclass(frozen=True)
class _Found:
    path: Path
    relative: Path
    """Where its result lies below the output folder."""


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    suffixes: Mapping[str, str],
    *,
    format: str | None = None,
    recursive: bool = False,
) -> list[Job]:
    """The jobs for these inputs, sorted, before anything is read or written.

    Args:
        inputs: files, folders or glob patterns. Folders keep their tree below the output folder. Results of earlier
            runs in folders and patterns are passed over: the output folder, and ``NAME-upscaled`` beside ``NAME``.
            Folders that match a pattern are those inside a folder: they are searched where it is ``recursive``.
        output: for one named file its result, or the folder it goes to; for everything else a folder.
            None: beside the one file as ``NAME-upscaled``, or in the folder ``upscaled``.
        suffixes: of picture files, in lower case, and the format each stands for.
        format: of the results. None: as the name of the output says, else as that of the input.
        recursive: also the folders inside folders.

    Raises:
        UserError: an input that is not there, a folder or pattern without pictures, an output without
            a known extension, two inputs with one output, an output that is another job's input.
    """
    if format is not None and format not in set(suffixes.values()):
        raise UserError(f"the format {format!r} is unknown; use one of {', '.join(sorted(set(suffixes.values())))}")
    if len(inputs) == 1 and Path(inputs[0]).is_file():
        return [_single(Path(inputs[0]), output, suffixes, format)]
    folder = Path(output or "upscaled")
    if output and folder.suffix.lower() in suffixes and not folder.is_dir() and not output.endswith(("/", "\\")):
        raise UserError(f"{output} names a file; for several pictures -o names a folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; for several pictures -o names a folder")
    found = {item.path.absolute(): item for name in inputs for item in _find(name, folder, suffixes, recursive)}
    jobs = [
        Job(item.path, folder / _renamed(item.relative, suffixes, format))
        for item in sorted(found.values(), key=lambda item: item.path)
    ]
    _refuse_collisions(jobs)
    return jobs


def _single(path: Path, output: str | None, suffixes: Mapping[str, str], format: str | None) -> Job:
    beside = _renamed(path.with_stem(f"{path.stem}{_RESULT}"), suffixes, format)
    if output is None:
        return Job(path, beside)
    target = Path(output)
    if target.is_dir() or output.endswith(("/", "\\")):
        return Job(path, target / _renamed(Path(path.name), suffixes, format))
    if format is None and target.suffix.lower() not in suffixes:
        what = f"has the extension {target.suffix}, which is" if target.suffix else "has no extension, so it is"
        raise UserError(
            f"the output {output} {what} no known format; use {', '.join(suffixes)}, or --format, "
            "or end the name with / for a folder"
        )
    if format is not None and suffixes.get(target.suffix.lower(), format) != format:
        raise UserError(f"the output {output} has the name of another format than --format {format}; leave one out")
    return Job(path, target)


def _find(name: str, output: Path, suffixes: Mapping[str, str], recursive: bool) -> Iterator[_Found]:
    path = Path(name)
    if path.is_file():
        yield _Found(path, Path(path.name))
        return
    if path.is_dir():
        inside = [_Found(file, file.relative_to(path)) for file in pictures_in(path, suffixes, recursive=recursive)]
        names = {str(item.path.with_suffix("")) for item in inside}
        inside = [item for item in inside if not _is_result(item.path, path, output, names)]
        if not inside:
            hint = "" if recursive else "; --recursive also looks into the folders inside it"
            raise UserError(f"there is no picture in the folder {name}{hint}")
        yield from inside
        return
    if not has_magic(name):
        raise UserError(f"{name} is no file" if path.exists() else f"{name} does not exist")
    matches = [Path(match) for match in glob(name, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    if not matches:
        raise UserError(f"nothing matches {name}")
    base = fixed_part(path)
    folders = [match for match in matches if match.is_dir()] if recursive else []
    inside = [
        _Found(file, file.relative_to(folder.parent))
        for folder in folders
        for file in pictures_in(folder, suffixes, recursive=True)
    ]
    pictures = [match for match in matches if match.is_file() and match.suffix.lower() in suffixes]
    inside += [_Found(match, Path(match.name)) for match in pictures]
    names = {str(item.path.with_suffix("")) for item in inside}
    inside = [item for item in inside if not _is_result(item.path, base, output, names)]
    if not inside:
        raise UserError(f"no picture matches {name}")
    yield from inside


def _is_result(path: Path, searched: Path, output: Path, names: Set[str]) -> bool:
    """Whether a picture is a result of an earlier run.

    It lies in an output folder that lies in the folder searched, or beside a picture that was found, under the name
    that is given to its result. ``names`` are those of all that were found, without suffix.
    """
    name = str(path.with_suffix(""))
    if name.endswith(_RESULT) and name.removesuffix(_RESULT) in names:
        return True
    below = output.resolve()
    return (
        below != searched.resolve()
        and below.is_relative_to(searched.resolve())
        and path.resolve().is_relative_to(below)
    )


def _renamed(path: Path, suffixes: Mapping[str, str], format: str | None) -> Path:
    """With a suffix of the result's format; GIF becomes PNG, because 256 colours do not hold a result."""
    own = suffixes.get(path.suffix.lower())
    wanted = format or own or "png"
    if format is None and own == "gif":
        wanted = "png"
    if own == wanted:
        return path
    return path.with_suffix(next(suffix for suffix, name in suffixes.items() if name == wanted))


def _refuse_collisions(jobs: list[Job]) -> None:
    if not jobs:
        raise UserError("there is no picture among the inputs")
    makers: dict[Path, list[Job]] = {}
    for job in jobs:
        makers.setdefault(job.output.resolve(), []).append(job)
    clashes = [
        f"{' and '.join(str(job.input) for job in made)} -> {made[0].output}"
        for made in makers.values()
        if len(made) > 1
    ]
    if clashes:
        more = f" (and {len(clashes) - _SHOWN} more)" if len(clashes) > _SHOWN else ""
        raise UserError(
            f"several pictures would become one file: {'; '.join(clashes[:_SHOWN])}{more}; "
            "rename one, or give them to runs of their own"
        )
    inputs = {job.input.resolve() for job in jobs}
    for job in jobs:
        if job.output.resolve() in inputs and job.output.resolve() != job.input.resolve():
            raise UserError(f"the result of {job.input} would replace {job.output}, another input; use another -o")
