from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from upscaler.cli import console
from upscaler.cli.main import run
from upscaler.model.compact import Compact
from upscaler.model.weights import save_weights


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Srup = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lines of progress, however slow the machine is."""
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 3600)


@pytest.fixture
def srup(capfd: pytest.CaptureFixture[str]) -> Srup:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def nearest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network that repeats every pixel four times along both axes."""
    network = Compact(features=2, convolutions=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    path = tmp_path_factory.mktemp("weights") / "nearest.safetensors"
    save_weights(path, network.architecture, network.settings(), network.state_dict())
    return path
