"""Processes that ``torchrun`` starts share a batch, and wait for each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from upscaler.images.files import Metadata, Picture, write_picture
from upscaler.model import ranks
from upscaler.model.compact import Compact
from upscaler.model.weights import save_weights

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def test_shares_are_complete_and_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    work = list(range(7))
    assert ranks.share(work) == work
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(ranks.share(work))
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_nobody_waits_alone() -> None:
    ranks.Meeting().wait("here")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`srup upscale` of three pictures under torchrun."""
    network = Compact(features=2, convolutions=0)
    save_weights(tmp_path / "w.safetensors", network.architecture, network.settings(), network.state_dict())
    for name in "abc":
        write_picture(tmp_path / "in" / f"{name}.png", Picture(np.zeros((8, 8, 3), np.uint8), Metadata()))
    places = [str(tmp_path / name) for name in ("in", "out", "w.safetensors")]
    return [*LAUNCH, "-m", "upscaler", "upscale", places[0], "-o", places[1], "-m", places[2], "--device", "cpu"]


def test_a_folder_is_shared(command: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "c.png"}
    for line in ("process 1 of 2: 2 upscaled", "process 2 of 2: 1 upscaled"):
        assert line in ended.stdout


def test_all_refuse_what_one_would_replace(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("precious")
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert ended.returncode == 1
    assert "b.png exists; use --overwrite" in ended.stderr
    assert "forcefully" not in ended.stderr, "torchrun had to wait for a process that did not heed its signal"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_a_process_that_waits_heeds_signals(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, time\n"
        "from pathlib import Path\n"
        "from upscaler.model import ranks\n"
        "def leave(*_):\n"
        "    raise SystemExit(3)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "meeting = ranks.Meeting()\n"
        f"Path({str(tmp_path)!r}, f'here{{ranks.rank()}}').touch()\n"
        "if ranks.rank() == 1:\n"
        "    time.sleep(600)\n"
        "meeting.wait('never')\n"
    )
    launcher = subprocess.Popen([*LAUNCH, str(program)], stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 120
        while not all((tmp_path / f"here{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes = psutil.Process(launcher.pid).children()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert not psutil.wait_procs(processes, timeout=15)[1]
    finally:
        launcher.kill()
        launcher.wait()
