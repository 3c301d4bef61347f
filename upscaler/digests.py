"""What identifies a file: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_READ_BYTES = 2**22


def digest_of(path: Path, expect: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits; ``expect`` is told of the bytes as they are read.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
            if expect:
                expect(len(data))
    return digest.hexdigest()
