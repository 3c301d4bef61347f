"""What was measured, one JSON object a line, and on which machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


class Records:
    """The measurements in a file, by name; of several with one name the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._records: dict[str, dict[str, Any]] = {each["case"]: each for each in map(json.loads, lines)}

    def __getitem__(self, case: str) -> dict[str, Any] | None:
        """The measurement of that name; none where it has failed."""
        found = self._records.get(case)
        return None if found is None or "failed" in found else found

    def add(self, case: str, **values: Any) -> None:
        """Append a measurement."""
        record = {"case": case, **values, "machine": machine()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._records[case] = record

    def why_not(self, case: str) -> str:
        """Why a case has failed, or nothing."""
        return str(self._records.get(case, {}).get("failed", ""))

    def origin(self) -> Iterator[str]:
        """Where all this was measured, and with which versions: one line each, if the figures can be compared."""
        measured = [each for each in self._records.values() if "failed" not in each]
        yield from sorted({f"{each['machine']}, {each['threads']} threads" for each in measured})
        found = {f"{name} {number}" for each in measured for name, number in each["versions"].items()}
        yield ", ".join(sorted(found, key=str.lower))


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark that keeps its results."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results"), help="folder of results")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of everything that is measured")
    parser.add_argument(
        "--only",
        nargs="*",
        default=["*"],
        metavar="PATTERN",
        help="cases such as '*/512x512/*'; none: only show what there is",
    )
    parser.add_argument("--rounds", type=int, help="measurements of each case")
    return parser


def wanted(case: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch(case, pattern) for pattern in patterns)


def environment(threads: int, **more: str) -> dict[str, str]:
    """That of this process, with so many threads for all that computes."""
    count = str(threads)
    return {**os.environ, "OMP_NUM_THREADS": count, "NUMBA_NUM_THREADS": count, **more}


def compile_kernels(threads: int) -> None:
    """Let srup compile its kernels, which it does once for a user and keeps."""
    command = [sys.executable, "-c", "from upscaler.model import winograd; winograd.usable()"]
    subprocess.run(command, env=environment(threads), check=True)


def versions(*packages: str) -> Mapping[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor and the system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"
