from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.images.files import Metadata, Picture, open_picture, read_provenance, write_picture
from upscaler.model.compact import Compact
from upscaler.model.equivariance import Equivariance
from upscaler.model.upscaler import Upscaler
from upscaler.model.weights import save_weights

PROGRAM = "from upscaler.cli.main import run; run()"
EMPTY = Metadata(None, None, None, None)


def picture(path: Path, height: int = 6, width: int = 8, channels: int = 3, seed: int = 0) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, Picture(pixels, EMPTY))
    return pixels


def pixels_of(path: Path) -> Any:
    return open_picture(path).read().pixels


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_one_picture(srup: Any, nearest: Path) -> None:
    pixels = picture(Path("a.png"))
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("a.png -> out.png  32 x 24  ")
    assert np.array_equal(pixels_of(Path("out.png")), pixels.repeat(4, 0).repeat(4, 1))


def test_the_bundled_model_is_the_default(srup: Any) -> None:
    picture(Path("a.png"))
    assert srup("upscale", "a.png").code == 0
    assert pixels_of(Path("a-upscaled.png")).shape == (24, 32, 3)
    made = read_provenance(Path("a-upscaled.png"))
    assert made is not None
    assert made["model"] == "photo"
    assert len(made["model_sha256"]) == 64


@pytest.mark.parametrize(
    ("option", "shape"),
    [
        (("-s", "1.5"), (9, 12)),
        (("--scale", "0.5"), (3, 4)),
        (("-s", "8"), (48, 64)),
        (("--size", "20x10"), (10, 20)),
        (("--size", "16x"), (12, 16)),
        (("--size", "x30"), (30, 40)),
    ],
)
def test_scale_and_size(srup: Any, nearest: Path, option: tuple[str, str], shape: tuple[int, int]) -> None:
    picture(Path("a.png"))
    assert srup("upscale", "a.png", "-o", "out.png", "-m", nearest, *option).code == 0
    assert pixels_of(Path("out.png")).shape == (*shape, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (1, 40)])
def test_tiny_pictures(srup: Any, height: int, width: int) -> None:
    picture(Path("a.png"), height, width)
    assert srup("upscale", "a.png", "-o", "out.png").code == 0
    assert pixels_of(Path("out.png")).shape == (4 * height, 4 * width, 3)


