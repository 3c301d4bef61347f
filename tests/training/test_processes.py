"""Several processes train as one does with the whole batch, and go on when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from upscaler.model.weights import load_weights
from upscaler.training.processes import Processes, joined
from upscaler.training.runs import RunFolder
from upscaler.training.shards import PreparedSet

SETTINGS = [
    "network.settings.features=4",
    "network.settings.convolutions=1",
    "data.patch=32",
    "data.batch=8",
    "data.workers=0",
    "records.readings=2",
    "records.checkpoints=5",
    "validation.every=0",
    "gan.discriminator.features=4",
    "gan.losses.adversarial=relativistic-average",
    "gan.discriminator.norm=spectral",
    "gan.losses.adversarial_weight=1",
    "gan.losses.r1_weight=0.1",
    "gan.losses.evenness_weight=0.1",
    # Adam makes steps of one size of gradients that are all but 0, and so much of their rounding.
    "generator.optimiser=sgd",
    "generator.learning_rate=0.1",
    "discriminator.optimiser=sgd",
    "discriminator.learning_rate=0.1",
    "gan.stabilisers.instance_noise=10",
    "gan.stabilisers.shift=3",
    "gan.stabilisers.label_noise=0.1",
    "data.lr=device",
    "data.degradation=realesrgan",
]


def command(data: PreparedSet, folder: Path, iterations: int, *, processes: int = 1, restarts: int = 0) -> list[str]:
    """`srup train`, or that under torchrun."""
    options = [option for setting in SETTINGS for option in ("--set", setting)]
    arguments = ["--preset", "quick", "--data", str(data.folder), "--iterations", str(iterations), *options]
    run = ["-m", "upscaler", "train", *arguments, "-o", str(folder)]
    if processes == 1:
        return [sys.executable, *run]
    # On any free port of this machine.
    launch = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    return [sys.executable, "-m", "torch.distributed.run", *launch, *run]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def complete(arguments: list[str]) -> None:
    """Run a command to its good end."""
    ended = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert ended.returncode == 0, ended.stderr


def difference(one: Path, other: Path, before: str = "last") -> float:
    """The largest one between the weights of two runs: the last ones, or the other's of a stage."""
    a = load_weights(RunFolder(one).weights("last")).tensors
    b = load_weights(RunFolder(other).weights(before)).tensors
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def test_two_processes_train_as_one_does(tiny_set: PreparedSet, tmp_path: Path) -> None:
    for count in (1, 2):
        complete(command(tiny_set, tmp_path / str(count), 18, processes=count))
    assert difference(tmp_path / "1", tmp_path / "2") < 1e-6
    assert difference(tmp_path / "1", tmp_path / "1", before="psnr") > 1e-3


def test_a_run_goes_on_when_a_process_dies(tiny_set: PreparedSet, tmp_path: Path) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    complete(command(tiny_set, whole, 60))
    launcher = subprocess.Popen(
        command(tiny_set, hurt, 60, processes=2, restarts=1),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    metrics = RunFolder(hurt).metrics
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 8, "stage"' in metrics.read_text()):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    psutil.Process(launcher.pid).children()[-1].kill()
    _, words = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, words
    assert RunFolder(hurt).log.read_text().count(": start,") == 2
    assert difference(whole, hurt) < 1e-5


PATIENT = """
import time
from datetime import timedelta
import torch
from torch.distributed import distributed_c10d
from upscaler.training.processes import joined
distributed_c10d.default_pg_timeout = timedelta(seconds=1)
with joined(torch.device("cpu")) as processes:
    if processes.first:
        time.sleep(3)
    processes.told("word")
"""


def test_processes_wait_for_the_first_one_however_long_it_validates(tmp_path: Path) -> None:
    """Beyond PyTorch's own patience, of half an hour and here of a second."""
    program = tmp_path / "program.py"
    program.write_text(PATIENT)
    complete([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)])


def test_alone_nothing_is_shared() -> None:
    alone = Processes()
    layer = torch.nn.Linear(2, 2)
    assert alone.first
    assert alone.parallel(layer, torch.device("cpu")) is layer
    assert (alone.largest(3), alone.told("word")) == (3, "word")
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    mean = alone.mean(values)
    mean.backward()  # type: ignore[no-untyped-call]
    assert float(mean.detach()) == 2
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5]


def test_without_a_launcher_there_are_no_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as processes:
        assert processes == Processes(0, 1)
