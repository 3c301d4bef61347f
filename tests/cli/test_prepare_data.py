from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.resize import resize
from upscaler.training.shards import PreparedSet


def picture(path: Path, pixels: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, Picture(np.ascontiguousarray(pixels), Metadata()))
    return pixels


def noise(seed: int, height: int = 96, width: int = 128) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        picture(Path(f"photos/{seed}.png"), noise(seed))
    return tmp_path


def test_a_set_of_whole_pictures(srup: Any) -> None:
    outcome = srup("prepare-data", "photos", "-o", "set")
    assert (outcome.code, outcome.err) == (0, "")
    assert "the training set is set; look at set/samples.png" in outcome.out
    pictures = PreparedSet(Path("set")).pictures()
    assert np.array_equal(pictures.hr(1), noise(1))
    assert pictures.scale is None


def test_it_goes_where_training_looks(srup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "home")
    assert srup("prepare-data", "photos").code == 0
    assert srup("prepare-data", "photos/0.png", "--name", "one").code == 0
    assert len(PreparedSet(tmp_path / "home/data/train").pictures()) == 3
    assert len(PreparedSet(tmp_path / "home/data/one").pictures()) == 1


def test_everything_at_once(srup: Any) -> None:
    picture(Path("photos/deep/flat.png"), np.zeros((64, 64, 3), np.uint8))
    picture(Path("photos/copy.jpg"), noise(1))
    picture(Path("tests/x.png"), noise(2)[::-1])
    outcome = srup(
        "prepare-data", "photos", "photos/*.png", "-o", "set", "--crop", "32", "--step", "24", "--least", "8",
        "--flat", "3", "--blurred", "9", "--benchmark", "tests", "--validation", "50%", "--degradation", "bicubic",
        "--scale", "4", "--seed", "3", "--shard-size", "20KB", "--first-frame",
    )  # fmt: skip
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "dropped 2.png: it shares something with the benchmark picture x.png",
        "dropped copy.jpg: it shows the same as 1.png",
        "dropped deep/flat.png: all of it is flat",
    ]
    prepared = PreparedSet(Path("set"))
    assert (len(prepared.pictures()), len(prepared.pictures("validation"))) == (20, 20)
    assert prepared.pictures().scale == 4
    assert len(prepared.shards) > 4
    for line in ("train ", "validation ", "dropped: benchmark", "dropped: duplicate", "dropped: flat"):
        assert line in outcome.out


def test_the_same_again_does_nothing(srup: Any) -> None:
    srup("prepare-data", "photos", "-o", "set")
    outcome = srup("prepare-data", "photos", "-o", "set")
    assert outcome.code == 0
    assert "set holds this very set already; nothing was done" in outcome.out
    outcome = srup("prepare-data", "photos", "-o", "set", "--crop", "64")
    assert (outcome.code, outcome.err) == (
        1,
        "error: set holds a set made otherwise (crop: none then, 64 now); use --overwrite or another -o\n",
    )
    assert srup("prepare-data", "photos", "-o", "set", "--crop", "64", "--overwrite").code == 0


def test_a_file_that_cannot_be_read(srup: Any) -> None:
    Path("photos/broken.png").write_text("no picture")
    for _ in range(2):
        outcome = srup("prepare-data", "photos", "-o", "set")
        assert outcome.code == 1
        assert outcome.err.startswith("error: broken.png: it is not a PNG")
        assert "dropped: unreadable" in outcome.out
    assert len(PreparedSet(Path("set")).pictures()) == 3


def test_lr_pictures_without_hr_are_named(srup: Any) -> None:
    for seed in range(3):
        picture(Path(f"low/{seed}x2.png"), resize(noise(seed), 48, 64))
    picture(Path("low/orphan.png"), noise(9))
    outcome = srup("prepare-data", "photos", "-o", "set", "--lr", "low", "--scale", "2")
    assert outcome.code == 0
    assert outcome.err == "warning: LR pictures that belong to no HR picture and are left out: 1, as orphan.png\n"


