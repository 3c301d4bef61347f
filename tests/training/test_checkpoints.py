from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from upscaler.errors import UserError
from upscaler.training import checkpoints
from upscaler.training.checkpoints import (
    FORMAT,
    checkpoint_path,
    checkpoints_in,
    load_checkpoint,
    remove_after,
    save_checkpoint,
    thin_out,
)

CPU = torch.device("cpu")


def _state(size: int = 50_000) -> dict[str, Any]:
    return {"weights": torch.arange(size, dtype=torch.float32), "stage": 1, "nested": {"list": [1, 2.5, None, "a"]}}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", 12, _state())
    assert path == checkpoint_path(tmp_path / "checkpoints", 12)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("weights"), _state()["weights"])
    assert loaded == {"format": FORMAT, "step": 12, "stage": 1, "nested": {"list": [1, 2.5, None, "a"]}}
    assert [each.name for each in path.parent.iterdir()] == ["step-000000012.pt"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    """In the middle of a tensor, where only a checksum notices."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _other_content(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip_a_bit, _other_content])
def test_damage_is_noticed(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, _state())
    damage(path)
    with pytest.raises(UserError, match=r"step-000000001.pt is damaged or no checkpoint"):
        load_checkpoint(path)


class _Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_checkpoint_is_refused(modern: bool, tmp_path: Path) -> None:
    path, target = checkpoint_path(tmp_path, 3), tmp_path / "ran"
    torch.save({"format": FORMAT, "step": 3, "x": _Hostile(target)}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        load_checkpoint(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(_Hostile(target)))
    assert target.exists(), "the trap does not work"


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT", FORMAT + 1)
    path = save_checkpoint(tmp_path, 1, _state())
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"is of format {FORMAT + 1}, and this srup reads {FORMAT}"):
        load_checkpoint(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*step-000000009.pt: No such file"):
        load_checkpoint(checkpoint_path(tmp_path, 9))


class _FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: IO[Any], room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(memoryview(data).cast("B"))
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.mark.parametrize("room", [0, 500, 100_000, 199_000])
def test_a_full_disk_leaves_what_was_there(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure may come at the beginning, in a tensor, or at the end; PyTorch has its own words for each."""
    good = save_checkpoint(tmp_path, 1, _state())
    before, opened = good.read_bytes(), Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: _FullDisk(opened(path, mode), room))
    for step in (1, 2):
        with pytest.raises(UserError) as error:
            save_checkpoint(tmp_path, step, _state())
        reason = "No space left on device; make room or choose another place"
        assert str(error.value) == f"cannot write {checkpoint_path(tmp_path, step)}: {reason}"
    monkeypatch.undo()
    assert good.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_an_error_that_is_no_full_disk_is_not_called_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        save_checkpoint(tmp_path, 1, {"x": _Failing()})


class _Failing:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("meta")


def _saved(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint_path(folder, step).touch()


def test_checkpoints_are_found_by_step(tmp_path: Path) -> None:
    _saved(tmp_path, 20, 3, 100)
    for other in ("step-1.pt", "step-000000005.pt.part", ".step-000000005.pt", "step-00000000x.pt"):
        (tmp_path / other).touch()
    assert list(checkpoints_in(tmp_path)) == [3, 20, 100]
    assert checkpoints_in(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    ("keep", "bests", "left"),
    [
        (2, [], [40, 50]),
        (2, [10], [10, 40, 50]),
        (2, [0, 10, 30], [30, 40, 50]),
        (2, [10, 50], [10, 40, 50]),
        (2, [50], [40, 50]),
        (3, [0, 20, 40], [20, 30, 40, 50]),
        (9, [10], [0, 10, 20, 30, 40, 50]),
    ],
)
def test_the_last_few_stay_and_the_best_of_each(tmp_path: Path, keep: int, bests: list[int], left: list[int]) -> None:
    _saved(tmp_path, *range(0, 60, 10))
    thin_out(tmp_path, keep, bests)
    assert list(checkpoints_in(tmp_path)) == left


def test_later_ones_are_removed(tmp_path: Path) -> None:
    _saved(tmp_path, 1, 2, 3, 4)
    remove_after(tmp_path, 2)
    assert list(checkpoints_in(tmp_path)) == [1, 2]
