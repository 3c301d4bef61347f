from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upscaler.errors import UserError
from upscaler.training.sources import find_sources, left_out


def test_sources_have_names_below_what_they_share(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = np.zeros((1, 1, 3), np.uint8)
    for name in ("a/1.png", "a/deep/2.PNG", "b/1.png", "a/.hidden/3.png"):
        save(tmp_path / name.lower(), pixel)
    (tmp_path / "a/deep/2.png").rename(tmp_path / "a/deep/2.PNG")
    (tmp_path / "a/words.txt").touch()
    (tmp_path / "b/link.png").symlink_to(tmp_path / "a/1.png")
    monkeypatch.chdir(tmp_path)
    assert [source.name for source in find_sources(["a"])] == ["1.png", "deep/2.PNG"]
    assert [source.name for source in find_sources(["a", "b"])] == ["a/1.png", "a/deep/2.PNG", "b/1.png", "b/link.png"]
    assert [source.name for source in find_sources(["b/1.png"])] == ["1.png"]
    assert [source.name for source in find_sources(["*/1.png"])] == ["a/1.png", "b/1.png"]
    assert [source.name for source in find_sources(["b/1.png", "b", "./b"])] == ["1.png", "link.png"]
    assert [source.name for source in find_sources(["."], exclude=Path("a"))] == ["b/1.png", "b/link.png"]
    for missing in ("c", "*.jpg", "a/.hidden/*.jpg"):
        with pytest.raises(UserError, match=r"does not exist|there is no picture in"):
            find_sources([missing])


def test_names_that_are_no_text_can_stand_in_a_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff.png")
    monkeypatch.setattr(Path, "is_dir", lambda path: path == tmp_path)
    monkeypatch.setattr(os, "walk", lambda path, **_: [(path, [], [name])])
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    assert [source.name for source in find_sources([str(tmp_path)])] == ["bad\\udcff.png"]


@pytest.fixture
def folder(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixel = np.zeros((1, 1, 3), np.uint8)
    for name in ("photos/1.png", "photos/deep/2.png", "elsewhere/3.png"):
        save(tmp_path / name, pixel)
    for name in ("a.heic", "deep/b.HEIC", "c.jfif", "README", ".hidden", ".cache/d.heic", "set/manifest.json"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos/deep")
    (tmp_path / "photos/gone.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_what_is_left_out_is_named_and_counted() -> None:
    rest = left_out(["photos", "photos/deep", "photos/*.png"], exclude=Path("photos/set"))
    assert rest.linked == [Path("photos/linked")]
    assert rest.others == {".heic": 2, ".jfif": 1, "broken link": 1, "no suffix": 1}
    assert str(rest) == (
        "a linked folder, as photos/linked (name it to include it) and 5 files of kinds that are not read "
        "(2 .heic, 1 .jfif, 1 broken link, 1 no suffix)"
    )
    assert left_out(["photos/*"], exclude=Path("photos/set")).others == {".heic": 1, ".jfif": 1, "no suffix": 1}
    assert left_out(["photos", "photos/linked"]).linked == []
    assert str(left_out(["elsewhere", "photos/1.png"])) == ""


def test_a_folder_of_other_files(folder: Path) -> None:
    (folder / "phone").mkdir()
    (folder / "phone/1.heic").touch()
    with pytest.raises(UserError) as raised:
        find_sources(["phone"])
    assert str(raised.value) == "there is no picture in phone, only 1 file of a kind that is not read (.heic)"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("named", ["photos", "photos/deep", "photos/*.png", "photos/1.png"])
def test_the_folder_that_is_written_to_is_no_source(named: str) -> None:
    with pytest.raises(UserError) as raised:
        find_sources([named], exclude=Path("photos"))
    assert str(raised.value) == f"all pictures of {named} lie in photos, which is written to; use another -o"
