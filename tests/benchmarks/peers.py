"""srup against other ways to run the same network on the same picture: `python -m tests.benchmarks.peers`.

Every peer computes in a process of its own with the same number of threads, one at a time, in turns. What was measured
becomes a line of `peers.jsonl` in the folder of results and is not measured again; the tables are made of that file.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.contenders import Command, Contender, Network, Task
from tests.benchmarks.records import Records, arguments, compile_kernels, row, wanted
from tests.benchmarks.timed import Measured, MeasuringError

RRDB, ANIME, COMPACT = "realesrgan-x4plus", "realesrgan-x4plus-anime", "realesr-animevideov3"
MODELS = {RRDB: "RRDBNet, 23 blocks", ANIME: "RRDBNet, 6 blocks", COMPACT: "compact 64x16"}
SMALL, MIDDLE, LARGE = "128x128", "512x512", "1500x1000"
COMMAND = f"{MIDDLE} from file to file"

ROUNDS = {
    (COMPACT, SMALL): 15,
    (COMPACT, MIDDLE): 3,
    (COMPACT, COMMAND): 3,
    (ANIME, SMALL): 5,
    (RRDB, SMALL): 2,
    (ANIME, COMMAND): 1,
    (COMPACT, LARGE): 1,
    (ANIME, MIDDLE): 1,
    (RRDB, COMMAND): 1,
    (RRDB, MIDDLE): 1,
    (ANIME, LARGE): 1,
    (RRDB, LARGE): 1,
}
"""Models on pictures, the shortest first, and how often each peer is measured."""

SRUP, UPSCALE = "srup", "srup upscale"
WAYS: dict[str, tuple[str, Callable[[Task], Contender]]] = {
    "PyTorch": ("torch", partial(Network, package="torch", tile=False, winograd=False)),
    "PyTorch, tiles": ("torch", partial(Network, package="torch", tile=True, winograd=False)),
    "onnxruntime": ("onnxruntime", partial(Network, package="onnxruntime", tile=False, winograd=False)),
    "OpenVINO": ("openvino", partial(Network, package="openvino", tile=False, winograd=False)),
    "ncnn": ("ncnn", partial(Network, package="ncnn", tile=False, winograd=False)),
    "ncnn, tiles": ("ncnn", partial(Network, package="ncnn", tile=True, winograd=False)),
    SRUP: ("numba", partial(Network, package="srup", tile=False, winograd=True)),
    "srup without Winograd": ("torch", partial(Network, package="srup", tile=False, winograd=False)),
    "Real-ESRGAN's script": ("torch", partial(Command, srup=False)),
    UPSCALE: ("numba", partial(Command, srup=True)),
}
"""By their names in the tables: the package that each needs, and how it is made ready."""

ANOTHER_PICTURE = 2
"""Levels of 255; a peer that differs by more does not do the same."""


def peers_of(model: str, picture: str) -> list[str]:
    """Who is measured there. What the first one makes is what the others are compared with.

    With an RRDBNet the large picture is cut by those who can: whole it takes more than 24 GB.
    """
    if picture == COMMAND:
        return ["Real-ESRGAN's script", UPSCALE]
    if picture == LARGE and model != COMPACT:
        return [SRUP, "PyTorch, tiles", "ncnn, tiles"]
    tiles = [] if picture == SMALL else ["PyTorch, tiles"]
    return ["PyTorch", *tiles, "onnxruntime", "OpenVINO", "ncnn", SRUP, "srup without Winograd"]


def case_of(model: str, picture: str, name: str) -> str:
    return f"{model}/{picture}/{name}"


def measure(records: Records, task: Task, cases: dict[str, str], rounds: int) -> None:
    """Measure peers in turns.

    Args:
        task: the network and the picture.
        cases: names of peers, and what their measurements are called.
    """
    taken: dict[str, list[Measured]] = {name: [] for name in cases}
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for turn in range(rounds):
            for name in list(taken):
                try:
                    if name not in contenders:
                        contenders[name] = stack.enter_context(closing(WAYS[name][1](task)))
                    taken[name].append(contenders[name].measure())
                    if turn < rounds - 1:
                        continue
                    difference = compared(contenders[name].result(), task, cases[name])
                except MeasuringError as error:
                    records.add(cases[name], failed=str(error))
                    del taken[name]
                    print(f"  {name} failed: {error}", file=sys.stderr)
                    continue
                contenders[name].close()
                records.add(
                    cases[name],
                    seconds=[each.seconds for each in taken[name]],
                    memory=max(each.memory for each in taken[name]),
                    difference=difference,
                    threads=task.threads,
                    versions=contenders[name].versions,
                )
                middle = statistics.median(each.seconds for each in taken[name])
                print(f"  {name}: {middle:.2f} s", file=sys.stderr)


def measure_all(records: Records, folder: Path, only: list[str], threads: int, always: int | None) -> None:
    """Measure the cases that a pattern asks for and that are not there, in as many rounds as is sensible or given."""
    needed = {package for package, _ in WAYS.values()}
    missing = {package for package in needed if find_spec(package) is None}
    if missing:
        print(f"not measured, as it is not installed: {', '.join(sorted(missing))}", file=sys.stderr)
    compile_kernels(threads)
    for (model, picture), rounds in ROUNDS.items():
        names = [name for name in peers_of(model, picture) if WAYS[name][0] not in missing]
        cases = {name: case_of(model, picture, name) for name in names}
        cases = {name: case for name, case in cases.items() if wanted(case, only) and not records[case]}
        if not cases or (weights := exported(folder / "models", model, needed - missing)) is None:
            continue
        print(f"{model}, {picture}", file=sys.stderr)
        source = picture_of(folder / "pictures", picture.split()[0])
        start = time.monotonic()
        measure(records, Task(weights, source, threads, folder), cases, always or rounds)
        print(f"  {time.monotonic() - start:.0f} s in all", file=sys.stderr)


def compared(result: Any, task: Task, case: str) -> int | None:
    """The largest difference, in levels of 255, to the first peer's picture, which is kept."""
    model, picture, name = case.split("/")
    kept = task.folder / f"{model}-{picture}.npy"
    if name == peers_of(model, picture)[0]:
        np.save(kept, result)
    if not kept.exists():
        return None
    first = np.load(kept, mmap_mode="r")
    rows = range(0, len(first), 256)
    return max(int(np.abs(first[top : top + 256] - result[top : top + 256].astype(np.int16)).max()) for top in rows)


