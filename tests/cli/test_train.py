from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from upscaler.cli.main import run
from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.resize import resize
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import load_weights, save_weights
from upscaler.training import reports
from upscaler.training.checkpoints import remove_after
from upscaler.training.config import Config, Stage, read_config
from upscaler.training.layering import load_config, preset_names
from upscaler.training.preparation import Settings, prepare
from upscaler.training.readings import Event, Reading
from upscaler.training.recording import Recorder
from upscaler.training.sources import find_sources

_TINY = (
    "network.settings.features=4", "network.settings.convolutions=1", "data.patch=32", "data.batch=2",
    "data.workers=0", "discriminator.features=4", "records.readings=1", "records.distributions=4",
    "records.checkpoints=2", "validation.every=4",
)  # fmt: skip
TINY = [word for setting in _TINY for word in ("--set", setting)]
QUICK = ["--preset", "quick", *TINY, "--iterations", "9"]
"""Six steps for PSNR and three with a GAN."""


@dataclass(frozen=True)
class Trained:
    folder: Path
    data: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "photos"
    folder.mkdir()
    for seed in range(5):
        coarse = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)
        write_picture(folder / f"{seed}.png", Picture(resize(coarse, 64, 80), Metadata()))
    return folder


@pytest.fixture(scope="module")
def data(photos: Path) -> Path:
    """A training set of four pictures of 80 x 64 pixels, one more for validation."""
    folder = photos.with_name("set")
    prepare(find_sources([str(photos)]), folder, Settings(validation=1), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path) -> Trained:
    """A run from start to end, told as JSON."""
    folder, out, err = data.with_name("run"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        run(["train", *QUICK, "--data", str(data), "-o", str(folder), "--json"])
    assert stopped.value.code == 0, err.getvalue()
    return Trained(folder, data, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reports, "write_plots", lambda *_: [])  # the slowest part; one run has them
    return tmp_path


@pytest.fixture
def copy(trained: Trained) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(trained.folder, "copy"))


def last(folder: Path) -> dict[str, Any]:
    return load_file(folder / "weights/last.safetensors")


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_the_documented_folder(trained: Trained) -> None:
    found = {path.name for path in trained.folder.iterdir() if not path.name.startswith(".")}
    assert found == {
        "config.toml", "origin.json", "log.txt", "metrics.jsonl", "tensorboard", "checkpoints", "weights", "samples",
        "report", "report.md",
    }  # fmt: skip
    assert {path.stem for path in (trained.folder / "weights").iterdir()} == {"last", "best", "psnr", "gan"}
    assert [path.stem for path in sorted((trained.folder / "checkpoints").iterdir())][-1] == "step-000000009"
    settings = [word for word in TINY if word != "--set"]
    assert read_config(trained.folder / "config.toml") == load_config("quick", settings=settings, iterations=9)
    assert len(list((trained.folder / "report").glob("*.png"))) > 5
    report = (trained.folder / "report.md").read_text()
    assert "It is complete. 9 of 9 steps" in report
    assert [stage in report for stage in ("stage psnr", "stage gan")] == [True, True]
    assert "step 9: complete" in (trained.folder / "log.txt").read_text()


@pytest.mark.parametrize("name", ["last", "best"])
def test_its_weights_upscale(name: str, trained: Trained, photos: Path, srup: Any) -> None:
    weights = trained.folder / f"weights/{name}.safetensors"
    outcome = srup("upscale", photos / "0.png", "-o", "large.png", "-m", weights)
    assert (outcome.code, outcome.err) == (0, "")
    assert (open_picture("large.png").width, open_picture("large.png").height) == (320, 256)
    origin = load_weights(weights).metadata
    assert origin["stage"].startswith("gan, ")
    assert "features = 4" in origin["training"]


def test_json_tells_everything(trained: Trained) -> None:
    events = [json.loads(line) for line in trained.out.splitlines()]
    # Before anything else a warning may tell that convolutions are compiled.
    kinds = [event["event"] for event in events if event["event"] != "warning"]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert (kinds.count("reading"), kinds.count("validated"), kinds.count("stage_ended")) == (9, 3, 2)
    assert events[-1] == {
        "event": "finished", "step": 9, "folder": str(trained.folder), "why": "complete",
        "weights": str(trained.folder / "weights/last.safetensors"), "report": str(trained.folder / "report.md"),
    }  # fmt: skip
    readings = [event for event in events if event["event"] == "reading"]
    assert [event["step"] for event in readings] == list(range(1, 10))
    assert [event["stage"] for event in readings] == ["psnr"] * 6 + ["gan"] * 3
    assert readings[0]["values"]["loss/pixel"] > 0
    told = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in told] == kinds
    assert "complete: 9 steps" in trained.err.splitlines()
    assert trained.err.splitlines()[-1].startswith("use them with: srup upscale -m ")


