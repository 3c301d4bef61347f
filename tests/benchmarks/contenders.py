"""Ways to enlarge one picture with one network, each ready to be measured again and again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks.records import environment, versions
from tests.benchmarks.timed import Measured, timed
from tests.benchmarks.workers import Worker

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """A picture, a network's files without their suffix, threads, and a folder for what is written."""

    weights: Path
    picture: Path
    threads: int
    folder: Path


class Contender(Protocol):
    """What is measured; its process, if it has one, lives until it is closed."""

    versions: dict[str, str]

    def measure(self) -> Measured: ...

    def result(self) -> Pixels:
        """What the last measurement made."""
        ...

    def close(self) -> None: ...


class Network:
    """A network in a process that stays: from pixels to pixels, nothing read or written."""

    def __init__(self, task: Task, package: str, *, tile: bool, winograd: bool) -> None:
        case = {"package": package, "model": str(task.weights), "picture": str(task.picture), "tile": tile}
        more = {} if winograd else {"SRUP_WINOGRAD": "0"}
        self._worker = Worker("tests.benchmarks.runtimes", case, environment(task.threads, **more))
        self._file = task.folder / "last.npy"
        self.versions = self._worker.versions

    def measure(self) -> Measured:
        return self._worker.measure()

    def result(self) -> Pixels:
        self._worker.ask(f"save {self._file}")
        found: Pixels = np.load(self._file)
        self._file.unlink()
        return found

    def close(self) -> None:
        self._worker.close()


class Command:
    """A command that reads a picture and writes one, from the start of its process to the end."""

    def __init__(self, task: Task, *, srup: bool) -> None:
        self._result = task.folder / "last.png"
        weights, picture, result = f"{task.weights}.pth", str(task.picture), str(self._result)
        arguments = (
            ["upscaler", "upscale", picture, "-m", weights, "-o", result, "--overwrite", "--device", "cpu"]
            if srup
            else ["tests.benchmarks.plain", weights, picture, result]
        )
        self._command = [sys.executable, "-m", *arguments]
        self._environment = environment(task.threads)
        self.versions = dict(versions("torch", "numba") if srup else versions("torch"))

    def measure(self) -> Measured:
        return timed(self._command, self._environment)

    def result(self) -> Pixels:
        with Image.open(self._result) as picture:
            found = np.array(picture)
        self._result.unlink()
        return found

    def close(self) -> None:
        self._result.unlink(missing_ok=True)