def test_given_pairs(srup: Any) -> None:
    for seed in range(3):
        picture(Path(f"photos/low/{seed}x2.png"), resize(noise(seed), 48, 64))
    outcome = srup("prepare-data", "photos", "-o", "set", "--lr", "photos/low", "--scale", "2")
    assert (outcome.code, outcome.err) == (0, "")
    pictures = PreparedSet(Path("set")).pictures()
    assert np.array_equal(pictures.lr(2), resize(noise(2), 48, 64))
    picture(Path("photos/low/1x2.png"), resize(noise(1), 24, 32))
    outcome = srup("prepare-data", "photos", "-o", "other", "--lr", "photos/low", "--scale", "2")
    assert outcome.code == 1
    assert outcome.err == (
        "error: 1.png: HR of 128 x 96 is not 2 times LR of 32 x 24; give the right --scale, or the right picture\n"
    )


def test_what_is_not_taken_of_the_folders_is_told(srup: Any) -> None:
    Path("photos/a.heic").touch()
    Path("photos/more").symlink_to(Path("../elsewhere"))
    picture(Path("elsewhere/1.png"), noise(9))
    for _ in range(2):
        outcome = srup("prepare-data", "photos", "-o", "photos/set")
        assert (outcome.code, outcome.err) == (
            0,
            "left out: a linked folder, as photos/more (name it to include it) "
            "and 1 file of a kind that is not read (.heic)\n",
        )
    outcome = srup("prepare-data", "photos", "-o", "photos/set", "--json")
    assert json.loads(outcome.out.splitlines()[0]) == {
        "event": "left_out", "linked_folders": ["photos/more"], "other_files": {".heic": 1},
    }  # fmt: skip


def test_pictures_smaller_than_a_crop_are_counted(srup: Any) -> None:
    picture(Path("photos/small.png"), noise(9, 60, 90))
    outcome = srup("prepare-data", "photos", "-o", "set", "--crop", "64")
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "dropped as smaller than a crop of 64: 1 picture; a smaller --crop keeps more",
    ]
    assert "dropped: smaller than a crop of 64" in outcome.out


def test_all_pictures_smaller_than_a_crop(srup: Any) -> None:
    outcome = srup("prepare-data", "photos", "-o", "deep/set", "--crop", "480", "--json")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "dropped as smaller than a crop of 480: 3 pictures; a smaller --crop keeps more",
        "error: none of 3 pictures can be used for training, for the reasons above",
    ]
    assert [json.loads(line).get("reason") for line in outcome.out.splitlines()] == ["small"] * 3 + [None]
    assert not Path("deep").exists()


