"""From boxes in source pictures to shards on disk, decoding ahead of the writing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.training.inspection import Box, cut, read_rgb, resized
from upscaler.training.shards import Picture, ShardFile, begins_with, shard_header, write_file
from upscaler.training.sources import Source

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Storage:
    """How pictures are stored.

    Args:
        scale: HR pixels per LR pixel, if LR pictures are stored, else None.
        degradation: name of the preset that makes them, if they are not given.
        seed: of the degradation.
        shard_bytes: about how large a shard is.
    """

    scale: int | None = None
    degradation: str | None = None
    seed: int = 0
    shard_bytes: int = 512_000_000


@dataclass(frozen=True)
class Piece:
    """One picture of the set: a part of a source."""

    source: Source
    box: Box

    @property
    def name(self) -> str:
        size = "" if self.box.size == 1 else f"x{self.box.size:g}"
        return f"{self.source.name}@{self.box.top},{self.box.left}{size}"


def build(
    splits: Mapping[str, Sequence[Piece]],
    folder: Path,
    storage: Storage,
    identity: str,
    *,
    first_frame: bool,
    pool: ThreadPoolExecutor,
    advance: Callable[[int, int], None],
) -> list[ShardFile]:
    """Write all shards of a set, or find them where an earlier run has written them.

    Args:
        splits: the pictures of ``train`` and ``validation``, in their order.
        folder: where the shards go.
        storage: how they are stored.
        identity: of the set, hexadecimal; part of the shards' names, so that no other set's are taken for these.
        first_frame: as the sources were inspected.
        pool: decodes.
        advance: told of the bytes that are done and of all.

    Raises:
        UserError: a source is not what was inspected, or the disk has no room.
    """
    plans = [
        _Plan(folder / f"{split}-{number:05}-{identity[:8]}.safetensors", split, pieces, storage.scale, identity)
        for split, all_pieces in splits.items()
        for number, pieces in enumerate(_shared_out(all_pieces, storage))
    ]
    missing = [plan for plan in plans if not begins_with(plan.path, plan.header, plan.size)]
    wanted, free = sum(plan.size for plan in missing), shutil.disk_usage(folder).free
    if wanted > free:
        raise UserError(
            f"{folder} has room for {free / 1e9:.1f} GB, and the pictures take {wanted / 1e9:.1f} GB; "
            "make room or choose another place"
        )
    done, total = 0, sum(plan.size for plan in plans)
    shards = []
    for plan in plans:
        before = done
        if plan not in missing:
            digest = digest_of(plan.path)
        else:

            def parts(plan: _Plan = plan) -> Iterator[bytes | memoryview]:
                nonlocal done
                yield plan.header
                work = partial(_cut_out, storage=storage, first_frame=first_frame)
                groups = [(source, list(pieces)) for source, pieces in groupby(plan.pieces, lambda piece: piece.source)]
                for pictures in ahead(pool, work, groups):
                    for picture in pictures:
                        yield picture.data
                        done += picture.nbytes
                    advance(done, total)

            _, digest = write_file(plan.path, parts())
        done = before + plan.size
        advance(done, total)
        shards.append(ShardFile(plan.path.name, plan.split, len(plan.pieces), plan.size, digest))
    return shards


def ahead(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items, a few worked on ahead; what is not begun is dropped on an error."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            # A slow picture does not hold up the others at once, and memory does not fill up.
            if len(pending) >= _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@dataclass(frozen=True, eq=False)
class _Plan:
    """A shard before it is written."""

    path: Path
    split: str
    pieces: Sequence[Piece]
    scale: int | None
    identity: str

    @property
    def header(self) -> bytes:
        shapes = []
        for piece in self.pieces:
            height, width = piece.box.height, piece.box.width
            shapes.append((f"{piece.name}/hr", (height, width)))
            if self.scale is not None:
                shapes.append((f"{piece.name}/lr", (height // self.scale, width // self.scale)))
        return shard_header(shapes, {"identity": self.identity})

    @property
    def size(self) -> int:
        return len(self.header) + sum(_bytes(piece.box, self.scale) for piece in self.pieces)


def _bytes(box: Box, scale: int | None) -> int:
    height, width = box.height, box.width
    return 3 * (height * width + (height // scale) * (width // scale) if scale else height * width)


def _shared_out(pieces: Sequence[Piece], storage: Storage) -> Iterator[list[Piece]]:
    """The pieces by shard: each full, but for the last, and none empty."""
    shard: list[Piece] = []
    filled = 0
    for piece in pieces:
        size = _bytes(piece.box, storage.scale)
        if shard and filled + size > storage.shard_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(piece)
        filled += size
    if shard:
        yield shard


def _cut_out(group: tuple[Source, list[Piece]], storage: Storage, first_frame: bool) -> list[Picture]:
    """The pictures of some boxes of one source: HR, or HR and LR in turn."""
    source, pieces = group
    for path, digest in zip((source.path, source.lr), source.digests, strict=False):
        try:
            if path is None or digest_of(path) != digest:
                raise UserError(f"{path} has changed since it was inspected; run the same command again")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    pixels = read_rgb(source.path, first_frame=first_frame)
    given = None if source.lr is None else read_rgb(source.lr, first_frame=first_frame)
    pictures = []
    for size, alike in groupby(pieces, lambda piece: piece.box.size):
        scaled = resized(pixels, size)
        for piece in alike:
            hr = np.ascontiguousarray(cut(scaled, piece.box))
            pictures.append(hr)
            if storage.scale is not None:
                if given is not None:
                    small = Box(*(edge // storage.scale for edge in piece.box[:4]))
                    lr = np.ascontiguousarray(cut(given, small))
                else:
                    lr = _degraded(hr, piece, storage.scale, storage)
                pictures.append(lr)
    return pictures


def _degraded(hr: Picture, piece: Piece, scale: int, storage: Storage) -> Picture:
    import torch

    from upscaler.training.degradation import find_preset

    # The same picture is degraded alike whatever it is called and whatever else is in the set.
    key = f"{storage.seed} {piece.source.digests[0]} {tuple(piece.box)}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    x = torch.from_numpy(hr).permute(2, 0, 1)[None].float() / 255
    lr = find_preset(storage.degradation or "")(x, scale, torch.Generator().manual_seed(seed))
    picture: Picture = (lr[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return picture
