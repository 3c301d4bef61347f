from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.cli import album
from upscaler.errors import UserError
from upscaler.images import animations
from upscaler.images.files import Metadata, Picture, open_picture, read_provenance, write_picture
from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.upscaler import Upscaler
from upscaler.model.weights import save_weights

TABLES = ["steps.csv", "steps.json", "steps.md"]


def write(path: str, height: int = 90, width: int = 110, seed: int = 0) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, Picture(pixels, Metadata()))
    return pixels


def read(path: str | Path) -> Any:
    return open_picture(path).read().pixels


def files(folder: str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def repeater(path: str, scale: int) -> str:
    """Weights of a network that repeats pixels."""
    network = Compact(features=2, convolutions=0, scale=scale)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    save_weights(Path(path), network.architecture, network.settings(), network.state_dict())
    return path


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(animations, "which", lambda _: None)
    monkeypatch.setattr(album, "_FRAME", 48)
    monkeypatch.setattr(album, "_DOUBLING", 2)


def test_as_typed(srup: Any) -> None:
    """With the picture and the network that come with srup."""
    outcome = srup("zoom", "--steps", 2, "--size", 64)
    assert outcome.code == 0
    methods = [f"{method}/step-{number:02}.png" for method in ("bicubic", "photo") for number in (1, 2)]
    assert files() == [f"sample-zoom/{name}" for name in [*methods, "sheet.png", "step-00.png", *TABLES, "zoom.webp"]]
    assert read("sample-zoom/photo/step-02.png").shape == (64, 64, 3)
    assert outcome.err.startswith("sample.png at ")
    assert "16 x 16 pixels to 64 x 64, 2 times" in outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    rows = [line.split() for line in outcome.out.splitlines()]
    assert [row[:3] for row in rows if row and row[0] in ("bicubic", "photo")] == [
        *(["bicubic", "1", "x4"], ["bicubic", "2", "x16"], ["photo", "1", "x4"], ["photo", "2", "x16"])
    ]
    assert rows[-1] == ["moving:", "sample-zoom/zoom.webp"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_no_text(srup: Any, nearest: Path) -> None:
    write(os.fsdecode(b"caf\xe9.png"))
    arguments = ("--steps", 1, "--size", 64, "-m", nearest, "-o", "z")
    assert srup("zoom", os.fsdecode(b"caf\xe9.png"), *arguments).code == 0
    assert "caf\\udce9.png" in Path("z/steps.md").read_text()


def test_the_steps_show_the_place_that_was_asked_for(srup: Any, nearest: Path) -> None:
    pixels = write("a.png")
    assert srup("zoom", "a.png", "--at", "37,52", "--steps", 10, "--size", 64, "-m", nearest).code == 0
    last = read("a-zoom/nearest/step-10.png")
    assert (last == pixels[52, 37]).all()
    first = read("a-zoom/step-00.png")
    assert (first == pixels[20:84, 6:70]).all()
    assert (read("a-zoom/nearest/step-01.png")[::4, ::4] == first[24:40, 24:40]).all()


def test_every_table_says_the_same(srup: Any, nearest: Path) -> None:
    write("a.png")
    outcome = srup("zoom", "a.png", "--steps", 2, "--size", 64, "-m", f"own|one={nearest}", "-o", "out/here", "--json")
    assert outcome.code == 0
    events = [json.loads(line, parse_constant=pytest.fail) for line in outcome.out.splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert [(event["method"], event["step"]) for event in steps] == [
        *(("bicubic", 1), ("bicubic", 2), ("own|one", 1), ("own|one", 2))
    ]
    assert events[-1]["event"] == "finished"
    assert "own|one" in outcome.err

    content = json.loads(Path("out/here/steps.json").read_text())
    assert (content["picture"], content["factor"], content["edge"]) == ("a.png", 4, 64)
    assert content["models"] == {"own|one": str(nearest)}
    first, *others = content["rows"]
    assert others == [{key: value for key, value in event.items() if key != "event"} for event in steps]
    assert first["method"] == "first crop"
    assert first["agreement"] is None
    assert others[0]["agreement_bicubic"] is None
    assert others[2]["agreement"] > 10

    rows = list(csv.DictReader(Path("out/here/steps.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["first crop", "bicubic", "bicubic", "own|one", "own|one"]
    assert (rows[0]["shift_r"], rows[1]["agreement_bicubic"]) == ("", "inf")
    assert float(rows[3]["sharpness"]) == pytest.approx(others[2]["sharpness"], rel=1e-4)

    markdown = Path("out/here/steps.md").read_text()
    assert markdown.startswith("a.png at ")
    assert "| own\\|one | 2 | x16 |" in markdown
    assert "PSNR in dB against that crop's bicubic enlargement" in markdown
    assert Path("out/here/own-one/step-01.png").exists()


def test_models_side_by_side(srup: Any, nearest: Path) -> None:
    """The steps are as large as the largest scale makes them; a smaller model goes twice."""
    write("a.png")
    two = repeater("two.pth.safetensors", 2)
    outcome = srup("zoom", "a.png", "--steps", 1, "--size", 64, "-m", nearest, "-m", f"two={two}", "--at", "50,50")
    assert outcome.code == 0
    assert (read("a-zoom/nearest/step-01.png") == read("a-zoom/two/step-01.png")).all()
    sheet = read("a-zoom/sheet.png")
    assert sheet.shape[0] > 3 * 64
    assert sheet.shape[1] >= 2 * 64
    assert srup("zoom", "a.png", "--steps", 1, "--size", 64, "-m", two, "-o", "alone").code == 0
    assert json.loads(Path("alone/steps.json").read_text())["factor"] == 2


def test_an_alpha_is_that_of_upscale(srup: Any) -> None:
    write("a.png")
    models = [part for alpha in ("0.5", "1") for part in ("-m", f"photo@{alpha}")]
    outcome = srup("zoom", "a.png", "--steps", 1, "--size", 64, *models, "--at", "50,50")
    assert outcome.code == 0
    crop = read("a-zoom/step-00.png")[24:40, 24:40]
    write_picture("crop.png", Picture(crop, Metadata()))
    assert srup("upscale", "crop.png", "-o", "large.png", "--alpha", "0.5").code == 0
    difference = read("large.png").astype(int) - read("a-zoom/photo@0.5/step-01.png")
    assert np.abs(difference).max() <= 1
    assert srup("zoom", "-m", "photo@half").code == 2


def test_feature_maps(srup: Any) -> None:
    write("a.png")
    assert srup("zoom", "a.png", "--steps", 1, "--size", 64, "--activations").code == 0
    sheet = read("a-zoom/photo/activations.png")
    assert sheet.shape[1] >= 8 * 128
    assert sheet.shape[0] >= 7 * 128


def test_feature_maps_that_need_too_much_memory(srup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def features(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    write("a.png")
    monkeypatch.setattr(Residual, "features", features)
    outcome = srup("zoom", "a.png", "--steps", 1, "--size", 64, "--activations")
    assert outcome.code == 1
    assert "the feature maps of 16 x 16 pixels need more memory than there is" in outcome.err
    assert files() == ["a.png"]


def test_many_steps_are_broken_into_rows(srup: Any, nearest: Path) -> None:
    write("a.png")
    assert srup("zoom", "a.png", "--steps", 7, "--size", 64, "-m", nearest).code == 0
    height, width = read("a-zoom/sheet.png").shape[:2]
    assert height > 4 * 64
    assert width < 8 * 130


def test_nothing_is_replaced_unasked(srup: Any, nearest: Path) -> None:
    write("a.png")
    write("b.png", seed=1)
    arguments = ("--steps", 1, "--size", 64, "-m", nearest, "-o", "out")
    assert srup("zoom", "a.png", *arguments).code == 0
    before = {name: Path("out", name).read_bytes() for name in files("out")}
    outcome = srup("zoom", "b.png", *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: out is not empty; use --overwrite or another folder with -o\n"
    assert {name: Path("out", name).read_bytes() for name in files("out")} == before
    Path("out/mine.txt").write_text("kept")
    assert srup("zoom", "b.png", *arguments, "--overwrite").code == 0
    assert Path("out/mine.txt").read_text() == "kept"
    assert Path("out/step-00.png").read_bytes() != before["step-00.png"]
    assert files("out") == sorted([*before, "mine.txt"])


def test_a_zoom_that_is_overwritten_leaves_nothing(srup: Any, nearest: Path) -> None:
    write("a.png")
    longer = ("-m", f"one={nearest}", "-m", f"two={nearest}", "--steps", 2, "--activations", "--animation", "gif")
    assert srup("zoom", "a.png", "--size", 64, "-o", "out", *longer).code == 0
    mine = ["mine.txt", "one-of-mine/step-01.png", "one/step-01.jpg", "step-09.png", "two/step-07.png", "zoom.blend"]
    for name in mine:
        Path("out", name).parent.mkdir(exist_ok=True)
        Path("out", name).write_text("kept")
    shorter = ("zoom", "a.png", "--size", 64, "-m", f"new={nearest}", "--steps", 1, "--animation", "webp")
    assert srup(*shorter, "-o", "fresh").code == 0
    assert srup(*shorter, "-o", "out", "--overwrite").code == 0
    assert files("out") == sorted([*files("fresh"), *mine])
    for name in mine:
        Path("out", name).unlink()


def test_a_folder_of_something_else_is_refused(srup: Any, nearest: Path) -> None:
    write("a.png")
    write("mine/step-00.png")
    before = Path("mine/step-00.png").read_bytes()
    outcome = srup("zoom", "a.png", "-m", nearest, "-o", "mine", "--overwrite")
    assert outcome.code == 1
    assert "mine holds files but no zoom; use another -o" in outcome.err
    assert Path("mine/step-00.png").read_bytes() == before


def test_a_picture_among_the_results_is_refused(srup: Any, nearest: Path) -> None:
    write("out/step-00.png")
    before = Path("out/step-00.png").read_bytes()
    outcome = srup("zoom", "out/step-00.png", "-o", "out", "--overwrite", "-m", nearest)
    assert outcome.code == 1
    assert "out/step-00.png lies in out, where the results would go" in outcome.err
    assert Path("out/step-00.png").read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("memory ran out")])
def test_nothing_is_left_of_a_zoom_that_breaks_off(
    srup: Any, nearest: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    write("a.png")
    whole = Upscaler.upscale
    calls = []

    def upscale(self: Upscaler, *arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return whole(self, *arguments, **named)

    monkeypatch.setattr(Upscaler, "upscale", upscale)
    outcome = srup("zoom", "a.png", "--steps", 3, "--size", 64, "-m", nearest)
    assert outcome.code == (130 if error is KeyboardInterrupt else 1)
    assert files() == ["a.png"]
    assert srup("zoom", "a.png", "--steps", 3, "--size", 64, "-m", nearest).code == 0


def test_forms_of_animations(srup: Any, nearest: Path) -> None:
    write("a.png")
    arguments = ("zoom", "a.png", "--steps", 1, "--size", 64, "-m", nearest)
    outcome = srup(*arguments, "--animation", "gif", "--animation", "webp", "--animation", "gif")
    assert outcome.code == 0
    assert outcome.out.count("zoom.gif") == 1
    assert {"zoom.gif", "zoom.webp"} < set(files("a-zoom"))
    outcome = srup(*arguments, "--animation", "mp4", "-o", "film")
    assert outcome.code == 1
    assert outcome.err == (
        "error: cannot write film/zoom.mp4: ffmpeg, which makes MP4, is not installed; write .webp or .gif\n"
    )


def test_a_colour_profile_goes_along(srup: Any, nearest: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 65536, (70, 70, 4), np.uint16)
    write_picture("a.png", Picture(pixels, Metadata(icc=profile)))
    assert srup("zoom", "a.png", "--steps", 1, "--size", 64, "-m", nearest).code == 0
    step = open_picture("a-zoom/nearest/step-01.png")
    assert step.metadata.icc == profile
    assert (step.channels, step.depth) == (3, 8)


def test_a_step_says_how_it_was_made(srup: Any, nearest: Path) -> None:
    write("a.png")
    assert srup("zoom", "a.png", "--at", "50,40", "--steps", 1, "--size", 64, "-m", nearest).code == 0
    made = read_provenance("a-zoom/nearest/step-01.png")
    assert made is not None
    assert made["model"] == str(nearest)
    assert (made["zoom_at"], made["zoom_step"]) == ("50,40", 1)
    assert len(made["model_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("none.png",), 1, "none.png"),
        (("a.png", "--steps", "0"), 2, "--steps"),
        (("a.png", "--at", "5"), 2, "'5' is no place; write it as X,Y in pixels"),
        (("a.png", "--at", "110,5"), 1, "there is nothing at 110,5: the picture has 110 x 90 pixels"),
        (("a.png", "-m", "photo", "-m", "photo"), 2, "'photo' would name two rows"),
        (("a.png", "-m", "bicubic=photo"), 2, "'bicubic' would name two rows"),
        (("a.png", "-m", "a?=photo", "-m", "a*=photo"), 2, "give them labels"),
        (("a.png", "-m", "ultrasharp@0.5"), 1, "no known PSNR-oriented pair"),
        (("a.png", "-m", "nothing"), 1, "there is no model called nothing"),
        (("a.png", "-m", "one.safetensors"), 1, "a model of scale 1 does not enlarge"),
        (("a.png", "-m", "none.pth", "--at", "110,5"), 1, "there is nothing at 110,5"),
        (("tiny.png",), 1, "15 x 40 pixels are too few to zoom into"),
        (("a.png", "-o", "a.png"), 1, "a.png is not a folder"),
    ],
)
def test_wrong_asked(srup: Any, arguments: tuple[str, ...], code: int, message: str) -> None:
    write("a.png")
    write("tiny.png", 40, 15)
    repeater("one.safetensors", 1)
    outcome = srup("zoom", *arguments)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (code, "", 1)
    assert message in outcome.err
    assert files() == ["a.png", "one.safetensors", "tiny.png"]
