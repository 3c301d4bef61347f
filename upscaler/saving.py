"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscaler.errors import UserError

LOCK = ".lock"
"""The file by which ``alone_in`` holds a folder."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, in binary; it gets its name when the block ends without an error.

    What had the name before stays as it was until then, and passes its permissions on; a link stays a link, and what
    it points to is replaced. The folder is made if it is missing. What is written can be read again in the block.

    Raises:
        UserError: it cannot be written, for example for want of space.
    """
    target = Path(os.path.realpath(path))  # which no circle of links upsets
    part = target.with_name(f".srup-{secrets.token_hex(8)}.part")
    try:
        with explained(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("x+b") as file:
                if target.exists():
                    part.chmod(stat.S_IMODE(target.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            _sync_folder(target.parent)
    finally:
        with suppress(OSError):  # what has failed before is what counts
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name last through a power cut, where the system can: Windows and some mounts cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that are of no use without each other: none gets its name before all are complete.

    Raises:
        UserError: one of them cannot be written.
    """
    with ExitStack() as stack:
        for path, content in files.items():
            file = stack.enter_context(whole_file(path))
            file.write(content)
            # Now, and not when another has its name already, is the time to find that there is no space.
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to; what is in it at the end of the block, without an error, comes to lie in ``path``.

    Files that lie there under the same names are replaced, each at once; all others stay.

    Raises:
        UserError: it cannot be written.
    """
    part = (path if path.is_dir() else path.parent) / f".srup-{secrets.token_hex(8)}.parts"
    try:
        with explained(path):
            part.mkdir(parents=True)
        try:
            yield part
        except UserError as error:
            raise UserError(str(error).replace(str(part), str(path))) from error
        with explained(path):
            for file in sorted(each for each in part.rglob("*") if each.is_file()):
                place = path / file.relative_to(part)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def clear_parts(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder and those inside it; nobody else may be writing there.

    Raises:
        UserError: it cannot be removed.
    """
    with explained(folder):
        for part in folder.rglob(".srup-*.part"):
            part.unlink()


@contextmanager
def alone_in(folder: Path, refusal: str) -> Iterator[None]:
    """A folder, made if need be, for this process alone among those that ask.

    The file of the lock stays: one process could hold a file without a name, the next a new one.

    Raises:
        UserError: another process has it, said as ``refusal``; or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(refusal) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Failures of the system while writing become one line about the file."""
    try:
        yield
    except OSError as error:
        advice = "; make room or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{advice}") from error


def check_place(path: Path) -> None:
    """Refuse a file that could not be written, before the work that makes it; missing folders can be made.

    Raises:
        UserError: it is a folder or something else that is no file, or it would lie in a place without rights.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no regular file'}")
    folder = (Path(os.path.realpath(path)) if path.is_symlink() else path).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: the folder {folder} is write-protected; choose another")
