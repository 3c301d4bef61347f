"""A run that was cut off and resumed ends as if nothing had happened: the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from upscaler.training import loop
from upscaler.training.checkpoints import checkpoints_in, remove_after
from upscaler.training.layering import load_config
from upscaler.training.orders import Order
from upscaler.training.readings import Finished
from upscaler.training.runs import RunFolder
from upscaler.training.session import train
from upscaler.training.shards import PreparedSet

TINY = [
    "network.settings.features=4",
    "network.settings.convolutions=1",
    "data.patch=32",
    "data.batch=4",
    "data.workers=0",
    "records.readings=2",
    "records.checkpoints=1",
    "records.keep=100",
    "validation.every=3",
    "discriminator.features=4",
]

WAYS = {
    "everything random": [
        "gan.discriminator.kind=vgg",
        "gan.discriminator.norm=batch",
        "gan.stabilisers.instance_noise=20",
        "gan.stabilisers.label_noise=0.2",
        "gan.stabilisers.label_flips=0.1",
        "data.lr=device",
        "data.degradation=realesrgan",
        "data.shuffle_channels=true",
    ],
    "two updates, parts, growth": [
        "gan.discriminator.steps=2",
        "gan.data.accumulate=2",
        "data.patch=[[0, 32], [0.5, 48]]",
        "data.noise=5",
        "gan.stabilisers.shift=3",
        "network.settings.features=12",
        "network.settings.convolutions=2",
        "generator.optimiser=muon",
    ],
    "penalty, clipping, half precision": [
        "gan.losses.adversarial=wgan",
        "gan.losses.penalty_weight=10",
        "gan.discriminator.norm=none",
        "generator.clip=0.1",
        "generator.optimiser=sgd",
        "psnr.engine.precision=bf16",
    ],
}


def run(data: PreparedSet, folder: Path, settings: list[str], *, resume: bool = False) -> Finished:
    config = load_config("quick", settings=[*TINY, *settings], iterations=9)
    order = Order(config, RunFolder(folder), data, None, torch.device("cpu"), None, "warn")
    return train(order, init=None, resume=resume, notify=lambda _: None, warn=lambda _: None)


def told(folder: Path) -> list[dict[str, Any]]:
    """Everything that was told, without what differs from run to run."""
    events = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    for event in events:
        del event["time"]
        for name in [name for name in event.get("values", {}) if name.startswith(("speed/", "memory/"))]:
            del event["values"][name]
        for scores in (event.get("scores"), event.get("bicubic")):
            if scores:
                del scores["seconds"], scores["memory"]
    return [event for event in events if event["kind"] not in ("started", "stage_ended", "finished")]


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_a_run_can_go_on_from_every_step(
    tiny_set: PreparedSet, tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "write_report", lambda folder, *_: folder.report)
    whole = tmp_path / "whole"
    finished = run(tiny_set, whole, settings)
    assert (finished.step, finished.why) == (9, "complete")
    assert sorted(checkpoints_in(whole / "checkpoints")) == list(range(10))
    for step in (1, 6, 7):
        part = tmp_path / f"from {step}"
        shutil.copytree(whole, part)
        remove_after(part / "checkpoints", step)
        run(tiny_set, part, settings, resume=True)
        assert weights(part) == weights(whole)
        assert told(part) == told(whole)


def test_a_run_that_is_killed_goes_on_bit_for_bit(tiny_set: PreparedSet, tmp_path: Path) -> None:
    settings = ["data.workers=1", "records.checkpoints=10", "validation.every=0", "gan.stabilisers.instance_noise=10"]
    options = [option for setting in [*TINY, *settings] for option in ("--set", setting)]

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "upscaler", "train", *map(str, arguments)]

    def start(folder: Path) -> list[str]:
        return command("--preset", "quick", "--data", tiny_set.folder, "--iterations", 90, *options, "-o", folder)

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(start(whole), check=True, capture_output=True, env=environment)

    process = subprocess.Popen(start(killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    metrics = RunFolder(killed).metrics
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 66, "stage"' in metrics.read_text()):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert weights(killed) != weights(whole)
    assert not psutil.wait_procs(workers, timeout=30)[1]

    subprocess.run(command("--resume", killed), check=True, capture_output=True, env=environment)
    assert weights(killed) == weights(whole)
    assert told(killed) == told(whole)
