"""Processes that measure one thing each, when they are told to.

Between measurements a worker is stopped, threads that wait in a loop included, so no two ever compute at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.timed import Measured, MeasuringError

_SETTLING = 0.05  # seconds for what runs on after an answer: threads that wait in a loop, workers that read ahead
_ENDING = 10  # seconds
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class Worker:
    """A process that runs ``serve``. It is ready to be measured when this returns.

    Raises:
        MeasuringError: here and later, the process ended.
    """

    def __init__(self, module: str, case: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", module, json.dumps(case)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions: dict[str, str] = self._answer()
        self._stop()

    def close(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def measure(self) -> Measured:
        """One measurement; the peak is that of the process so far."""
        seconds, memory = self.ask("measure")
        return Measured(seconds, memory)

    def ask(self, order: str) -> Any:
        """What the process answers to this line."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            print(order, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise MeasuringError("the process has ended") from None
        answer = self._answer()
        self._stop()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise MeasuringError("killed, probably out of memory" if code == -signal.SIGKILL else f"exit code {code}")
        return json.loads(line)

    def _stop(self) -> None:
        time.sleep(_SETTLING)
        self._process.send_signal(signal.SIGSTOP)


def serve(versions: Mapping[str, str], work: Callable[[], None], orders: Mapping[str, Callable[[str], Any]]) -> None:
    """In the process: answer orders until stdin ends.

    Args:
        versions: of what is measured; the first answer.
        work: what ``measure`` measures.
        orders: what else may be asked: the first word of a line, and what answers the rest.
    """
    _answer(versions)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "measure":
            start = time.perf_counter()
            work()
            _answer([time.perf_counter() - start, peak_memory()])
        else:
            _answer(orders[word](rest))


def begin() -> None:
    """In the process, before anything that may print is imported: keep stdout for answers.

    If memory runs out, the system is to end this process and no other. It also ends with its parent, stopped or not.
    """
    global _answers
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    Path("/proc/self/oom_score_adj").write_text("1000")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_answers = sys.stdout


def _answer(value: Any) -> None:
    print(json.dumps(value), file=_answers, flush=True)


def peak_memory() -> int:
    """Bytes of RAM that this process held at most, counted by Linux since it began."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