def test_the_presets_are_listed(srup: Any) -> None:
    outcome = srup("train", "--list-presets")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.out.splitlines() if not line.startswith(" ")] == preset_names()
    outcome = srup("train", "--list-presets", "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(event["event"], event["name"]) for event in events] == [("preset", name) for name in preset_names()]
    assert events[0]["summary"]


def test_as_typed_it_trains_on_what_was_prepared_last(srup: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it stops when its time is over, with weights and a report; then it goes on and ends as if it had not."""
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: Path("home").absolute())
    shutil.copytree(data, "home/data/train")
    outcome = srup("train", *QUICK, "--max-hours", "0")
    assert outcome.code == 0
    assert "stopped after --max-hours after 1 steps" in outcome.out
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("quick-")
    assert "It stopped because its time was over. 1 of 9 steps" in (folder / "report.md").read_text()
    assert load_weights(folder / "weights/last.safetensors").architecture == "compact"


def _interrupt(monkeypatch: pytest.MonkeyPatch, number: int, step: int) -> None:
    """Let a signal come while a run records a step."""
    record = Recorder.record

    def recording(self: Recorder, event: Event) -> None:
        record(self, event)
        if isinstance(event, Reading) and event.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Recorder, "record", recording)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_goes_on(
    number: int, code: int, srup: Any, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the one case at the beginning, in the other in the second stage with a damaged checkpoint."""
    step = 3 if number == signal.SIGINT else 8
    with monkeypatch.context() as patch:
        _interrupt(patch, number, step)
        outcome = srup("train", *QUICK, "--data", trained.data, "-o", "run")
    assert (outcome.code, "error" in outcome.err) == (code, False)
    assert f"stopped on request after {step} steps" in outcome.out
    assert "go on with: srup train --resume run" in outcome.out
    assert f"It stopped because it was told to. {step} of 9 steps" in Path("run/report.md").read_text()
    if step == 8:
        newest = Path("run/checkpoints/step-000000008.pt")
        newest.write_bytes(newest.read_bytes()[:1000])
    outcome = srup("train", "--resume", "run")
    assert outcome.code == 0
    assert ("warning: passed over: run/checkpoints/step-000000008.pt is damaged" in outcome.err) == (step == 8)
    assert same(last(Path("run")), last(trained.folder))
    assert same(load_file("run/weights/best.safetensors"), load_file(trained.folder / "weights/best.safetensors"))


def test_sigterm_from_outside(trained: Trained) -> None:
    program = "from upscaler.cli.main import run; run()"
    command = [sys.executable, "-c", program, "train", *QUICK, "--iterations", "100000", "--set", "validation.every=0"]
    command += ["--data", str(trained.data), "-o", "run", "--set", "records.readings=100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not Path("run/checkpoints/step-000000002.pt").exists():
        time.sleep(0.01)
    process.terminate()
    out, _ = process.communicate()
    assert process.returncode == 143, out
    assert "stopped on request" in out
    assert "It stopped because it was told to." in Path("run/report.md").read_text()
    assert Path("run/weights/last.safetensors").exists()


def test_an_alarm_can_stop_a_run(srup: Any, data: Path) -> None:
    outcome = srup(
        "train", *QUICK, "--data", data, "-o", "run", "--on-alarm", "stop", "--set", "generator.learning_rate=1e12"
    )
    assert outcome.code == 1
    assert "severe alarm" in outcome.err
    assert "stopped by an alarm" in outcome.out
    assert "It was stopped by an alarm." in Path("run/report.md").read_text()


def test_init_skips_the_first_stage(srup: Any, trained: Trained) -> None:
    weights = trained.folder / "weights/psnr.safetensors"
    outcome = srup("train", *QUICK, "--data", trained.data, "-o", "run", "--init", weights, "--max-hours", "0")
    assert outcome.code == 0
    assert "step 6: start, 9 steps in all" in outcome.err
    assert "stopped after --max-hours after 7 steps" in outcome.out
    origin = load_weights(Path("run/weights/last.safetensors")).metadata
    assert (origin["stage"], origin["parents"]) == ("gan, 1 of 3 steps", load_weights(weights).digest)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a --preset, or a run to --resume"),
        (("--resume", "run", "-o", "other"), "leave -o and --init out"),
        (("--resume", "run", "--init", "photo"), "leave -o and --init out"),
        (("--preset", "quick", "--iterations", "0"), "--iterations"),
        (("--preset", "quick", "--max-hours", "-1"), "--max-hours"),
        (("--preset", "quick", "--on-alarm", "panic"), "--on-alarm"),
        (("--preset", "quick", "--seed", "-1"), "--seed"),
        (("quick",), "unexpected extra argument"),
    ],
)
def test_wrong_command_lines(srup: Any, arguments: tuple[str, ...], words: str) -> None:
    outcome = srup("train", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_under_torchrun_the_folder_is_named(srup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = srup("train", "--preset", "quick")
    assert (outcome.code, "under torchrun name the folder of the run with -o" in outcome.err) == (2, True)


def test_torchrun_may_give_the_same_command_again(
    srup: Any, trained: Trained, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    outcome = srup("train", *QUICK, "--data", trained.data, "-o", copy)
    assert outcome.code == 0
    assert "complete" in outcome.out
    assert "start" not in outcome.err
    refused(srup("train", *QUICK, "--seed", "1", "--data", trained.data, "-o", copy), "has another configuration")


def refused(outcome: Any, words: str, code: int = 1) -> None:
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "esrgn"), "there is no preset 'esrgn'; did you mean esrgan"),
        (("--set", "data.btach=8"), "there is no setting data.btach; did you mean data.batch"),
        (("--set", "data.batch=x"), "data.batch: Expected int, got str"),
        (("--set", "discriminator.kind=vgq"), "'vgq' is none of none, vgg, unet, patch"),
        (("--config", "missing.toml"), "cannot read missing.toml: No such file"),
        (("--set", "data.patch=30"), "data.patch 30 is no multiple of the scale, 4"),
        (("--set", "scale=9"), "scale: Expected int <= 8"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(srup: Any, data: Path, arguments: tuple[str, ...], words: str) -> None:
    refused(srup("train", *QUICK, "--data", data, "-o", "run", *arguments), words, 2)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "missing"), "there is no training set in missing; make one with 'srup prepare-data'"),
        (("--val", "missing"), "missing"),
        (("--set", "data.patch=128"), "take a smaller patch, as with --set data.patch=64, or"),
        (("--set", "gan.data.patch=12"), "a patch discriminator judges pictures from 16 x 16 pixels"),
        (("--set", "data.lr=stored"), "holds no LR pictures for x4; store some with 'srup prepare-data --scale 4'"),
        (("--set", "data.degradation=bicubik"), "no degradation is called 'bicubik'; did you mean bicubic"),
        (("--set", "network.settings.featurs=4"), "no setting network.settings.featurs; did you mean features?"),
        (("--set", "network.settings.scale=2"), "no setting network.settings.scale"),
        (("--set", "network.settings.features=x"), "network.settings.features: Expected `int`, got `str`"),
        (("--set", "network.settings.features=0"), "network.settings: Compact needs at least one feature"),
        (("--set", "network.settings.activation=elu"), "network.settings.activation: Invalid enum value 'elu'"),
        (("--set", "losses.feature_weight=1", "--set", "perceptual.file=vgg.pth"), "vgg.pth: No such file"),
        (
            ("--set", "losses.feature_weight=1", "--set", "perceptual.layers={conv5_9 = 1}"),
            "vgg19 has no layer conv5_9; did you mean",
        ),
        (
            ("--set", "losses.feature_weight=1", "--set", "perceptual.network=vgg16"),
            "vgg16 has no layer conv5_4; did you mean",
        ),
        (
            ("--set", "losses.feature_weight=1", "--set", "perceptual.layers={pool5 = 1}", "--set", "data.patch=16"),
            "pool5 needs patches from 32 pixels; take a larger data.patch",
        ),
        (
            ("--set", "gan.stabilisers.shift=20"),
            "is shown 12; take a larger data.patch or a smaller stabilisers.shift",
        ),
        (
            ("--set", "gan.discriminator.kind=vgg", "--set", "gan.data.accumulate=2"),
            "needs two pairs at a time below 64 pixels",
        ),
        (
            ("--set", "losses.texture_weight=1", "--set", "perceptual.texture_patch=6"),
            "perceptual.texture_patch 6 must be a multiple of 4 for relu3_1",
        ),
        (("--set", "gan.engine.checkpointing=true"), "for networks of blocks, and a compact has none"),
        (("--device", "cuda:7"), "cuda:7 is not there"),
        (("--device", "gpu"), "no kind of device called 'gpu'"),
        (("--init", "missing.pth"), "missing.pth"),
        (("-o", "file/run"), "cannot write file/run: Not a directory"),
        (("-o", "file"), "file is a file; -o takes a new or empty folder"),
    ],
)  # fmt: skip
def test_orders_that_cannot_be_carried_out(srup: Any, data: Path, arguments: tuple[str, ...], words: str) -> None:
    Path("file").touch()
    refused(srup("train", *QUICK, "--data", data, "-o", "run", *arguments), words)
    assert not Path("run").exists()


