from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.cli.labels import labelled
from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.metrics import luma, psnr
from upscaler.images.resize import resize
from upscaler.model.compact import Compact
from upscaler.model.upscaler import Upscaler
from upscaler.model.weights import save_weights


def write(path: str, pixels: Any) -> Any:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, Picture(pixels, Metadata(None, None, None, None)))
    return pixels


def smooth(height: int, width: int, seed: int = 0) -> Any:
    cells = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return resize(cells, height, width)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def references() -> dict[str, Any]:
    write("sr/a.png", smooth(196, 104))
    return {name: write(f"hr/{name}.png", smooth(196, 104, seed)) for seed, name in enumerate("ab")}


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_bicubic_alone(srup: Any, references: dict[str, Any]) -> None:
    outcome = srup("evaluate", "--references", "hr")
    assert (outcome.code, outcome.err) == (0, "")
    title, *headings, _, row = lines(outcome.out)
    assert " ".join(title) == "hr: mean of 2 pictures, x4, border 4"
    assert headings == [
        ["PSNR", "SSIM", "PSNR", "SSIM", "drift"],
        ["method", "Y", "Y", "RGB", "RGB", "NIQE", "drift", "LR", "s", "MB"],
    ]
    made = [psnr(luma(resize(resize(p, 49, 26), 196, 104)), luma(p), 4) for p in references.values()]
    assert row[:2] == ["bicubic", f"{np.mean(made):.2f}"]
    assert row[5] == "-"
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.usefixtures("references")
def test_models_and_pictures_in_one_table(srup: Any, nearest: Path) -> None:
    Path("own.safetensors").write_bytes(nearest.read_bytes())
    outcome = srup("evaluate", "hr", "--pictures", "mine=hr", "--references", "hr", "-m", "own.safetensors", "--each")
    assert outcome.code == 0
    rows = lines(outcome.out)
    assert " ".join(rows[0]) == "hr: 2 pictures, x4, border 4"
    assert rows[2][:3] == ["picture", "method", "Y"]
    assert [row[:2] for row in rows[4:12]] == [
        [picture, method] for picture in ("a.png", "b.png") for method in ("bicubic", "own", "hr", "mine")
    ]
    assert [row[0] for row in rows[12:] if row[0][0].isalpha()] == [
        *("hr:", "PSNR", "method", "bicubic", "own", "hr", "mine")
    ]
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert rows[-1][1:5] == ["∞", "1.0000", "∞", "1.0000"]
    assert rows[-1][6] == "0.00"
    assert rows[-1][-2:] == ["-", "-"]


