"""Steps per second of `srup train` and of a plain training loop: `python -m tests.benchmarks.training`.

Both train the same networks with the same losses and batches, each in a process of its own with the same number of
threads, and take turns. What was measured becomes a line of `training.jsonl` in the folder of results and is not
measured again; the table is made of that file.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.benchmarks.records import Records, arguments, environment, row, wanted
from tests.benchmarks.timed import MeasuringError
from tests.benchmarks.workers import Worker

RUNS = {"compact-psnr": (10, 5), "esrgan": (1, 3)}
"""Presets, of which the last stage is measured: steps in a turn, turns."""
WAYS = ("plain", "srup")


def measure(records: Records, folder: Path, name: str, rounds: int | None, threads: int) -> None:
    """A preset, by both ways in turns."""
    steps, turns = RUNS[name]
    case = {"preset": name, "folder": str(folder), "steps": steps}
    taken: dict[str, list[Any]] = {way: [] for way in WAYS}
    waited = {}
    module = "tests.benchmarks.training_loops"
    try:
        with (
            closing(Worker(module, {"way": "plain", **case}, environment(threads))) as plain,
            closing(Worker(module, {"way": "srup", **case}, environment(threads))) as srup,
        ):
            workers = {"plain": plain, "srup": srup}
            for _ in range(rounds or turns):
                for way, worker in workers.items():
                    taken[way].append(worker.measure())
            for way, worker in workers.items():
                waited[way] = worker.ask("waited") / sum(each.seconds for each in taken[way])
    except MeasuringError as error:
        records.add(name, failed=str(error))
        print(f"{name} failed: {error}", file=sys.stderr)
        return
    records.add(
        name,
        seconds={way: [each.seconds / steps for each in taken[way]] for way in WAYS},
        memory={way: max(each.memory for each in taken[way]) for way in WAYS},
        waited=waited,
        threads=threads,
        versions=srup.versions,
    )


def table(records: Records) -> Iterator[str]:
    """Markdown, of all that was measured."""
    yield row(
        "",
        "steps",
        "plain, s a step",
        "srup, s a step",
        "srup is faster by",
        "waiting, plain",
        "srup",
        "MB, plain",
        "srup",
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, (steps, _) in RUNS.items():
        if record := records[name]:
            plain, srup = (record["seconds"][way] for way in WAYS)
            faster = statistics.median(a / b for a, b in zip(plain, srup, strict=True))
            times = [f"{statistics.median(each):.3g}" for each in (plain, srup)]
            waits = [f"{record['waited'][way]:.1%}" for way in WAYS]
            memory = [f"{record['memory'][way] / 1e6:.0f}" for way in WAYS]
            yield row(name, steps * len(plain), *times, f"{faster:.2f}", *waits, *memory)
        elif reason := records.why_not(name):
            yield row(name, reason, "", "", "", "", "", "", "")
    yield ""
    yield from records.origin()


def main() -> None:
    options = arguments(__doc__).parse_args()
    folder = options.results / "training"
    records = Records(options.results / "training.jsonl")
    left = [name for name in RUNS if wanted(name, options.only) and not records[name]]
    if left and not (folder / "set").exists():
        subprocess.run([sys.executable, "-m", "tests.benchmarks.training_data", str(folder)], check=True)
    for name in left:
        print(name, file=sys.stderr)
        measure(records, folder, name, options.rounds, options.threads)
    print("\n".join(table(records)))


if __name__ == "__main__":
    main()