def test_json_alone_is_on_stdout(srup: Any) -> None:
    picture(Path("photos/flat.png"), np.zeros((64, 64, 3), np.uint8))
    outcome = srup("prepare-data", "photos", "-o", "set", "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [event["event"] for event in events] == ["dropped", "summary"]
    assert events[0] == {
        "event": "dropped", "source": "flat.png", "reason": "flat", "because": "all of it is flat",
    }  # fmt: skip
    assert (events[1]["folder"], events[1]["unchanged"], events[1]["sources"]) == ("set", False, 4)
    assert events[1]["train"]["pictures"] == 3
    assert "the training set is set" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "SRC"),
        (("photos", "--lr", "low", "--degradation", "blur"), "not both"),
        (("photos", "--step", "9"), "need --crop"),
        (("photos", "--least", "9"), "need --crop"),
        (("photos", "--crop", "33", "--degradation", "blur"), "multiples of the scale, 4"),
        (("photos", "--crop", "32", "--step", "30", "--lr", "low"), "multiples of the scale, 4"),
        (("photos", "--crop", "8"), "--crop"),
        (("photos", "--preview", "x.png"), "takes no SRC"),
        (("--preview", "x.png", "--degradation", "blur"), "--preview takes no --degradation"),
        (("--preview", "x.png", "--crop", "64"), "--preview takes no --crop"),
        (("photos", "--name", "x"), "--name is for a set in the user's data folder"),
        (("photos", "--seed", str(2**32)), "--seed"),
        (("photos", "--scale", "4"), "--scale needs --lr or --degradation"),
        (("photos", "--validation", "many"), "'many' is no validation split"),
        (("photos", "--sizes", "1,2"), "'1,2' are no sizes"),
        (("photos", "--sizes", "1,0.5", "--lr", "low"), "--sizes does not go with --lr"),
        (("photos", "--degradation", "bicubik"), "did you mean bicubic"),
        *((("photos", "--name", name), "takes a plain name") for name in ("../x", "a/b", "/x", "..", "", ".")),
    ],
)
def test_wrong_command_lines(srup: Any, arguments: tuple[str, ...], words: str) -> None:
    outcome = srup("prepare-data", "-o", "set", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert re.search(r"[.?] Try 'srup prepare-data --help'\.\n$", outcome.err)
    assert not Path("set").exists()


def test_lr_pictures_are_stored_for_x4_unless_told_otherwise(srup: Any) -> None:
    assert srup("prepare-data", "photos", "-o", "set", "--degradation", "bicubic").code == 0
    assert PreparedSet(Path("set")).manifest["settings"]["storage"]["scale"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("photos", "--validation", "3"), "would leave none of 3"),
        (("photos", "--benchmark", "nowhere"), "nowhere does not exist"),
        (("photos", "-o", "photos"), "all pictures of photos lie in photos, which is written to; use another -o"),
    ],
)
def test_errors_are_one_line(srup: Any, arguments: tuple[str, ...], words: str) -> None:
    outcome = srup("prepare-data", "-o", "set", *arguments)
    assert outcome.code == 1
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_preview_of_the_degradations(srup: Any) -> None:
    picture(Path("small.png"), noise(0, 32, 32))
    outcome = srup("prepare-data", "--preview", "small.png", "-o", "sheet.png", "--scale", "2")
    assert (outcome.code, outcome.out) == (0, "the degradations: sheet.png\n")
    assert open_picture("sheet.png").width >= 4 * 32
    outcome = srup("prepare-data", "--preview", "small.png", "-o", "sheet.png")
    assert (outcome.code, outcome.err) == (1, "error: sheet.png exists; use --overwrite or another name\n")
    assert srup("prepare-data", "--preview", "small.png", "-o", "sheet.png", "--overwrite").code == 0
    outcome = srup("prepare-data", "--preview", "small.png", "-o", "small.png", "--overwrite")
    assert (outcome.code, outcome.err) == (1, "error: small.png is the picture itself; use another -o\n")
    assert srup("prepare-data", "--preview", "small.png").out == "the degradations: small-degradations.png\n"
    outcome = srup("prepare-data", "--preview", "small.png", "--scale", "33", "-o", "none.png")
    assert (outcome.code, Path("none.png").exists()) == (1, False)
    assert "small.png is smaller than one LR pixel" in outcome.err


def test_a_killed_run_goes_on(srup: Any) -> None:
    """SIGKILL, in the middle of the inspection."""
    for seed in range(40):
        picture(Path(f"photos/{seed}.png"), noise(seed, 200, 300))
    program = "from upscaler.cli.main import run; run()"
    command = [sys.executable, "-c", program, "prepare-data", "photos", "-o", "set", "--crop", "64"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = Path("set/.inspected.jsonl")
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 5000):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert srup("prepare-data", "photos", "-o", "set", "--crop", "64").code == 0
    assert srup("prepare-data", "photos", "-o", "whole", "--crop", "64").code == 0
    contents = [{path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("set", "whole")]
    assert contents[0] == contents[1]


def test_help_imports_no_torch() -> None:
    program = (
        "import sys\nfrom upscaler.cli.main import app\n"
        "try: app(['prepare-data', '--help'])\nexcept SystemExit: print('|', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pyvips", "PIL"} & set(done.stdout.partition("|")[2].split())