@pytest.mark.usefixtures("references")
def test_every_form_of_file(srup: Any, nearest: Path) -> None:
    outcome = srup(
        "evaluate", "--references", "hr", "-m", nearest, "--pictures", "a|b=hr",
        "-o", "scores.md", "-o", "scores.csv", "-o", "scores.JSON", "--sheet", "crops.png",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    methods = ["bicubic", "nearest", "a|b"]

    markdown = Path("scores.md").read_text()
    assert markdown.startswith("hr: mean of 2 pictures, x4, border 4\n\n| method | PSNR-Y |")
    assert markdown.count("| a\\|b | ∞ | 1.0000 | ∞ | 1.0000 |") == 3

    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    assert [(row["picture"], row["method"]) for row in rows] == [
        (picture, method) for picture in ("a.png", "b.png", "mean") for method in methods
    ]
    assert rows[2]["psnr_y"] == "inf"
    assert rows[2]["niqe"] == rows[2]["seconds"] == ""
    assert rows[2]["shift_g"] == "0"

    scores = json.loads(Path("scores.JSON").read_text())
    assert (scores["references"], scores["scale"], scores["border"]) == ("hr", 4, 4)
    assert scores["models"] == {"nearest": str(nearest)}
    assert [row["method"] for row in scores["means"]] == methods
    assert len(scores["pictures"]) == 6
    assert scores["means"][2]["psnr_y"] is None
    assert scores["means"][2]["shift"] == [0, 0, 0]
    assert float(rows[6]["psnr_y"]) == pytest.approx(scores["means"][0]["psnr_y"], abs=1e-3)

    sheet = open_picture("crops.png").read().pixels
    assert sheet.shape[0] > 2 * 2 * 104
    assert sheet.shape[1] > 5 * 2 * 104


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_names_that_are_no_text(srup: Any, nearest: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write(f"odd/{name}", smooth(196, 104))
    outcome = srup("evaluate", "--references", "odd", "-m", nearest, "-o", "s.md", "-o", "s.csv", "-o", "s.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert "caf\\udce9.png" in Path("s.md").read_text()
    assert "caf\\udce9.png" in Path("s.csv").read_text()


@pytest.mark.usefixtures("references")
def test_json_alone_is_on_stdout(srup: Any) -> None:
    outcome = srup("evaluate", "hr", "--references", "hr", "--json")
    events = [json.loads(line, parse_constant=pytest.fail) for line in outcome.out.splitlines()]
    assert [(event["event"], event.get("picture"), event["method"]) for event in events] == [
        ("measured", "a.png", "bicubic"),
        ("measured", "a.png", "hr"),
        ("measured", "b.png", "bicubic"),
        ("measured", "b.png", "hr"),
        ("mean", None, "bicubic"),
        ("mean", None, "hr"),
    ]
    assert events[-1]["pictures"] == 2
    assert events[-1]["psnr_y"] is None
    assert events[0]["psnr_y"] > 20
    assert "bicubic" in outcome.err


def test_given_small_pictures(srup: Any, nearest: Path) -> None:
    pixels = write("hr/a.png", smooth(80, 64))
    lr = write("lr/a_x2.png", smooth(40, 32, seed=1))
    outcome = srup("evaluate", "--references", "hr", "--lr", "lr", "-s", 2, "--border", 0, "--json", "-m", nearest)
    assert outcome.code == 0
    bicubic = json.loads(outcome.out.splitlines()[0])
    assert bicubic["psnr_y"] == pytest.approx(psnr(luma(resize(lr, 80, 64)), luma(pixels)), abs=1e-5)


@pytest.mark.usefixtures("references")
def test_what_cannot_be_measured_is_named_and_passed_over(srup: Any) -> None:
    Path("hr/c.png").write_text("no picture")
    for name in "ad":
        write(f"sr/{name}.png", smooth(196, 104))
    outcome = srup("evaluate", "sr", "--references", "hr", "-o", "scores.json")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "warning: pictures that belong to no reference and are left out: 1, as sr/d.png",
        "error: b.png has no partner in sr",
        "error: cannot read hr/c.png: it is not a PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF picture",
        "1 measured, 2 passed over",
    ]
    assert len(json.loads(Path("scores.json").read_text())["pictures"]) == 2


def test_nothing_that_can_be_measured(srup: Any) -> None:
    Path("hr").mkdir()
    Path("hr/c.png").write_text("no picture")
    outcome = srup("evaluate", "--references", "hr", "-o", "scores.md", "--sheet", "crops.png")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (1, "", 2)
    assert not Path("scores.md").exists()
    assert not Path("crops.png").exists()


@pytest.mark.usefixtures("references")
def test_a_failure_on_the_way_is_told(srup: Any, nearest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upscaler.errors import UserError

    whole = Upscaler.upscale
    calls = []

    def upscale(self: Upscaler, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise UserError("memory ran out")
        return whole(self, *arguments)

    monkeypatch.setattr(Upscaler, "upscale", upscale)
    outcome = srup("evaluate", "--references", "hr", "-m", nearest)
    assert outcome.code == 1
    assert outcome.err.splitlines() == ["error: memory ran out", "1 measured, 1 passed over"]
    assert "mean of 1 picture," in outcome.out


@pytest.mark.usefixtures("references")
def test_models_of_two_scales(srup: Any, nearest: Path, tmp_path: Path) -> None:
    network = Compact(features=2, convolutions=0, scale=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    two = tmp_path / "two.safetensors"
    save_weights(two, network.architecture, network.settings(), network.state_dict())
    assert "x2, border 2" in srup("evaluate", "--references", "hr", "-m", two).out
    outcome = srup("evaluate", "--references", "hr", "-m", two, "-m", nearest)
    assert (outcome.code, outcome.err) == (1, "error: the models enlarge by 2 and 4; choose one with --scale\n")
    assert srup("evaluate", "--references", "hr", "-m", two, "-m", nearest, "-s", 4).code == 0


def test_a_folder_with_an_equals_sign_needs_no_label(srup: Any) -> None:
    write("hr/a.png", smooth(40, 40))
    write("k=3/a.png", smooth(40, 40))
    outcome = srup("evaluate", "k=3", "best=k=3", "--references", "hr")
    assert [row[0] for row in lines(outcome.out)[-2:]] == ["k=3", "best"]


def test_a_blend_is_named_with_its_alpha(srup: Any) -> None:
    write("hr/a.png", smooth(40, 40))
    outcome = srup("evaluate", "-m", "photo", "--alpha", "0.5", "--references", "hr", "--json")
    assert json.loads(outcome.out.splitlines()[-1])["method"] == "photo, alpha 0.5"
    outcome = srup("evaluate", "-m", "half=photo", "--alpha", "0.5", "--references", "hr", "--json")
    assert json.loads(outcome.out.splitlines()[-1])["method"] == "half, alpha 0.5"


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["one/weights/best.safetensors"], ["best"]),
        (["one/weights/best.safetensors", "k=3/weights/best.safetensors"], ["one/best", "k=3/best"]),
        (["one/weights/best.safetensors", "one/weights/last.safetensors"], ["best", "last"]),
        (["one/weights/best.safetensors", "one/best.safetensors"], ["weights/best", "one/best"]),
        (["best.safetensors", "best.pth"], ["best.safetensors", "best.pth"]),
        (["mine=one/weights/best.safetensors", "k=3/weights/best.safetensors"], ["mine", "best"]),
        (["photo", "hf:some/where/a=b.pth", "none=1/x.pth"], ["photo", "hf:some/where/a=b.pth", "none"]),
        (["a=b=c", "photo-psnr=photo"], ["a", "photo-psnr"]),
    ],
)  # fmt: skip
def test_models_have_short_names(models: list[str], labels: list[str]) -> None:
    for name in ("one/weights/best", "one/weights/last", "k=3/weights/best", "one/best", "best"):
        for path in (Path(f"{name}.safetensors"), Path(f"{name}.pth")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert list(labelled([], models)[1]) == labels


@pytest.mark.usefixtures("references")
def test_a_picture_that_makes_a_mean_infinite_is_named(srup: Any) -> None:
    write("hr/flat.png", np.full((196, 104, 3), 80, np.uint8))
    outcome = srup("evaluate", "hr", "--references", "hr")
    assert (outcome.code, outcome.err) == (0, "the PSNR-Y of flat.png is infinite, and so is the mean of bicubic\n")


@pytest.mark.usefixtures("references")
@pytest.mark.parametrize(("option", "name"), [("-o", "scores.md"), ("-o", "scores.json"), ("--sheet", "crops.png")])
def test_where_nothing_can_be_written_nothing_is_measured(
    srup: Any, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    assert srup("evaluate", "--references", "hr", option, f"new/{name}").code == 0
    assert Path("new", name).exists()
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    outcome = srup("evaluate", "--references", "hr", option, name)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"error: cannot write {name}: the folder . is write-protected; choose another\n"


@pytest.mark.usefixtures("references")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("hr",), 2, "--references"),
        (("--references", "none"), 1, "none is not there"),
        (("none", "--references", "hr"), 1, "none is not there"),
        (("hr", "./hr", "--references", "hr"), 2, "'hr' would name two rows"),
        (("bicubic=hr", "--references", "hr"), 2, "'bicubic' would name two rows"),
        (("-m", "photo", "-m", "photo", "--references", "hr"), 2, "'photo' would name two rows"),
        (("-m", "none", "--references", "hr"), 1, "none"),
        (("-m", "ultrasharp", "--alpha", "0.5", "--references", "hr"), 1, "no known PSNR-oriented pair"),
        (("--references", "hr", "-o", "scores.txt"), 2, "must end in .md, .csv, .json"),
        (("--references", "hr", "-o", "hr/a.png/scores.md"), 1, "a.png is not a folder"),
        (("x=hr", "-m", "x=photo", "--references", "hr"), 2, "'x' would name two rows"),
        (("-m", "mine=none", "--references", "hr"), 1, "none"),
        (("--references", "hr", "--sheet", "sheet.xyz"), 1, "sheet.xyz"),
        (("--references", "hr", "--sheet", "hr/sheet.png"), 1, "among the pictures to measure"),
        (("x=sr", "--references", "hr", "--sheet", "sr/a.png"), 1, "among the pictures to measure"),
        (("--references", "hr", "-m", "photo", "--alpha", "nan"), 2, "'nan' is no alpha"),
        (("--references", "hr", "--scale", "0"), 2, "--scale"),
        (("--references", "hr", "--border", "-1"), 2, "--border"),
        (("--references", "hr", "--device", "warp", "-m", "photo"), 1, "warp"),
        (("--references", "hr", "--device", "cpu"), 2, "--device is for --model"),
        (("sr", "--references", "hr", "--alpha", "0.5"), 2, "--alpha is for --model"),
    ],
)
def test_errors_are_one_line(srup: Any, arguments: tuple[str, ...], code: int, message: str) -> None:
    outcome = srup("evaluate", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert message in outcome.err


def test_help_imports_no_torch() -> None:
    program = (
        "import sys; from upscaler.cli.main import run\ntry: run(['evaluate', '--help'])\nfinally: print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "rich"} & set(shown.splitlines()[-1].split())


@pytest.mark.usefixtures("references")
def test_nothing_is_replaced_unasked(srup: Any) -> None:
    for name, option in (("scores.md", "-o"), ("sheet.png", "--sheet")):
        Path(name).write_text("precious")
        outcome = srup("evaluate", "--references", "hr", option, name)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert f"{name} exists; use --overwrite" in outcome.err
        assert Path(name).read_text() == "precious"
        assert srup("evaluate", "--references", "hr", option, name, "--overwrite").code == 0
        assert Path(name).read_bytes()[:8] != b"precious"
