"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscaler.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, in binary; it gets its name when the block ends without an error.

    What had the name before stays as it was until then. The folder is made if it is missing.

    Raises:
        UserError: it cannot be written, for example for want of space.
    """
    part = path.with_name(f".srup-{secrets.token_hex(8)}.part")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):  # what has failed before is what counts
            part.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Failures of the system while writing become one line about the file."""
    try:
        yield
    except OSError as error:
        advice = "; make room or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{advice}") from error
