"""The folder of a training run: what lies where in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Names of everything in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The effective configuration, as TOML."""
        return self.path / "config.toml"

    @property
    def origin(self) -> Path:
        """Where the data of the run are, as JSON."""
        return self.path / "origin.json"

    @property
    def log(self) -> Path:
        """One line for each event, for people."""
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        """One JSON object for each event, for programs."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """A folder of TensorBoard's."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Everything needed to go on, by step."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Crops of validation pictures, by picture and step."""
        return self.path / "samples"

    @property
    def report(self) -> Path:
        """What happened, with plots and pictures."""
        return self.path / "report.md"

    def weights(self, name: str) -> Path:
        """The averaged generator: ``last``, ``best``, or a stage's name."""
        return self.path / "weights" / f"{name}.safetensors"
