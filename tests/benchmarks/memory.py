"""Peak memory of an upscaling against what its plan predicted: `python tests/benchmarks/memory.py`.

Every case runs in a process of its own on a picture that is made band by band, so that what the process holds at
its peak, less what it held before, is the upscaling's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

CASES: tuple[dict[str, Any], ...] = (
    {"network": "compact", "height": 512, "width": 512},
    {"network": "compact", "height": 1500, "width": 1500},
    {"network": "compact", "height": 1500, "width": 1500, "memory": 1_000_000_000},
    {"network": "compact", "height": 1500, "width": 1500, "memory": 1_000_000_000, "scale": 2.5, "colour_fix": True},
    {"network": "rrdbnet", "height": 256, "width": 256},
    {"network": "rrdbnet", "height": 600, "width": 600},
    {"network": "rrdbnet", "height": 600, "width": 600, "memory": 800_000_000},
    {"network": "rrdbnet", "height": 300, "width": 300, "tta": True},
    {"network": "unshuffled", "height": 800, "width": 800},
    {"network": "residual", "height": 800, "width": 800},
    {"network": "residual", "height": 800, "width": 800, "tta": True},
    {"network": "residual", "height": 200, "width": 200, "scale": 16, "memory": 900_000_000},
)


@dataclass(frozen=True)
class Stripes:
    """A picture that takes no memory."""

    height: int
    width: int
    channels = 3
    depth = 8

    def bands(self, rows: int) -> Iterator[Any]:
        for top in range(0, self.height, rows):
            yield np.full((min(rows, self.height - top), self.width, 3), top % 256, np.uint8)


def measure(case: dict[str, Any]) -> dict[str, float]:
    """One case, in this process: bytes predicted and bytes used."""
    from upscaler.model.compact import Compact
    from upscaler.model.device import resident_memory
    from upscaler.model.residual import Residual
    from upscaler.model.rrdbnet import RRDBNet
    from upscaler.model.upscaler import Size, Upscaler

    networks: dict[str, Any] = {
        "compact": lambda: Compact(),
        "residual": lambda: Residual(blocks=2),
        "rrdbnet": lambda: RRDBNet(blocks=2),
        "unshuffled": lambda: RRDBNet(blocks=2, scale=2, unshuffle=2),
    }
    upscaler = Upscaler(
        networks[case["network"]](),
        device="cpu",
        memory=case.get("memory"),
        tta=case.get("tta", False),
        colour_fix=case.get("colour_fix", False),
    )
    upscaler.upscale(np.zeros((16, 16, 3), np.uint8))
    source, size = Stripes(case["height"], case["width"]), Size(case.get("scale"))
    before = resident_memory()
    estimate = upscaler.estimate(source, size)
    start = time.perf_counter()
    for _ in upscaler.bands(source, size, estimate):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tiles": estimate.passes[0].tiles,
        "predicted": estimate.memory,
        "used": peak - before,
        "process": peak,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    print("| network | picture | options | tiles | predicted MB | used MB | ratio | whole process MB | s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for case in CASES:
        command = [sys.executable, __file__, json.dumps(case)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        options = ", ".join(f"{key} {case[key]}" for key in case if key not in ("network", "height", "width"))
        print(
            f"| {case['network']} | {case['width']}x{case['height']} | {options} | {found['tiles']} "
            f"| {found['predicted'] / 1e6:.0f} | {found['used'] / 1e6:.0f} | {found['used'] / found['predicted']:.2f} "
            f"| {found['process'] / 1e6:.0f} | {found['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