def test_without_data_it_says_what_to_run(srup: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: Path("home"))
    refused(srup("train", *QUICK), "there is no training set in home/data/train; make one with 'srup prepare-data'")
    outcome = srup("train", *QUICK, "--data", photos)
    refused(outcome, f"{photos} is no training set; make one of it with 'srup prepare-data {photos}'")
    assert not Path("runs").exists()


def test_lr_pictures_of_another_scale(srup: Any, photos: Path) -> None:
    assert srup("prepare-data", photos, "-o", "set", "--degradation", "bicubic", "--scale", "2").code == 0
    outcome = srup("train", *QUICK, "--data", "set", "--set", "data.lr=stored")
    refused(
        outcome,
        "this training set holds no LR pictures for x4 but for x2; store some with 'srup prepare-data --scale 4'",
    )


def test_weights_of_another_network(srup: Any, data: Path, nearest: Path) -> None:
    outcome = srup("train", *QUICK, "--data", data, "-o", "run", "--init", nearest)
    refused(outcome, "--init is a compact and the run trains a compact (features 2, not 4; convolutions 0, not 1)")
    network = RRDBNet(features=2, growth=2, blocks=1)
    save_weights(Path("w.safetensors"), network.architecture, network.settings(), network.state_dict())
    outcome = srup("train", *QUICK, "--data", data, "-o", "run", "--init", "w.safetensors")
    refused(outcome, "--init is a rrdbnet and the run trains a compact (another architecture)")
    assert not Path("run").exists()


