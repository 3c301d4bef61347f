from __future__ import annotations

import errno
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from safetensors.numpy import load_file

from upscaler.errors import UserError
from upscaler.training import shards
from upscaler.training.shards import (
    Pictures,
    PreparedSet,
    ShardFile,
    default_data_folder,
    read_manifest,
    shard_header,
    write_file,
    write_manifest,
)


def pixels(seed: int, height: int, width: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_shard(path: Path, tensors: dict[str, Any], split: str = "train") -> ShardFile:
    header = shard_header([(name, array.shape[:2]) for name, array in tensors.items()], {"identity": "x"})
    size, digest = write_file(path, [header, *(array.data for array in tensors.values())])
    return ShardFile(path.name, split, len(tensors), size, digest)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    first = {"ä b.png@0,0/hr": pixels(0, 8, 12), "ä b.png@0,0/lr": pixels(1, 2, 3)}
    second = {"c@0,4/hr": pixels(2, 4, 8), "c@0,4/lr": pixels(3, 1, 2), "d@0,0/hr": pixels(4, 4, 4),
              "d@0,0/lr": pixels(5, 1, 1)}  # fmt: skip
    third = {"v@0,0/hr": pixels(6, 8, 8), "v@0,0/lr": pixels(7, 2, 2)}
    files = [
        write_shard(tmp_path / "one.safetensors", first),
        write_shard(tmp_path / "two.safetensors", second),
        write_shard(tmp_path / "three.safetensors", third, "validation"),
    ]
    write_manifest(tmp_path, {"identity": "x"}, files)
    return tmp_path


def test_pictures_come_back(prepared: Path) -> None:
    pictures = PreparedSet(prepared).pictures()
    assert pictures.names == ["ä b.png@0,0", "c@0,4", "d@0,0"]
    assert pictures.sizes.tolist() == [[8, 12], [4, 8], [4, 4]]
    assert pictures.scale == 4
    assert np.array_equal(pictures.hr(0), pixels(0, 8, 12))
    assert np.array_equal(pictures.hr(2), pixels(4, 4, 4))
    assert np.array_equal(pictures.lr(1), pixels(3, 1, 2))
    assert len(pictures) == 3
    validation = PreparedSet(prepared).pictures("validation")
    assert np.array_equal(validation.hr(0), pixels(6, 8, 8))


def test_pictures_cannot_be_written_to(prepared: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        PreparedSet(prepared).pictures().hr(0)[0, 0] = 1


def test_pictures_travel_to_other_processes_without_their_pixels(prepared: Path) -> None:
    pictures = PreparedSet(prepared).pictures()
    pictures.hr(0)
    sent = pickle.dumps(pictures)
    assert pixels(0, 8, 12).tobytes() not in sent
    assert np.array_equal(pickle.loads(sent).hr(0), pixels(0, 8, 12))


def test_safetensors_reads_a_shard(prepared: Path) -> None:
    tensors = load_file(prepared / "two.safetensors")
    assert np.array_equal(tensors["c@0,4/hr"], pixels(2, 4, 8))
    assert set(tensors) == {"c@0,4/hr", "c@0,4/lr", "d@0,0/hr", "d@0,0/lr"}


def test_the_pixels_are_aligned_and_the_digest_is_that_of_the_file(prepared: Path) -> None:
    data = (prepared / "one.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert PreparedSet(prepared).shards[0].sha256 == hashlib.sha256(data).hexdigest()
    assert PreparedSet(prepared).shards[0].bytes == len(data)


def test_an_intact_set(prepared: Path) -> None:
    read: list[int] = []
    PreparedSet(prepared).verify(read.append)
    assert sum(read) == sum(path.stat().st_size for path in prepared.glob("*.safetensors"))


def test_a_changed_byte_is_found(prepared: Path) -> None:
    path = prepared / "two.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    PreparedSet(prepared).pictures()
    with pytest.raises(UserError, match=r"two.safetensors is damaged: its SHA-256 .* --overwrite"):
        PreparedSet(prepared).verify()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: data[:20],
        lambda data: data[:0],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"U8"', b'"I8"'),
        lambda data: data.replace(b"[4,8,3]", b"[8,8,3]"),
        lambda data: data[:8] + b"[" + data[9:],
    ],
)
def test_a_shard_that_cannot_be_right_is_found_at_once(prepared: Path, damage: Any) -> None:
    path = prepared / "two.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"two.safetensors is damaged"):
        PreparedSet(prepared).pictures()


def test_a_missing_shard(prepared: Path) -> None:
    (prepared / "one.safetensors").unlink()
    for use in (lambda: PreparedSet(prepared).verify(), lambda: PreparedSet(prepared).pictures()):
        with pytest.raises(UserError, match=r"cannot read .*one.safetensors: No such file"):
            use()


def test_no_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no training set in .*; make one with 'srup prepare-data'"):
        PreparedSet(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "{"])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("entries", ["", ', "shards": 3', ', "shards": [{"file": "x"}]'])
def test_a_manifest_without_proper_shards(tmp_path: Path, entries: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"format": 1{entries}}}')
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        PreparedSet(tmp_path)


def test_a_manifest_of_the_future(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match="holds a training set of format 2, and this srup reads 1"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        read_manifest(tmp_path)


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts() -> Any:
        yield b"new"
        assert path.read_bytes() == b"old"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; make room or choose another place"):
        write_file(path, parts())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path)
    assert default_data_folder() == tmp_path / "data" / "train"
    assert default_data_folder("faces") == tmp_path / "data" / "faces"


def test_a_picture_without_lr(tmp_path: Path) -> None:
    write_shard(tmp_path / "one.safetensors", {"a@0,0/hr": pixels(0, 4, 4)})
    assert Pictures([tmp_path / "one.safetensors"]).scale is None
    assert shards.FORMAT == 1
