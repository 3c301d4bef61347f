from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from upscaler.errors import UserError
from upscaler.saving import check_place, whole_file, whole_folder, write_together


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / ("日" * 80)
    with whole_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place, link = tmp_path / "elsewhere/a", tmp_path / "link"
    link.symlink_to(place)
    for content in (b"first", b"second"):
        with whole_file(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert place.read_bytes() == content
    assert [*place.parent.iterdir()] == [place]


def test_a_folder_that_cannot_be_synchronised_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with whole_file(tmp_path / "a") as file:
        file.write(b"all of it")
    assert (tmp_path / "a").read_bytes() == b"all of it"


@pytest.mark.skipif(os.name == "nt", reason="it has other permissions")
def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch(0o600)
    with whole_file(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_place_of_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file/below")
    with pytest.raises(UserError, match=r"link: .*file is not a folder"):
        check_place(link)


def test_a_place_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match=r"cannot write .*/a/b/c"), whole_file(tmp_path / "a" / "b" / "c"):
        pass


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    write_together({tmp_path / "new" / "a": b"1", tmp_path / "new" / "b": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("order", [1, -1])
def test_none_of_several_files_appears_if_one_cannot_be_written(tmp_path: Path, order: int) -> None:
    (tmp_path / "old").write_bytes(b"before")
    files = {tmp_path / "old": b"after", tmp_path / "old" / "b": b"2"}
    with pytest.raises(UserError, match="cannot write"):
        write_together(dict([*files.items()][::order]))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"before"


def test_a_folder_is_filled_when_everything_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "new" / "results"
    for content in ("first", "second"):
        with whole_folder(place) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "a").write_text(content)
            assert content == "second" or not place.exists()
        assert (place / "inner" / "a").read_text() == content
        (place / "inner" / "other").touch()
    assert sorted(file.name for file in place.rglob("*")) == ["a", "inner", "other"]
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_of_a_folder_that_was_not_completed(tmp_path: Path, error: type[BaseException]) -> None:
    def break_off(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    (tmp_path / "there").mkdir()
    for place in (tmp_path / "there", tmp_path / "new"):
        with pytest.raises(error), whole_folder(place) as folder:
            break_off(folder)
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_errors_name_the_place_that_was_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=f"^cannot write {tmp_path}/there/a: no space$"),
        whole_folder(tmp_path / "there") as folder,
    ):
        raise UserError(f"cannot write {folder / 'a'}: no space")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), whole_folder(tmp_path / "file" / "results"):
        pass
