"""Time and peak memory of a command, process start included.

The measuring process holds next to nothing itself: what a parent holds counts as the peak of its children too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Seconds, and bytes at the peak."""

    seconds: float
    memory: int


class MeasuringError(Exception):
    """A process ended before it was measured."""


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end; what it prints on stdout is dropped.

    Raises:
        MeasuringError: its exit code is not 0.
    """
    measuring = [sys.executable, "-S", __file__, *command]
    found = subprocess.run(measuring, env=environment, stdout=subprocess.PIPE, check=True).stdout
    seconds, memory, code = json.loads(found)
    if code:
        raise MeasuringError(f"exit code {code}")
    return Measured(seconds, memory)


if __name__ == "__main__":
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    print(json.dumps([time.perf_counter() - start, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