def test_a_folder_that_holds_a_run(srup: Any, trained: Trained) -> None:
    before = last(trained.folder)
    outcome = srup("train", *QUICK, "--data", trained.data, "-o", trained.folder)
    refused(outcome, f"{trained.folder} holds a run; go on with --resume {trained.folder}, or use another -o")
    assert same(last(trained.folder), before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "gan.data.batch=4"), "has another configuration: "),
        (("--seed", "3"), "has another configuration: seed is 0, not 3"),
        (("--preset", "psnr"), "has another configuration: preset is quick, not psnr"),
        (("--iterations", "10"), "has another configuration: "),
    ],
)
def test_a_run_goes_on_with_its_own_configuration(
    srup: Any, trained: Trained, arguments: tuple[str, ...], words: str
) -> None:
    outcome = srup("train", "--resume", trained.folder, *arguments)
    refused(outcome, words)
    assert "leave the settings out to go on with it, or begin another run with --init" in outcome.err


def test_a_run_that_is_complete_stays_so(srup: Any, copy: Path) -> None:
    """Its configuration may be said again."""
    before = last(copy)
    outcome = srup("train", "--resume", copy, *QUICK)
    assert outcome.code == 0
    assert "complete: 9 steps" in outcome.out
    assert same(last(copy), before)


def test_a_run_that_was_killed_before_its_report_gets_one(srup: Any, copy: Path) -> None:
    (copy / "report.md").unlink()
    assert srup("train", "--resume", copy).code == 0
    report = (copy / "report.md").read_text()
    assert "It is complete. 9 of 9 steps" in report
    assert "mean over 1 of 1 pictures" in report


def test_a_run_goes_on_with_its_own_training_set(srup: Any, trained: Trained, photos: Path) -> None:
    assert srup("prepare-data", photos / "0.png", "-o", "other").code == 0
    outcome = srup("train", "--resume", trained.folder, "--data", "other")
    refused(outcome, "other is not the training set that the run was begun with")


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")


def _damage_checkpoints(folder: Path) -> None:
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"PK")