def picture_of(folder: Path, size: str) -> Path:
    """The sample photograph in that size."""
    import pyvips

    path = folder / f"{size}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        width, height = map(int, size.split("x"))
        sample = Path(__file__).parents[2] / "upscaler" / "images" / "sample.png"
        pyvips.Image.thumbnail(str(sample), width, height=height, size="force").write_to_file(str(path))
    return path


def exported(folder: Path, model: str, packages: set[str]) -> Path | None:
    """The model's files for these packages, without a suffix; None where it is not to be had."""
    path = folder / (model if "x4" in model else f"{model}-x4")
    for form, package in (("pth", "torch"), ("onnx", "onnxruntime"), ("ncnn", "ncnn")):
        suffix = ".param" if form == "ncnn" else f".{form}"
        if package in packages and not path.with_suffix(suffix).exists():
            command = [sys.executable, "-m", "upscaler", "models", "export", model, "--to", form, "-o", str(folder)]
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                return None
    return path


def tables(records: Records) -> Iterator[str]:
    """Markdown, of all that was measured."""
    for model, title in MODELS.items():
        for picture in (SMALL, MIDDLE, LARGE, COMMAND):
            names = peers_of(model, picture)
            found = {name: record for name in names if (record := records[case_of(model, picture, name)])}
            ours = found.get(UPSCALE if picture == COMMAND else SRUP)
            if not found:
                continue
            yield f"\n{title} ({model}), {picture}. Differences are to {names[0]}.\n"
            yield row("", "s", "rounds", "srup takes", "peak MB", "srup takes", "largest difference")
            yield "|---|---:|---:|---:|---:|---:|---:|"
            for name in names:
                if record := found.get(name):
                    yield line(name, record, ours)
                elif reason := records.why_not(case_of(model, picture, name)):
                    yield row(name, reason, "", "", "", "", "")
    yield ""
    yield from records.origin()


def line(name: str, record: dict[str, Any], ours: dict[str, Any] | None) -> str:
    """A row of a table; ratios are those of srup to this peer, of turns that were made one after another."""
    time_taken, memory_taken = "", ""
    if ours and ours is not record:
        turns = zip(ours["seconds"], record["seconds"], strict=False)
        time_taken = f"{statistics.median(a / b for a, b in turns):.2f}"
        memory_taken = f"{ours['memory'] / record['memory']:.2f}"
    difference = record["difference"]
    told = "" if difference is None else f"{difference}{' (another picture)' * (difference > ANOTHER_PICTURE)}"
    middle = statistics.median(record["seconds"])
    return row(
        name, f"{middle:.3g}", len(record["seconds"]), time_taken, f"{record['memory'] / 1e6:.0f}", memory_taken, told
    )


def main() -> None:
    options = arguments(__doc__).parse_args()
    records = Records(options.results / "peers.jsonl")
    if options.only:
        measure_all(records, options.results, options.only, options.threads, options.rounds)
    print("\n".join(tables(records)))


if __name__ == "__main__":
    main()