def test_everything_at_once(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 40, 50, channels=4)
    outcome = srup(
        "upscale", "a.png", "-o", "out.webp", "-m", nearest, "--tta", "--tile", "32", "--memory", "4GB", "--colour-fix",
        "--alpha-upsampler", "bicubic", "--quality", "100", "--precision", "fp32", "--device", "cpu",
        "--compare", "sheet.png", "--uncertainty", "map.png",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert pixels_of(Path("out.webp")).shape == (160, 200, 4)
    assert pixels_of(Path("sheet.png")).shape[1] >= 400
    assert pixels_of(Path("map.png")).shape[0] >= 160
    assert "the result moves by" in outcome.out


@pytest.mark.parametrize(("alpha", "named"), [((), "nearest"), (("--alpha", "0.25"), "photo at alpha 0.25")])
def test_a_comparison_names_the_model(
    srup: Any, nearest: Path, monkeypatch: pytest.MonkeyPatch, alpha: tuple[str, ...], named: str
) -> None:
    labels: list[tuple[str, str]] = []

    def drawn(*sides_and_labels: Any) -> Any:
        labels.append(sides_and_labels[2])
        return sides_and_labels[0]

    monkeypatch.setattr("upscaler.images.sheets.before_after", drawn)
    picture(Path("a.png"), 8, 8)
    assert srup("upscale", "a.png", "-m", "photo" if alpha else nearest, *alpha, "--compare", "sheet.png").code == 0
    assert labels == [("a.png, bicubic", f"a-upscaled.png, {named}")]


def test_uncertainty_grows_with_the_noise(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    means = []
    for noise in ("1", "4"):
        arguments = ("-m", nearest, "--uncertainty", f"{noise}.png", "--noise", noise, "--overwrite", "--json")
        *_, last = map(json.loads, srup("upscale", "a.png", *arguments).out.splitlines())
        assert last["sigma"] == pytest.approx(float(noise))
        means.append(last["mean"])
    # Nearest-neighbour enlargement moves as its input does.
    assert means == pytest.approx([1, 4], rel=0.3)


@pytest.mark.parametrize("arguments", [("--noise", "2"), ("--noise", "0", "--uncertainty", "map.png")])
def test_noise_is_of_uncertainty_and_positive(srup: Any, arguments: tuple[str, ...]) -> None:
    picture(Path("a.png"))
    outcome = srup("upscale", "a.png", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_json_alone_is_on_stdout(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest, "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [event["event"] for event in events] == ["started", "finished", "summary"]
    assert events[1] | {"seconds": 0} == {
        "event": "finished", "input": "a.png", "output": "out.png", "width": 32, "height": 24, "seconds": 0,
    }  # fmt: skip
    assert events[2]["finished"] == 1
    assert "a.png -> out.png" in outcome.err


def test_an_error_is_an_event_too(srup: Any) -> None:
    outcome = srup("upscale", "none.png", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out) == {"event": "error", "message": "none.png does not exist"}


def test_a_folder_passes_over_what_it_cannot_read(srup: Any, nearest: Path) -> None:
    picture(Path("in/a.png"))
    picture(Path("in/deep/b.jpg"))
    Path("in/broken.png").write_text("no picture")
    outcome = srup("upscale", "in", "-o", "out", "-m", nearest, "--recursive")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "in/broken.png" in outcome.err
    assert "2 upscaled, 0 skipped, 1 failed" in outcome.out
    assert files() == ["in/a.png", "in/broken.png", "in/deep/b.jpg", "out/a.png", "out/deep/b.jpg"]


def test_a_list_keeps_going_unless_told_to_stop(srup: Any, nearest: Path) -> None:
    Path("a.png").write_text("no picture")
    picture(Path("b.png"))
    outcome = srup("upscale", "a.png", "b.png", "-o", "out", "-m", nearest, "--stop-on-error")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert files() == ["a.png", "b.png"]
    assert srup("upscale", "a.png", "b.png", "-o", "out", "-m", nearest).code == 1
    assert files() == ["a.png", "b.png", "out/b.png"]


def test_a_picture_that_breaks_off_leaves_nothing(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 400, 400)
    Path("a.png").write_bytes(Path("a.png").read_bytes()[:200_000])
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert files() == ["a.png"]


def test_nothing_is_replaced_unasked(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    Path("out.png").write_text("precious")
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest)
    assert outcome.code == 1
    assert "out.png exists; use --overwrite" in outcome.err
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest, "--skip-existing")
    assert outcome.code == 1
    assert "does not say that srup made it" in outcome.err
    assert Path("out.png").read_text() == "precious"
    assert srup("upscale", "a.png", "-o", "out.png", "-m", nearest, "--overwrite").code == 0
    assert pixels_of(Path("out.png")).shape == (24, 32, 3)


def test_the_input_is_not_replaced_unasked(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    outcome = srup("upscale", "a.png", "-o", "./a.png", "-m", nearest)
    assert outcome.code == 1
    assert "a.png is the picture itself" in outcome.err
    assert pixels_of(Path("a.png")).shape == (6, 8, 3)
    assert srup("upscale", "a.png", "-o", "a.png", "-m", nearest, "--overwrite").code == 0
    assert pixels_of(Path("a.png")).shape == (24, 32, 3)


def test_only_what_is_missing_or_different_is_done_again(srup: Any, nearest: Path) -> None:
    picture(Path("in/a.png"))
    picture(Path("in/b.png"), seed=1)
    command = ("upscale", "in", "-o", "out", "-m", nearest, "--skip-existing")

    def done(*more: str) -> list[str]:
        outcome = srup(*command, *more)
        assert outcome.code == 0
        return [line.split()[0] for line in outcome.out.splitlines()[:-1]]

    assert done() == ["in/a.png", "in/b.png"]
    assert done() == []
    assert done("-s", "2") == ["in/a.png", "in/b.png"]
    picture(Path("in/b.png"), seed=2)
    assert done("-s", "2") == ["in/b.png"]
    Path("out/a.png").unlink()
    assert done("-s", "2") == ["in/a.png"]
    assert done("-s", "2", "--colour-fix") == ["in/a.png", "in/b.png"]


def test_ranks_share_a_folder_and_outlive_a_bad_picture(nearest: Path) -> None:
    for name in "bcde":
        picture(Path(f"in/{name}.png"))
    Path("in/a.png").write_text("no picture")
    picture(Path("in/d.png"), 300, 300)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "upscaler",
         "upscale", "in", "-o", "out", "-m", str(nearest), "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["b.png", "c.png", "d.png", "e.png"]
    assert "2 upscaled, 0 skipped, 1 failed" in done.stdout
    assert "2 upscaled, 0 skipped, 0 failed" in done.stdout


def test_a_plan_does_nothing(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 100, 200)
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest, "--plan", "--tile", "64")
    assert outcome.code == 0
    assert "200 x 100 -> 800 x 400" in outcome.out
    assert "8 tiles of 64 x 64 with a halo of" in outcome.out
    assert files() == ["a.png"]
    outcome = srup("upscale", "a.png", "-o", "out.png", "-m", nearest, "--plan", "--json")
    event = json.loads(outcome.out)
    noisy = json.loads(srup("upscale", "a.png", "-m", nearest, "--plan", "--json", "--uncertainty", "map.png").out)
    assert noisy["memory"] > event["memory"]
    assert noisy["seconds"] > 4 * event["seconds"]
    assert event["output_bytes"] == 800 * 400 * 3
    assert event["memory"] > 0
    assert event["seconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-s", "0"), "'0' is no scale"),
        (("-s", "-1"), "'-1' is no scale"),
        (("-s", "nan"), "'nan' is no scale"),
        (("-s", "big"), "'big' is no scale"),
        (("--size", "x"), "'x' is no size"),
        (("--size", "0x5"), "'0x5' is no size"),
        (("--size", "8x8", "-s", "2"), "not both"),
        (("--overwrite", "--skip-existing"), "not both"),
        (("-m", "photo", "-m", "photo-psnr"), "use one --model"),
        (("--format", "bmp", "--skip-existing"), "a BMP cannot say how it was made"),
        (("--seed", "1"), "--seed belongs to --uncertainty"),
        (("--tile", "0"), "'0' is no tile"),
        (("--tile", "big"), "'big' is no tile"),
        (("--memory", "lots"), "'lots' is no amount of memory"),
        (("--memory", "9" * 400), "is no amount of memory"),
        (("--memory", "0"), "'0' is no amount of memory"),
        (("--quality", "101"), "--quality"),
        (("--quality", "80"), "not for png"),
        (("--quality", "80", "--format", "bmp"), "not for bmp"),
        (("--precision", "fp8"), "fp8"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_a_wrong_command_line(srup: Any, options: tuple[str, ...], message: str) -> None:
    picture(Path("a.png"))
    outcome = srup("upscale", "a.png", *options)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert files() == ["a.png"]


def test_sheets_are_of_one_picture(srup: Any) -> None:
    picture(Path("a.png"))
    picture(Path("b.png"))
    outcome = srup("upscale", "a.png", "b.png", "--compare", "sheet.png")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    outcome = srup("upscale", "a.png", "--compare", "a.png", "--overwrite")
    assert outcome.code == 1
    assert "a name of its own" in outcome.err
    outcome = srup("upscale", "a.png", "--uncertainty", "map.xyz")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert files() == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.png",), "none.png does not exist"),
        (("empty",), "no picture in the folder empty"),
        (("text.png",), "text.png"),
        (("zero.png",), "zero.png"),
        (("a.png", "-o", "result"), "no extension"),
        (("a.png", "-o", "result.xyz"), ".xyz"),
        (("a.png", "-o", "text.png/out.png"), "text.png"),
        (("a.png", "-m", "fotos"), "did you mean photo"),
        (("a.png", "-m", "none.pth"), "none.pth"),
        (("a.png", "-m", "page.pth"), "web page"),
        (("a.png", "-m", "zero.png"), "zero.png"),
        (("a.png", "--alpha", "0.5", "-m", "lsdir-compact-c"), "no known PSNR-oriented pair"),
        (("a.png", "--device", "cuda:7"), "cuda:7"),
        (("a.png", "--memory", "1MB"), "a.png: this picture needs --memory"),
        (("a.png", "-s", "20000", "-o", "big.jpg"), "65"),
        (("a.png", "-s", "5000", "-o", "big.webp"), "16"),
    ],
)
def test_bad_input_has_one_line(srup: Any, arguments: tuple[str, ...], message: str) -> None:
    picture(Path("a.png"))
    Path("empty").mkdir()
    Path("text.png").write_text("not a picture, although it is called one")
    Path("zero.png").touch()
    Path("page.pth").write_text("<!doctype html><title>404</title>")
    before = files()
    outcome = srup("upscale", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert files() == before


def test_sheets_are_not_replaced_unasked(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    Path("sheet.png").write_text("precious")
    for option in ("--compare", "--uncertainty"):
        outcome = srup("upscale", "a.png", "-m", nearest, option, "sheet.png")
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert "sheet.png exists; use --overwrite" in outcome.err
    outcome = srup("upscale", "a.png", "-m", nearest, "--compare", "x.png", "--uncertainty", "./x.png")
    assert "a name of its own" in outcome.err
    outcome = srup("upscale", "a.png", "-o", "a.png", "-m", nearest, "--overwrite", "--compare", "sheet.png")
    assert "need the picture as it was" in outcome.err
    assert Path("sheet.png").read_text() == "precious"
    assert files() == ["a.png", "sheet.png"]


def test_a_comparison_that_does_not_fit_is_refused_before_work(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 400, 500)
    outcome = srup("upscale", "a.png", "-m", nearest, "-s", "18", "--compare", "sheet.webp")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "sheet.webp" in outcome.err
    assert files() == ["a.png"]


def test_a_map_that_does_not_fit_is_refused_before_work(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 20, 585)
    outcome = srup("upscale", "a.png", "-m", nearest, "-s", "28", "--uncertainty", "map.webp")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "map.webp" in outcome.err
    assert files() == ["a.png"]
    planned = srup("upscale", "a.png", "-m", nearest, "-s", "28", "--uncertainty", "map.webp", "--plan")
    assert (planned.code, planned.err) == (1, outcome.err)


def test_a_sheet_that_exists_is_not_made_again(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"))
    command = ("upscale", "a.png", "-m", nearest, "--skip-existing", "--compare", "sheet.png")
    assert srup(*command).code == 0
    outcome = srup(*command)
    assert outcome.code == 1
    assert "sheet.png exists; --skip-existing is for results alone" in outcome.err


def test_a_plan_tells_what_will_not_be_done_and_what_will_be_lost(srup: Any, nearest: Path) -> None:
    picture(Path("a.png"), 100, 200)
    arguments = ("upscale", "a.png", "-m", nearest, "--plan")
    outcome = srup(*arguments, "-s", "100", "-o", "out.webp")
    assert outcome.code == 1
    assert "20000 x 10000 pixels are too many for WEBP" in outcome.err
    assert "GIF has 256 colours" in srup(*arguments, "-o", "out.gif").err
    picture(Path("out.png"))
    assert srup("upscale", "a.png", "-m", nearest, "-o", "b.png").code == 0
    skipped = srup(*arguments, "-o", "b.png", "--skip-existing")
    assert (skipped.code, skipped.out) == (0, "a.png -> b.png\n  is there already\n")
    assert "does not say that srup made it" in srup(*arguments, "-o", "out.png", "--skip-existing").err
    there = srup(*arguments, "-o", "out.png")
    assert (there.code, "200 x 100 -> 800 x 400" in there.out) == (0, True)
    assert there.err == "warning: out.png exists; it needs --overwrite or --skip-existing\n"
    assert srup(*arguments, "-o", "out.png", "--overwrite").err == ""


def test_a_plan_of_a_folder_passes_over_what_it_cannot_read(srup: Any, nearest: Path) -> None:
    picture(Path("in/b.png"))
    Path("in/a.png").write_text("no picture")
    outcome = srup("upscale", "in", "-m", nearest, "--plan")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "8 x 6 -> 32 x 24" in outcome.out


def test_results_go_to_stdout_while_a_bar_is_on_the_terminal(nearest: Path) -> None:
    picture(Path("in/a.png"))
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, "upscale", "in", "-m", str(nearest)]
    with Path("log").open("w") as log:
        subprocess.run(
            [*command, "--json"], stdout=log, stderr=follower, check=True, env=os.environ | {"TERM": "xterm"}
        )
    os.close(follower)
    os.close(leader)
    assert [json.loads(line)["event"] for line in Path("log").read_text().splitlines()] == [
        "started",
        "finished",
        "summary",
    ]


def test_names_that_cannot_be_printed_are_no_reason_to_stop(nearest: Path) -> None:
    picture(Path("猫.png"))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [
        sys.executable,
        "-c",
        "from upscaler.cli.main import run; run()",
        "upscale",
        "猫.png",
        "-m",
        str(nearest),
    ]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\\u732b.png -> " in done.stdout
    assert files() == ["猫-upscaled.png", "猫.png"]


def test_no_command_shows_the_help(srup: Any) -> None:
    outcome = srup()
    assert outcome.code == 0
    assert "upscale" in outcome.out
    assert outcome.out.count("\n") > 5
    outcome = srup("upscale")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_what_the_system_refuses_is_one_line(srup: Any) -> None:
    outcome = srup("upscale", "x" * 300 + ".png")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "unexpected" not in outcome.err


@pytest.mark.parametrize("bound", [True, False])
def test_tta_is_left_out_where_it_would_change_nothing(srup: Any, bound: bool) -> None:
    torch.manual_seed(0)
    network = Compact(features=8, convolutions=1)
    if bound:
        Equivariance(network).bind_drawn()
    save_weights(Path("net.safetensors"), network.architecture, network.settings(), network.state_dict())
    picture(Path("a.png"))
    outcome = srup("upscale", "a.png", "-o", "turned.png", "-m", "net.safetensors", "--tta")
    assert outcome.code == 0
    assert ("--tta would change nothing" in outcome.err) is bound
    srup("upscale", "a.png", "-o", "plain.png", "-m", "net.safetensors")
    assert np.array_equal(pixels_of(Path("turned.png")), pixels_of(Path("plain.png"))) is bound


def test_warnings_do_not_stop_the_work(srup: Any, nearest: Path) -> None:
    write_picture(Path("a.png"), Picture(np.zeros((4, 4, 3), np.uint16), EMPTY))
    outcome = srup("upscale", "a.png", "-o", "out.jpg", "-m", nearest)
    assert outcome.code == 0
    assert outcome.err.startswith("warning: out.jpg: ")
    assert "16" in outcome.err


def test_an_interruption_leaves_no_part_of_a_file(srup: Any, nearest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(Path("a.png"))
    picture(Path("b.png"), 300, 10)
    whole = Upscaler.bands

    def interrupted(self: Upscaler, *arguments: Any) -> Any:
        for count, band in enumerate(whole(self, *arguments)):
            if count == 2:
                raise KeyboardInterrupt
            yield band

    monkeypatch.setattr(Upscaler, "bands", interrupted)
    outcome = srup("upscale", "a.png", "b.png", "-o", "out", "-m", nearest)
    assert (outcome.code, outcome.err) == (130, "error: interrupted\n")
    assert files() == ["a.png", "b.png", "out/a.png"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "error: terminated\n")],
)
def test_a_signal_leaves_no_part_of_a_file(nearest: Path, number: int, code: int, said: str) -> None:
    picture(Path("a.png"), 1500, 1500)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "upscale", "a.png", "-o", "out.png",
         "-m", str(nearest), "--json", "-s", "16", "--tile", "64"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "progress":
        pass
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (code, said)
    assert files() == ["a.png"]


@pytest.mark.parametrize("json", [(), ("--json",)])
@pytest.mark.parametrize("arguments", [("models", "list"), ("upscale", "a.png", "--plan"), ("upscale", "none.png")])
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...], json: tuple[str, ...]) -> None:
    picture(Path("a.png"))
    receiving, sending = os.pipe()
    os.close(receiving)
    command = [sys.executable, "-c", PROGRAM, *arguments, *json]
    done = subprocess.run(command, stdout=sending, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(sending)
    said = "error: none.png does not exist\n" if arguments[1] == "none.png" and not json else ""
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_without_stdout_or_stderr_the_work_is_done(nearest: Path, closed: str) -> None:
    picture(Path("a.png"))
    command = f'"{sys.executable}" -c "{PROGRAM}" upscale a.png -o out.png -m "{nearest}" {closed}'
    assert subprocess.run(["/bin/sh", "-c", command], timeout=60).returncode == 0
    assert pixels_of(Path("out.png")).shape == (24, 32, 3)


def test_help_is_there_without_torch() -> None:
    program = "import sys\nfrom upscaler.cli.main import run\ntry:\n run(['upscale', '--help'])\nfinally:\n"
    program += " assert 'torch' not in sys.modules and 'pyvips' not in sys.modules and 'numpy' not in sys.modules"
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "--keep-going" in done.stdout


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(
    srup: Any, nearest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    picture(Path("a.png"))
    monkeypatch.setattr(Upscaler, "estimate", broken)
    outcome = srup("upscale", "a.png", "-m", nearest)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "unexpected RuntimeError: a bug" in outcome.err
    assert "Traceback" in srup("upscale", "a.png", "-m", nearest, "--debug").err
