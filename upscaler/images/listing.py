"""Which pictures lie in a folder, and where a glob pattern begins to look."""

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
            if not name.startswith(".") and file.suffix.lower() in suffixes and file.is_file():
                yield file


def fixed_part(pattern: Path) -> Path:
    """The folder that all matches of a glob pattern lie below."""
    return Path(*takewhile(lambda part: not has_magic(part), pattern.parts))


def _raise(error: OSError) -> NoReturn:
    raise error
