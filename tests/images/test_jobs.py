from __future__ import annotations

import os
from pathlib import Path

import pytest

from upscaler.errors import UserError
from upscaler.images.jobs import Job, plan_jobs

SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".gif": "gif", ".webp": "webp"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.JPG", "notes.txt", ".hidden.png", "in/c.png", "in/deep/d.tif", "in/.git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def pairs(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(str(job.input), str(job.output)) for job in jobs]


@pytest.mark.parametrize(
    ("output", "format_", "expected"),
    [
        (None, None, "a-upscaled.png"),
        (None, "webp", "a-upscaled.webp"),
        ("x.jpg", None, "x.jpg"),
        ("x", "jpeg", "x"),
        ("in", None, "in/a.png"),
        ("new/", None, "new/a.png"),
        ("in", "jpeg", "in/a.jpg"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_one_picture(output: str | None, format_: str | None, expected: str) -> None:
    assert pairs(plan_jobs(["a.png"], output, SUFFIXES, format=format_)) == [("a.png", expected)]


@pytest.mark.usefixtures("folder")
def test_a_folder() -> None:
    assert pairs(plan_jobs(["."], "out", SUFFIXES)) == [("a.png", "out/a.png"), ("b.JPG", "out/b.JPG")]
    assert pairs(plan_jobs(["in"], None, SUFFIXES)) == [("in/c.png", "upscaled/c.png")]


@pytest.mark.usefixtures("folder")
def test_a_tree_keeps_its_shape_and_hidden_folders_stay_hidden() -> None:
    assert pairs(plan_jobs(["in"], "out", SUFFIXES, recursive=True)) == [
        ("in/c.png", "out/c.png"),
        ("in/deep/d.tif", "out/deep/d.tif"),
    ]


def test_earlier_results_are_no_input(folder: Path) -> None:
    (folder / "in/out").mkdir()
    (folder / "in/out/c.png").touch()
    jobs = plan_jobs(["in"], "in/out", SUFFIXES, recursive=True)
    assert [str(job.input) for job in jobs] == ["in/c.png", "in/deep/d.tif"]


def test_results_beside_their_pictures_are_no_input(folder: Path) -> None:
    for name in ("c-upscaled.jpg", "other-upscaled.png", "-upscaled.png"):
        (folder / "in" / name).touch()
    expected = ["in/-upscaled.png", "in/c.png", "in/other-upscaled.png"]
    for inputs in (["in"], ["in/*.*"]):
        assert [str(job.input) for job in plan_jobs(inputs, "out", SUFFIXES)] == expected
    assert [str(job.input) for job in plan_jobs(["in/c-upscaled.jpg"], "out/", SUFFIXES)] == ["in/c-upscaled.jpg"]


@pytest.mark.usefixtures("folder")
def test_a_name_and_a_format_that_contradict_are_refused() -> None:
    with pytest.raises(UserError, match=r"the output b\.png has the name of another format than --format jpeg"):
        plan_jobs(["a.png"], "b.png", SUFFIXES, format="jpeg")
    assert pairs(plan_jobs(["a.png"], "b.jpeg", SUFFIXES, format="jpeg")) == [("a.png", "b.jpeg")]
    assert pairs(plan_jobs(["a.png"], "b.xyz", SUFFIXES, format="jpeg")) == [("a.png", "b.xyz")]


def test_an_output_above_the_input_is_no_earlier_result(folder: Path) -> None:
    assert pairs(plan_jobs(["in"], ".", SUFFIXES)) == [("in/c.png", "c.png")]
    assert pairs(plan_jobs(["*.png"], ".", SUFFIXES)) == [("a.png", "a.png")]
    (folder / "upscaled").mkdir()
    (folder / "upscaled/a.png").touch()
    assert ["upscaled/a.png" in pair for pair in pairs(plan_jobs(["**/*.png"], None, SUFFIXES))] == [True, False]


def test_two_names_of_one_file_are_two_pictures(folder: Path) -> None:
    (folder / "z.png").symlink_to(folder / "a.png")
    assert pairs(plan_jobs(["a.png", "z.png"], "out", SUFFIXES)) == [("a.png", "out/a.png"), ("z.png", "out/z.png")]


def test_a_folder_that_cannot_be_read_is_not_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="in/deep"):
        plan_jobs([str(folder / "in")], "out", SUFFIXES, recursive=True)


@pytest.mark.usefixtures("folder")
def test_globs_and_lists() -> None:
    assert pairs(plan_jobs(["in/**/*.*"], "out", SUFFIXES)) == [
        ("in/c.png", "out/c.png"),
        ("in/deep/d.tif", "out/d.tif"),
    ]
    assert pairs(plan_jobs(["b.JPG", "a.png", "./a.png"], "out", SUFFIXES)) == [
        ("a.png", "out/a.png"),
        ("b.JPG", "out/b.JPG"),
    ]


@pytest.mark.usefixtures("folder")
def test_folders_that_match_are_searched_where_it_is_recursive() -> None:
    assert pairs(plan_jobs(["*"], "out", SUFFIXES)) == [("a.png", "out/a.png"), ("b.JPG", "out/b.JPG")]
    assert pairs(plan_jobs(["*"], "out", SUFFIXES, recursive=True)) == [
        ("a.png", "out/a.png"),
        ("b.JPG", "out/b.JPG"),
        ("in/c.png", "out/in/c.png"),
        ("in/deep/d.tif", "out/in/deep/d.tif"),
    ]
    found = pairs(plan_jobs(["in/**"], "out", SUFFIXES, recursive=True))
    assert found == [("in/c.png", "out/c.png"), ("in/deep/d.tif", "out/d.tif")]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(folder: Path) -> None:
    (folder / "x[1].png").touch()
    assert pairs(plan_jobs(["x[1].png"], None, SUFFIXES)) == [("x[1].png", "x[1]-upscaled.png")]


def test_gif_becomes_png(folder: Path) -> None:
    (folder / "g.gif").touch()
    assert pairs(plan_jobs(["g.gif"], None, SUFFIXES)) == [("g.gif", "g-upscaled.png")]
    assert pairs(plan_jobs(["g.gif"], "out.gif", SUFFIXES)) == [("g.gif", "out.gif")]


@pytest.mark.parametrize(
    ("inputs", "output", "format_", "message"),
    [
        (["none.png"], None, None, "none.png does not exist"),
        (["*.bmp"], None, None, r"nothing matches \*\.bmp"),
        (["*.txt"], None, None, r"no picture matches \*\.txt"),
        (["a.png", "*.txt"], None, None, r"no picture matches \*\.txt"),
        (["in/.git"], None, None, None),
        (["in/deep"], None, None, None),
        (["a.png"], "result", None, "result has no extension.*--format"),
        (["a.png"], "result.xyz", None, r"extension \.xyz"),
        (["a.png", "b.JPG"], "a.png", None, "a.png names a file"),
        (["a.png", "b.JPG"], "notes.txt", None, "notes.txt is a file"),
        (["a.png", "b.JPG"], "new.png", None, "new.png names a file"),
        (["/dev/null"], None, None, "/dev/null is no file"),
        (["a.png"], None, "xcf", "format 'xcf' is unknown"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be(inputs: list[str], output: str | None, format_: str | None, message: str | None) -> None:
    if message is None:
        assert plan_jobs(inputs, output, SUFFIXES, format=format_)
        return
    with pytest.raises(UserError, match=message):
        plan_jobs(inputs, output, SUFFIXES, format=format_)


def test_an_empty_folder(folder: Path) -> None:
    (folder / "empty/below").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no picture in the folder empty; --recursive"):
        plan_jobs(["empty"], None, SUFFIXES)
    with pytest.raises(UserError, match=r"no picture in the folder empty$"):
        plan_jobs(["empty"], None, SUFFIXES, recursive=True)


def test_collisions_are_named_before_work(folder: Path) -> None:
    (folder / "a.jpg").touch()
    with pytest.raises(UserError, match=r"several pictures would become one file: a\.jpg and a\.png -> out/a\.webp"):
        plan_jobs(["a.png", "a.jpg"], "out", SUFFIXES, format="webp")


def test_a_result_may_not_replace_another_input(folder: Path) -> None:
    (folder / "out/deep").mkdir(parents=True)
    (folder / "out/deep/d.tif").touch()
    with pytest.raises(UserError, match=r"result of in/deep/d\.tif would replace out/deep/d\.tif, another input"):
        plan_jobs(["in", "out/deep/d.tif"], "out", SUFFIXES, recursive=True)
