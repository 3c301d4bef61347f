"""The folder that a training set is made in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from upscaler.errors import UserError
from upscaler.saving import LOCK, alone_in
from upscaler.training.journal import JOURNAL
from upscaler.training.shards import MANIFEST


@contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; if nothing comes of it, it goes as it came.

    Raises:
        UserError: it holds something else than a set, is in use, or cannot be written to.
    """
    _check(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with alone_in(folder, f"another srup prepare-data is writing to {folder}; wait for it or use another -o"):
        try:
            yield
        except BaseException:
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                _remove(made)
            raise


def _check(folder: Path) -> None:
    """Refuse to mix a set with somebody's files."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; -o names a folder")
    if not folder.exists() or (folder / MANIFEST).exists() or (folder / JOURNAL).exists():
        return
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder} holds files but no training set; use another -o, such as a folder inside it")


def _remove(folders: Sequence[Path]) -> None:
    """Remove folders, inner ones first, the first with its lock; somebody else may have begun to use them."""
    with suppress(OSError):
        (folders[0] / LOCK).unlink()
        for folder in folders:
            folder.rmdir()
