"""Which pictures lie in a folder, what else does, and where a glob pattern begins to look."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import NoReturn


def pictures_in(folder: Path, suffixes: Container[str], *, recursive: bool) -> Iterator[Path]:
    """The files with these suffixes (in lower case), in no order; what is hidden is left out.

    Raises:
        OSError: a folder that cannot be read, so that nothing is left out silently.
    """
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in names:
            file = Path(root, name)
            if not name.startswith(".") and _is_picture(file, suffixes):
                yield file


def passed_over(folder: Path, suffixes: Container[str]) -> Iterator[Path]:
    """What ``pictures_in`` does not find in a folder and the folders inside it, in no order; hidden is not counted.

    That is links to folders, which are not followed, links that lead nowhere, and files with other suffixes.

    Raises:
        OSError: a folder that cannot be read.
    """
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for name in folders if (path := Path(root, name)).is_symlink())
        files = (Path(root, name) for name in names if not name.startswith("."))
        yield from (file for file in files if not _is_picture(file, suffixes))


def fixed_part(pattern: Path) -> Path:
    """The folder that all matches of a glob pattern lie below."""
    return Path(*takewhile(lambda part: not has_magic(part), pattern.parts))


def _is_picture(file: Path, suffixes: Container[str]) -> bool:
    return file.suffix.lower() in suffixes and file.is_file()


def _raise(error: OSError) -> NoReturn:
    raise error
