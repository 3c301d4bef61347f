from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upscaler.errors import UserError
from upscaler.images.files import Metadata, Picture, write_picture
from upscaler.images.partners import find_cases, read_opaque


def write(path: Path, height: int = 32, width: int = 40, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    write_picture(path, Picture(pixels, Metadata(None, None, None, None)))
    return path


def test_partners_are_found_by_their_stems(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "hr" / name)
        write(tmp_path / "lr" / name, 8, 10)
        write(tmp_path / "sr" / Path(name).with_suffix(".webp"))
    found = find_cases(
        tmp_path / "hr",
        scale=4,
        border=4,
        lr=tmp_path / "lr",
        results={"mine": tmp_path / "sr", "again": tmp_path / "hr"},
    )
    assert [case.reference.name for case in found.cases] == ["a.png", "b.png"]
    first = found.cases[0]
    assert (first.height, first.width, first.lr) == (32, 40, tmp_path / "lr/a.png")
    assert first.results == {"mine": tmp_path / "sr/a.webp", "again": tmp_path / "hr/a.png"}
    assert (found.failures, found.unused) == ([], [])


@pytest.mark.parametrize(
    ("reference", "partner"),
    [
        ("img", "imgx4"),
        ("img", "img_x4"),
        ("0801", "0801x4"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),
        ("img_HR", "img"),
        ("img_GT", "img_x4_SR"),
        ("img", "img_out"),
        ("img", "img-upscaled"),
        ("matrix4", "matrix4"),
    ],
)
def test_common_endings_make_no_difference(tmp_path: Path, reference: str, partner: str) -> None:
    write(tmp_path / "hr" / f"{reference}.png")
    path = write(tmp_path / "lr" / f"{partner}.png", 8, 10)
    write(tmp_path / "lr" / "other_x4.png", 8, 10)
    found = find_cases(tmp_path / "hr", scale=4, border=4, lr=tmp_path / "lr")
    assert [case.lr for case in found.cases] == [path]
    assert found.unused == [tmp_path / "lr/other_x4.png"]


def test_the_ending_of_another_scale_is_another_picture(tmp_path: Path) -> None:
    write(tmp_path / "hr/a.png")
    write(tmp_path / "lr/a_x2.png", 16, 20)
    write(tmp_path / "lr/a_x4.png", 8, 10)
    assert find_cases(tmp_path / "hr", scale=2, border=2, lr=tmp_path / "lr").cases[0].lr == tmp_path / "lr/a_x2.png"


def test_the_same_name_comes_before_one_with_endings(tmp_path: Path) -> None:
    write(tmp_path / "hr/a.png")
    write(tmp_path / "lr/a.png", 8, 10)
    write(tmp_path / "lr/a_LR.png", 8, 10)
    assert find_cases(tmp_path / "hr", scale=4, border=4, lr=tmp_path / "lr").cases[0].lr == tmp_path / "lr/a.png"


def test_a_picture_that_could_belong_to_two_references_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a_HR.png", "b.png", "b.jpg", "c.png"):
        write(tmp_path / "hr" / name)
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / "lr" / name, 8, 10)
    found = find_cases(tmp_path / "hr", scale=4, border=4, lr=tmp_path / "lr")
    assert [case.reference.name for case in found.cases] == ["c.png"]
    assert {failure.reference.name: failure.message for failure in found.failures} == {
        name: f"{tmp_path}/lr/{partner}.png could belong to {name} or {other} by name; rename one of them"
        for partner, name, other in (
            ("a", "a.png", "a_HR.png"), ("a", "a_HR.png", "a.png"), ("b", "b.png", "b.jpg"), ("b", "b.jpg", "b.png"),
        )
    }  # fmt: skip
    assert found.unused == []


def test_an_alpha_channel_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    opaque = np.concatenate([colours, np.full((32, 40, 1), 255, np.uint8)], axis=2)
    (tmp_path / "hr").mkdir()
    write_picture(tmp_path / "hr/a.png", Picture(opaque, Metadata()))
    found = find_cases(tmp_path / "hr", scale=4, border=4, results={"same": tmp_path / "hr"})
    assert found.failures == []
    np.testing.assert_array_equal(read_opaque(found.cases[0].reference), colours)


def test_every_bad_partner_is_named_and_the_others_stay(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write(tmp_path / f"hr/{name}.png", 33, 42)
    write(tmp_path / "hr/tiny.png", 18, 40)
    write(tmp_path / "hr/glass.png", channels=4)
    (tmp_path / "hr/broken.png").write_text("no picture")
    write(tmp_path / "lr/a.png", 8, 10)
    write(tmp_path / "lr/b.png", 9, 11)
    write(tmp_path / "lr/d_LR.png", 8, 10)
    write(tmp_path / "lr/d_x4.png", 8, 10)
    for name in ("e", "f", "g"):
        write(tmp_path / f"lr/{name}.png", 8, 10)
    (tmp_path / "lr/h.png").write_text("no picture")
    write(tmp_path / "sr/a.png", 33, 42)
    write(tmp_path / "sr/e.png", 32, 40)
    write(tmp_path / "sr/f.png", 33, 40)
    write(tmp_path / "sr/g.png", 32, 40, channels=2)
    for name in ("b", "c", "d", "h"):
        write(tmp_path / f"sr/{name}.png", 32, 40)
    found = find_cases(tmp_path / "hr", scale=4, border=4, lr=tmp_path / "lr", results={"mine": tmp_path / "sr"})
    assert [case.reference.name for case in found.cases] == ["a.png", "e.png"]
    messages = {failure.reference.stem: failure.message for failure in found.failures}
    assert set(messages) == {"b", "c", "d", "f", "g", "h", "tiny", "glass", "broken"}
    assert messages["b"] == f"{tmp_path}/lr/b.png is 11 x 9 where b.png asks for 10 x 8"
    assert messages["c"] == f"c.png has no partner in {tmp_path}/lr"
    assert messages["d"] == f"d.png could belong to {tmp_path}/lr/d_LR.png or {tmp_path}/lr/d_x4.png"
    assert messages["f"] == f"{tmp_path}/sr/f.png is 40 x 33 where f.png asks for 40 x 32 or 42 x 33"
    assert "g.png has transparency" in messages["g"]
    assert "lr/h.png" in messages["h"]
    assert "40 x 18 pixels are too few for x4 with a border of 4" in messages["tiny"]
    assert "glass.png has transparency" in messages["glass"]
    assert "broken.png" in messages["broken"]


def test_hidden_files_and_other_files_are_no_references(tmp_path: Path) -> None:
    write(tmp_path / "hr/a.png")
    write(tmp_path / "hr/.b.png")
    (tmp_path / "hr/notes.txt").write_text("text")
    (tmp_path / "hr/folder.png").mkdir()
    assert len(find_cases(tmp_path / "hr", scale=4, border=4).cases) == 1


def test_a_wrong_folder_is_one_line(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr/a.png").parent
    other = write(tmp_path / "other/b.png").parent
    (tmp_path / "empty").mkdir()
    for references, lr, message in (
        (hr, other, f"no picture in {other} is named like one in {hr}"),
        (hr, tmp_path / "none", f"{tmp_path}/none is not there; give a folder of pictures"),
        (tmp_path / "empty", None, f"there is no picture in the folder {tmp_path}/empty"),
        (hr / "a.png", None, f"{hr}/a.png is a file; give a folder of pictures"),
    ):
        with pytest.raises(UserError) as raised:
            find_cases(references, scale=4, border=4, lr=lr)
        assert str(raised.value) == message
