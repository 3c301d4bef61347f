"""How time and memory of `srup upscale` grow with the picture, and what it takes to start:
`python -m tests.benchmarks.growth`.

Every measurement is a process of its own, from start to end, files read and written. What was measured becomes a line
of `growth.jsonl` in the folder of results and is not measured again; the tables are made of that file.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.records import Records, arguments, compile_kernels, environment, row, versions, wanted
from tests.benchmarks.timed import MeasuringError, timed

EDGES = {"0.25": 500, "1": 1000, "4": 2000, "16": 4000, "64": 8000}
"""Megapixels of the picture before, and its edge."""
PLANS = {"default": (), "1GB": ("--memory", "1GB")}
SMALL_ROUNDS, STARTS = 3, 5
_UPSCALE = ["-m", "upscaler", "upscale", "-m", "realesr-animevideov3"]
"""With Compact, 64 features and 16 convolutions."""
_START = {
    "help": ["-m", "upscaler", "--help"],
    "import torch": ["-c", "import torch"],
    "64x64": _UPSCALE,
}


def picture_of(folder: Path, edge: int) -> Path:
    """A square of the sample photograph, as often as it takes."""
    import pyvips

    path = folder / f"{edge}.png"
    if not path.exists():
        sample = Path(__file__).parents[2] / "upscaler" / "images" / "sample.png"
        image = pyvips.Image.new_from_file(str(sample))
        times = -(-edge // image.height)
        image.replicate(times, times).crop(0, 0, edge, edge).write_to_file(str(path), compression=1)
    return path


def cases(rounds: int | None) -> Iterator[tuple[str, list[str], int | None, int]]:
    """Names, arguments of Python, the edge of the picture to upscale, and how often."""
    for name, command in _START.items():
        yield f"start/{name}", command, 64 if name == "64x64" else None, rounds or STARTS
    for megapixels, edge in EDGES.items():
        for plan, options in PLANS.items():
            command = [*_UPSCALE, *options]
            yield f"growth/{megapixels}/{plan}", command, edge, rounds or (SMALL_ROUNDS if edge <= 1000 else 1)


def measure(
    records: Records, folder: Path, case: str, command: list[str], edge: int | None, rounds: int, threads: int
) -> None:
    result = folder / "last.png"
    if edge is not None:
        command = [*command, str(picture_of(folder, edge)), "-o", str(result), "--overwrite", "--device", "cpu"]
    try:
        taken = [timed([sys.executable, *command], environment(threads)) for _ in range(rounds)]
    except MeasuringError as error:
        records.add(case, failed=str(error))
        print(f"{case} failed: {error}", file=sys.stderr)
        return
    finally:
        result.unlink(missing_ok=True)
    seconds, memory = [each.seconds for each in taken], max(each.memory for each in taken)
    records.add(case, seconds=seconds, memory=memory, threads=threads, versions=versions("torch", "numba"))
    print(f"{case}: {statistics.median(seconds):.2f} s, {memory / 1e6:.0f} MB", file=sys.stderr)


def tables(records: Records) -> Iterator[str]:
    """Markdown, of all that was measured."""
    started = {name: records[f"start/{name}"] for name in _START}
    if all(started.values()):
        helped, torch, upscaled = (statistics.median(each["seconds"]) for each in started.values() if each)
        yield row("", "s")
        yield "|---|---:|"
        yield row("`srup --help`", f"{helped:.2f}")
        yield row("`import torch` in Python", f"{torch:.2f}")
        yield row("`srup upscale` of 64x64 pixels", f"{upscaled:.2f}")
        yield row("... beyond importing torch", f"{upscaled - torch:.2f}")
        yield ""
    yield row(
        "megapixels before", *(f"{plan}: {value}" for plan in PLANS for value in ("s", "s a megapixel", "peak MB"))
    )
    yield "|---:|" + "---:|" * 3 * len(PLANS)
    for megapixels in EDGES:
        cells: list[str] = []
        for plan in PLANS:
            case = f"growth/{megapixels}/{plan}"
            if record := records[case]:
                seconds = statistics.median(record["seconds"])
                cells += [f"{seconds:.1f}", f"{seconds / float(megapixels):.2f}", f"{record['memory'] / 1e6:.0f}"]
            else:
                cells += [records.why_not(case), "", ""]
        if any(cells):
            yield row(megapixels, *cells)
    yield ""
    yield from records.origin()


def main() -> None:
    options = arguments(__doc__).parse_args()
    records = Records(options.results / "growth.jsonl")
    folder = options.results / "growth"
    left = [each for each in cases(options.rounds) if wanted(each[0], options.only) and not records[each[0]]]
    if left:
        folder.mkdir(parents=True, exist_ok=True)
        compile_kernels(options.threads)
    for each in left:
        measure(records, folder, *each, options.threads)
    print("\n".join(tables(records)))


if __name__ == "__main__":
    main()