def _writing(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "there is no run in copy; begin one with --preset"),
        (_damage_checkpoints, "step-000000009.pt is damaged or no checkpoint; begin another run in another folder"),
        (_writing("origin.json", "[]"), "copy/origin.json is damaged or cannot be read"),
        (_writing("origin.json", '{"data": 3}'), "copy/origin.json is damaged or cannot be read"),
        (_writing("origin.json", "{"), "copy/origin.json is damaged or cannot be read"),
        (_writing("config.toml", "seed ="), "copy/config.toml is no TOML file"),
        (_writing("config.toml", "seed = 3"), "copy/config.toml is damaged, or of another version of srup: "),
    ],
)
def test_a_run_that_cannot_go_on(srup: Any, copy: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(copy)
    refused(srup("train", "--resume", copy), words)


def test_a_run_that_was_killed_before_a_checkpoint_begins_again(srup: Any, copy: Path, trained: Trained) -> None:
    _remove_checkpoints(copy)
    outcome = srup("train", "--resume", copy)
    assert outcome.code == 0
    assert "step 0: start, 9 steps in all" in outcome.err
    assert (copy / "weights/last.safetensors").read_bytes() == (
        trained.folder / "weights/last.safetensors"
    ).read_bytes()


def test_what_it_was_given_to_begin_with_is_not_forgotten(srup: Any, trained: Trained) -> None:
    weights = trained.folder / "weights/psnr.safetensors"
    arguments = (*QUICK, "--data", trained.data, "-o", "run", "--init", weights, "--max-hours", "0")
    assert srup("train", *arguments).code == 0
    _remove_checkpoints(Path("run"))
    refused(srup("train", "--resume", "run"), "killed before its first checkpoint; begin it again elsewhere")


def test_a_run_goes_on_from_the_weights_it_was_given_alone(srup: Any, data: Path, trained: Trained) -> None:
    weights = trained.folder / "weights/psnr.safetensors"
    one_stage = ("--preset", "compact-psnr", *TINY, "--iterations", "4", "--data", data, "--init", weights)
    for folder in ("whole", "run"):
        assert srup("train", *one_stage, "-o", folder).code == 0
    remove_after(Path("run/checkpoints"), 0)
    outcome = srup("train", "--resume", "run")
    assert (outcome.code, "step 0: start, 4 steps in all" in outcome.err) == (0, True)
    assert same(last(Path("run")), last(Path("whole")))


def test_half_written_files_of_a_killed_run_are_removed(srup: Any, copy: Path) -> None:
    remove_after(copy / "checkpoints", 8)
    part = copy / "checkpoints/.srup-0123456789abcdef.part"
    part.touch()
    assert srup("train", "--resume", copy).code == 0
    assert not part.exists()


def test_two_do_not_train_in_one_folder(srup: Any, copy: Path) -> None:
    remove_after(copy / "checkpoints", 8)
    with FileLock(copy / ".lock"):
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        refused(srup("train", "--resume", copy), "another srup train is at work in copy")
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_picture_that_cannot_be_measured_is_named(srup: Any, trained: Trained, photos: Path) -> None:
    shutil.copytree(photos, "val")
    Path("val/broken.png").write_text("no picture")
    outcome = srup("train", *QUICK, "--data", trained.data, "-o", "run", "--val", "val", "--max-hours", "0")
    assert outcome.code == 0
    assert "warning: left out of validation: " in outcome.err
    assert "broken.png" in outcome.err


def test_help_imports_no_torch() -> None:
    program = (
        "import sys\nfrom upscaler.cli.main import app\n"
        "try: app(['train', '--help'])\nexcept SystemExit: print('|', *sys.modules)"
    )
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    words, _, modules = done.stdout.partition("|")
    assert "--on-alarm warn|rollback|stop".partition("|")[0] in words
    assert not {"torch", "numpy", "msgspec", "pyvips", "PIL", "rich.table"} & set(modules.split())


def test_the_page_on_training_has_every_preset_and_group() -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d, +]+) \|", page, re.MULTILINE))
    assert sorted(rows) == preset_names()
    for name, steps in rows.items():
        told = " + ".join(f"{stage.iterations:,}" for stage in load_config(name).stages)
        assert steps == told, name
    for group in (*Stage.__struct_fields__, *Config.__struct_fields__):
        assert f"`{group}`" in page or group in ("name", "stages", "preset", "summary"), group
