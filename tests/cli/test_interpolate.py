from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from upscaler.cli.interpolate import parse_sweep, parse_weights
from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.resize import resize
from upscaler.model import catalogue
from upscaler.model.compact import Compact
from upscaler.model.weights import load_weights, save_weights


def network(path: str, level: float, metadata: dict[str, str] | None = None, **settings: Any) -> None:
    """Weights that repeat every pixel and add a level of 0..1."""
    made = Compact(**({"features": 2, "convolutions": 0} | settings))
    tensors = {key: torch.zeros_like(tensor) for key, tensor in made.state_dict().items()}
    tensors["body.0.weight"].fill_(0.5)
    tensors["body.2.bias"].fill_(level)
    save_weights(path, made.architecture, made.settings(), tensors, metadata)


def write(path: str, height: int, width: int) -> Any:
    cells = np.random.default_rng(1).integers(0, 200, (height // 4, width // 4, 3), np.uint8)
    pixels = resize(cells, height, width)
    write_picture(path, Picture(pixels, Metadata()))
    return pixels


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, level in (("psnr", 0.0), ("gan", 0.08)):
        (tmp_path / name).mkdir()
        network(f"{name}/best.safetensors", level, {"stage": name, "training": "seed = 0\n[data]\n"})
    return tmp_path


PAIR = ("psnr/best.safetensors", "gan/best.safetensors")


def files() -> set[str]:
    return {path.name for path in Path().iterdir() if path.is_file()}


def bias(path: str) -> float:
    return float(load_weights(path).tensors["body.2.bias"][0])


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_bundled_pair_as_typed(srup: Any) -> None:
    outcome = srup("interpolate", "--alpha", 0.8)
    assert outcome.code == 0
    assert outcome.out == "photo-alpha0.8.safetensors: 0.2 of photo-psnr, 0.8 of photo\n"
    made = load_weights("photo-alpha0.8.safetensors")
    assert made.metadata["alpha"] == "0.8"
    assert made.metadata["licence"] == "Apache-2.0"
    again = srup("interpolate", "--alpha", 0.8)
    assert (again.code, again.out) == (1, "")
    assert "photo-alpha0.8.safetensors exists; use --overwrite" in again.err
    assert srup("interpolate", "--alpha", 0.8, "--overwrite").code == 0


@pytest.mark.parametrize(("alpha", "level"), [(0, 0), (0.25, 0.02), (1, 0.08), (1.5, 0.12), (-0.5, -0.04)])
def test_two_files(srup: Any, alpha: float, level: float) -> None:
    outcome = srup("interpolate", *PAIR, "--alpha", alpha)
    assert outcome.code == 0
    path = f"gan-best-alpha{alpha:g}.safetensors"
    assert outcome.out == f"{path}: {1 - alpha:g} of psnr/best, {alpha:g} of gan/best\n"
    assert bias(path) == pytest.approx(level)
    assert ("extrapolates beyond the models" in outcome.err) == (not 0 <= alpha <= 1)
    assert outcome.err.count("\n") == (not 0 <= alpha <= 1)


def test_several_models_with_weights(srup: Any) -> None:
    network("third.safetensors", 0.8)
    outcome = srup("interpolate", *PAIR, "third.safetensors", "--weights", "1,2,1", "-o", "new/mix.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "new/mix.safetensors: 0.25 of psnr/best, 0.5 of gan/best, 0.25 of third\n"
    assert bias("new/mix.safetensors") == pytest.approx(0.24)
    below = srup("interpolate", *PAIR, "--weights", "-1,3")
    assert below.code == 0
    assert "a weight is below 0" in below.err
    assert bias("blend--1-3.safetensors") == pytest.approx(0.12)


def test_one_model_is_blended_with_its_pair(srup: Any) -> None:
    assert "0.5 of photo-psnr, 0.5 of photo" in srup("interpolate", "photo", "--alpha", 0.5).out
    for name in (PAIR[0], "photo-psnr"):
        outcome = srup("interpolate", name, "--alpha", 0.5)
        assert outcome.code == 2
        assert "no known PSNR-oriented pair; name the two models" in outcome.err


def test_the_blend_is_shown_with_its_parents(srup: Any) -> None:
    srup("interpolate", *PAIR, "--alpha", 0.3, "-o", "mix.safetensors")
    shown = srup("models", "show", "mix.safetensors").out
    digests = [load_weights(path).digest for path in PAIR]
    part = shown[shown.index("    parents:") :].splitlines()
    assert part[1:4] == ["        - name: psnr/best", f"          sha256: {digests[0]}", "          share: 0.7"]
    for line in ("        - name: gan/best", "          share: 0.3", "              stage: gan", "    alpha: 0.3"):
        assert line in shown.splitlines()
    assert shown.splitlines().count("              training: 2 lines; see --json") == 2
    for line in ("    training:", "        seed = 0"):
        assert line in srup("models", "show", PAIR[0]).out.splitlines()
    (event,) = events(srup("models", "show", "mix.safetensors", "--json").out)
    assert [parent["sha256"] for parent in event["metadata"]["parents"]] == digests


def test_programs_can_read_along(srup: Any) -> None:
    outcome = srup("interpolate", *PAIR, "--alpha", 0.5, "--json")
    (event,) = events(outcome.out)
    digests = [load_weights(path).digest for path in PAIR]
    assert event == {
        "event": "blended",
        "output": "gan-best-alpha0.5.safetensors",
        "sha256": load_weights("gan-best-alpha0.5.safetensors").digest,
        "parents": [
            {"name": "psnr/best", "sha256": digests[0], "share": 0.5},
            {"name": "gan/best", "sha256": digests[1], "share": 0.5},
        ],
    }
    assert "0.5 of psnr/best" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "use one of --alpha, --weights and --sweep"),
        (("--alpha", 1, "--sweep", "0:1:1"), "use one of --alpha, --weights and --sweep"),
        (("--alpha", 1, "--weights", "1,1"), "use one of --alpha, --weights and --sweep"),
        (("--alpha", "much"), "'much' is no alpha"),
        (("a", "b", "c", "--alpha", 1), "--alpha and --sweep are for two models; use --weights for 3"),
        (("a", "b", "c", "--sweep", "0:1:1"), "--alpha and --sweep are for two models; use --weights for 3"),
        (("a", "b", "c", "--weights", "1,1"), "--weights has 2 numbers for 3 models"),
        (("--weights", "1,-1"), "'1,-1' are no weights"),
        (("--weights", "1"), "'1' are no weights"),
        (("--weights", "1,nan"), "'1,nan' are no weights"),
        (("--weights", "1;2"), "'1;2' are no weights"),
        (("--sweep", "0:1:0"), "'0:1:0' is no sweep"),
        (("--sweep", "1:0:0.1"), "'1:0:0.1' is no sweep"),
        (("--sweep", "0:1"), "'0:1' is no sweep"),
        (("--sweep", "0:nan:1"), "'0:nan:1' is no sweep"),
        (("--sweep", "0:1:inf"), "'0:1:inf' is no sweep"),
        (("--sweep", "0:1:-inf"), "'0:1:-inf' is no sweep"),
        (("--sweep", "0:1e-10:1e-11"), "'0:1e-10:1e-11' is no sweep"),
        (("--sweep", "0:1:0.01"), "'0:1:0.01' has 101 steps; 50 are the most"),
        (("--sweep", "0:1:1", "--at", "4"), "'4' is no place"),
        (("--alpha", 1, "--picture", "a.png"), "--picture is for --sweep"),
        (("--alpha", 1, "--reference", "a.png"), "--reference is for --sweep"),
        (("--alpha", 1, "--at", "1,2"), "--at is for --sweep"),
        (("--alpha", 1, "--image-space"), "--image-space is for --sweep"),
        (("--alpha", 1, "--animation", "a.gif"), "--animation is for --sweep"),
        (("--alpha", 1, "--device", "cpu"), "--device is for --sweep"),
        (("--alpha", 1, "--precision", "fp32"), "--precision is for --sweep"),
        (("--weights", "1,1", "--memory", "1GB"), "--memory is for --sweep"),
        (("--alpha", 1, "-o", "a.pth"), "a.pth is no name for weights; it must end in .safetensors"),
    ],
)
def test_contradictions_are_refused(srup: Any, arguments: tuple[object, ...], message: str) -> None:
    outcome = srup("interpolate", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert not files()


def test_nothing_is_lost(srup: Any) -> None:
    before = [Path(path).read_bytes() for path in PAIR]
    outcome = srup("interpolate", *PAIR, "--alpha", 1, "-o", "psnr/../gan/best.safetensors", "--overwrite")
    assert outcome.code == 1
    assert "is one of the models to blend" in outcome.err
    Path("link.safetensors").hardlink_to(PAIR[0])
    outcome = srup("interpolate", *PAIR, "--alpha", 0.5, "-o", "link.safetensors", "--overwrite")
    assert outcome.code == 1
    assert "is one of the models to blend" in outcome.err
    write("lr.png", 24, 28)
    outcome = srup("interpolate", *PAIR, "--sweep", "0:1:1", "--picture", "lr.png", "-o", "./lr.png", "--overwrite")
    assert outcome.code == 1
    assert "is the picture, the reference or the other result" in outcome.err
    outcome = srup("interpolate", *PAIR, "--sweep", "0:0.96:0.02", "--picture", "lr.png", "-o", "sheet.webp")
    assert outcome.code == 1
    assert "16400" in outcome.err
    assert [Path(path).read_bytes() for path in PAIR] == before


def test_a_model_of_the_catalogue_is_not_replaced(srup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = tmp_path / "bundled"
    shutil.copytree(catalogue._bundled_folder(), bundled)
    monkeypatch.setattr(catalogue, "_bundled_folder", lambda: bundled)
    photo = bundled / "photo.safetensors"
    before = photo.read_bytes()
    outcome = srup("interpolate", "--alpha", 0.5, "-o", photo, "--overwrite")
    assert outcome.code == 1
    assert "is one of the models to blend" in outcome.err
    assert photo.read_bytes() == before


def test_models_that_do_not_fit(srup: Any) -> None:
    network("wide.safetensors", 0, features=4)
    outcome = srup("interpolate", PAIR[0], "wide.safetensors", "--alpha", 0.5)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "best and wide are compact with features 2 and 4" in outcome.err
    assert files() == {"wide.safetensors"}


def test_models_that_are_the_same_or_strangers_are_told_of(srup: Any) -> None:
    assert "one and the same" in srup("interpolate", PAIR[0], PAIR[0], "--alpha", 0.5).err
    stranger = load_weights(PAIR[0])
    flipped = {key: -tensor for key, tensor in stranger.tensors.items()}
    save_weights("stranger.safetensors", stranger.architecture, stranger.settings, flipped)
    outcome = srup("interpolate", PAIR[0], "stranger.safetensors", "--alpha", 0.4)
    assert outcome.code == 0
    assert "little in common (cosine -1.00)" in outcome.err


def test_a_sweep_over_a_picture(srup: Any) -> None:
    write("lr.png", 64, 72)
    outcome = srup("interpolate", *PAIR, "--sweep", "0:1:0.25", "--picture", "lr.png", "--json")
    assert outcome.code == 0
    assert files() == {"lr.png", "lr-sweep.png", "lr-sweep.webp"}
    told = [event for event in events(outcome.out) if event["event"] != "progress"]
    steps, (finished,) = told[:-1], told[-1:]
    assert [step["alpha"] for step in steps] == [0, 0.25, 0.5, 0.75, 1]
    assert all(step["blended"] == "networks" and step["psnr_y"] is None and step["niqe"] for step in steps)
    assert [step["drift_lr"] for step in steps] == pytest.approx([0.08 * 255 * n / 4 for n in range(5)], abs=1)
    assert finished == {"event": "finished", "sheet": "lr-sweep.png", "animation": "lr-sweep.webp"}
    sheet = open_picture("lr-sweep.png").read().pixels
    assert sheet.shape[1] >= 6 * 288, "bicubic and five alphas"
    with Image.open("lr-sweep.webp") as film:
        assert getattr(film, "n_frames", 1) == 5


def test_a_sweep_with_a_reference_is_measured(srup: Any) -> None:
    reference = write("hr.png", 98, 113)[:96, :112]
    arguments = (*PAIR, "--sweep", "0:1:1", "--reference", "hr.png")
    outcome = srup("interpolate", *arguments, "--animation", "film.gif", "-o", "new/sheet.jpg")
    assert (outcome.code, outcome.err) == (0, "")
    title, *rows = [line.split() for line in outcome.out.splitlines() if line.strip()]
    assert " ".join(title) == "hr.png: from psnr/best (alpha 0) to gan/best (alpha 1)"
    assert rows[0] == ["blend", "PSNR-Y", "SSIM-Y", "drift", "drift-LR"], "it is too small for NIQE"
    assert [row[:2] for row in rows[2:4]] == [["alpha", "0"], ["alpha", "1"]]
    assert Path("new/sheet.jpg").exists()
    with Image.open("film.gif") as film:
        assert film.format == "GIF"
    write_picture("lr.png", Picture(resize(reference, 24, 28), Metadata()))
    given = srup("interpolate", *arguments, "--picture", "lr.png")
    assert [line.split() for line in given.out.splitlines()][4:6] == rows[2:4], "the same protocol"
    evaluated = srup("evaluate", "--references", ".", "-m", f"one={PAIR[1]}", "--pictures", "two=.", "--json")
    scores = next(
        event for event in events(evaluated.out) if event.get("picture") == "hr.png" and event["method"] == "one"
    )
    assert f"{scores['psnr_y']:.2f} {scores['ssim_y']:.4f} {scores['drift']:.2f}".split() == rows[3][2:5]


def test_pictures_blended_beside_networks(srup: Any) -> None:
    write("lr.png", 24, 28)
    alone = srup("interpolate", *PAIR, "--sweep", "0:1:0.5", "--picture", "lr.png")
    height = open_picture("lr-sweep.png").height
    both = srup("interpolate", *PAIR, "--sweep", "0:1:0.5", "--picture", "lr.png", "--image-space", "--overwrite")
    assert (alone.code, both.code) == (0, 0)
    assert "pictures at 0.5" not in alone.out
    assert "pictures at 0.5" in both.out
    assert open_picture("lr-sweep.png").height > 1.5 * height


def test_the_place_can_be_chosen(srup: Any) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[60:, 150:] = (200, 0, 0)
    write_picture("lr.png", Picture(pixels, Metadata()))
    command = ("interpolate", *PAIR, "--sweep", "0:0:1", "--picture", "lr.png", "--overwrite")
    assert srup(*command, "--at", "190,90").code == 0
    sheet = open_picture("lr-sweep.png").read().pixels
    detail = sheet[-1200:-560, 340:600]
    assert (detail[..., 0] > 150).mean() > 0.6
    one = len(sheet)
    assert srup(*command, "--at", "190,90", "--at", "0,0").code == 0
    assert open_picture("lr-sweep.png").height - one > 640
    outcome = srup(*command, "--at", "200,0")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "--at 200,0 is outside of the picture, which has 200 x 100 pixels" in outcome.err


def test_a_sweep_that_cannot_be_done_leaves_nothing(srup: Any) -> None:
    write("hr.png", 96, 112)
    write("other.png", 24, 32)
    for arguments, message in (
        (("--picture", "other.png", "--reference", "hr.png"), "other.png is 32 x 24 where hr.png asks for 28 x 24"),
        (("--picture", "missing.png"), "there is no such file"),
        (("--picture", "hr.png", "-o", "a.safetensors"), "a.safetensors"),
        (("--picture", "hr.png", "--animation", "a.avi"), "must end in .gif, .webp, .mp4"),
    ):
        outcome = srup("interpolate", *PAIR, "--sweep", "0:1:1", *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
        assert message in outcome.err
        assert files() == {"hr.png", "other.png"}


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        ("0:1:0.2", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("0:1:0.3", [0, 0.3, 0.6, 0.9]),
        ("1:-0.5:-0.5", [1, 0.5, 0, -0.5]),
        ("0.5:0.5:1", [0.5]),
        ("-0.2:0.1:0.1", [-0.2, -0.1, 0, 0.1]),
    ],
)
def test_sweeps(text: str, alphas: list[float]) -> None:
    assert parse_sweep(text) == alphas
    assert "-0" not in [f"{alpha:g}" for alpha in parse_sweep(text)]


def test_weights() -> None:
    assert parse_weights("1,2,0.5") == [1, 2, 0.5]
