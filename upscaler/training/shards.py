"""Training pictures as they lie on disk: uint8 tensors in safetensors shards, read through memory maps.

A set is a folder with ``manifest.json`` and the shards it names. In a shard each picture is a tensor
(H, W, 3), ``SOURCE@TOP,LEFT/hr``, followed, where the set holds LR pictures, by its ``.../lr``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.saving import whole_file

Picture = NDArray[np.uint8]
"""(H, W, 3)."""

FORMAT = 1
MANIFEST = "manifest.json"
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class ShardFile:
    """A shard as the manifest names it."""

    file: str
    split: str
    """``train`` or ``validation``."""
    pictures: int
    bytes: int
    sha256: str


def default_data_folder(name: str = "train") -> Path:
    """Where a training set lies that nobody gave a place: in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("srup", appauthor=False) / "data" / name


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file so that it appears when it is complete, or not at all.

    Returns:
        Its size in bytes and its SHA-256.

    Raises:
        UserError: it cannot be written, for example for want of space.
    """
    digest, size = hashlib.sha256(), 0
    with whole_file(path) as file:
        for data in parts:
            size += file.write(data)
            digest.update(data)
    return size, digest.hexdigest()


def shard_header(shapes: Sequence[tuple[str, tuple[int, int]]], metadata: Mapping[str, str]) -> bytes:
    """What stands before the pixels: the same bytes for the same pictures.

    Args:
        shapes: the name and (H, W) of every tensor, in the order of the file.
        metadata: any further words.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (height, width) in shapes:
        start, end = end, end + height * width * 3
        header[name] = {"dtype": "U8", "shape": [height, width, 3], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def begins_with(path: Path, header: bytes, size: int) -> bool:
    """Whether a file is there, of that size and with that beginning."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(len(header)) == header
    except OSError:
        return False


class PreparedSet:
    """A training set on disk.

    Args:
        folder: of the set.

    Raises:
        UserError: there is none, it is of another version, or a shard is missing or damaged at first sight.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        try:
            self.shards = [ShardFile(**entry) for entry in self.manifest["shards"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / MANIFEST} is damaged; {_AGAIN}") from error

    def pictures(self, split: str = "train") -> Pictures:
        """The pictures of ``train`` or ``validation``.

        Raises:
            UserError: a shard is missing or damaged at first sight.
        """
        return Pictures([self.folder / shard.file for shard in self.shards if shard.split == split], self.shards)

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Read every byte of every shard; ``progress`` is told how many.

        Raises:
            UserError: a shard is missing or is not what was written.
        """
        for shard in self.shards:
            path = self.folder / shard.file
            try:
                intact = digest_of(path, progress) == shard.sha256
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror or error}; {_AGAIN}") from error
            if not intact:
                raise UserError(f"{path} is damaged: its SHA-256 is not that of the manifest; {_AGAIN}")


class Pictures:
    """Pictures in shards, by number; parts of them are read without reading the rest.

    Args:
        paths: of the shards.
        known: what the manifest says of them.

    Raises:
        UserError: a shard is missing, cut off, or has no proper header.
    """

    def __init__(self, paths: Sequence[Path], known: Iterable[ShardFile] = ()) -> None:
        self._paths = list(paths)
        sizes = {shard.file: shard.bytes for shard in known}
        self.names: list[str] = []
        hr: list[tuple[int, int, int, int]] = []
        lr: list[tuple[int, int, int, int]] = []
        for number, path in enumerate(self._paths):
            for name, place in _tensors(path, sizes.get(path.name)):
                stem, _, kind = name.rpartition("/")
                if kind == "hr":
                    self.names.append(stem)
                (hr if kind == "hr" else lr).append((number, *place))
        self._hr = np.array(hr, np.int64).reshape(-1, 4)
        self._lr = np.array(lr, np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._hr)

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not travel to another process; it opens its own.
        return {key: value for key, value in self.__dict__.items() if key != "_maps"}

    @property
    def scale(self) -> int | None:
        """HR pixels per LR pixel where every HR picture has its LR picture beside it, else None."""
        return int(self._hr[0, 2] // self._lr[0, 2]) if len(self._lr) else None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The (height, width) of every HR picture, (N, 2)."""
        return self._hr[:, 2:]

    def hr(self, index: int) -> Picture:
        """An HR picture, (H, W, 3), read-only; what is sliced out of it is all that is read."""
        return self._view(self._hr[index])

    def lr(self, index: int) -> Picture:
        """The LR picture of an HR picture, in the same way."""
        return self._view(self._lr[index])

    @cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        return [np.memmap(path, np.uint8, "r") for path in self._paths]

    def _view(self, place: NDArray[np.int64]) -> Picture:
        shard, start, height, width = place.tolist()
        # As a plain array: a memmap's own slicing takes several times as long.
        flat = self._maps[shard].view(np.ndarray)[start : start + height * width * 3]
        picture: Picture = flat.reshape(height, width, 3)
        return picture


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``manifest.json`` says.

    Raises:
        UserError: there is none, it cannot be read, or it is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except FileNotFoundError as error:
        raise UserError(f"there is no training set in {folder}; make one with 'srup prepare-data'") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; {_AGAIN}") from error
    if version != FORMAT:
        raise UserError(f"{folder} holds a training set of format {version}, and this srup reads {FORMAT}; {_AGAIN}")
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any], shards: Sequence[ShardFile]) -> None:
    """Make a set of the shards; the moment this file is in place the set exists.

    Raises:
        UserError: it cannot be written.
    """
    content = {"format": FORMAT, **manifest, "shards": [asdict(shard) for shard in shards]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / MANIFEST, [text.encode()])


_AGAIN = "run 'srup prepare-data' again with --overwrite"


def _tensors(path: Path, size: int | None) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The (start in the file, height, width) of every tensor of a shard, in the order of the file."""
    try:
        actual = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            text = file.read(length) if length <= min(actual, _MOST_HEADER_BYTES) else b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; {_AGAIN}") from error
    begin, end = _LENGTH_BYTES + length, 0
    found = []
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            height, width, channels = entry["shape"]
            start, stop = entry["data_offsets"]
            if entry["dtype"] != "U8" or channels != 3 or start != end or stop - start != height * width * 3:
                raise ValueError(name)
            end = stop
            found.append((name, (begin + start, height, width)))
        if begin + end != actual or actual != (size or actual):
            raise ValueError(path.name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its size and its header do not agree; {_AGAIN}") from error
    yield from found
