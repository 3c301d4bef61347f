"""What happened in a run, to read: ``report.md`` with plots, pictures and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from upscaler.errors import UserError
from upscaler.images.animations import pace, write_animation
from upscaler.images.files import Metadata, open_picture, write_picture
from upscaler.images.files import Picture as PictureWithMetadata
from upscaler.images.sheets import Picture, as_rgb, crops_sheet, titled
from upscaler.model.evaluation import Scores
from upscaler.saving import whole_file
from upscaler.training.history import History
from upscaler.training.plots import Plot, write_plots
from upscaler.training.readings import Alarm, Validated
from upscaler.training.recording import sample_steps
from upscaler.training.runs import RunFolder

_MOST_FRAMES = 50
_WHY = {
    "complete": "It is complete.",
    "time": "It stopped because its time was over.",
    "signal": "It stopped because it was told to.",
    "alarm": "It was stopped by an alarm.",
}
_ROWS = (
    ("PSNR-Y, dB", "psnr_y", 2),
    ("SSIM-Y", "ssim_y", 4),
    ("PSNR, dB", "psnr_rgb", 2),
    ("SSIM", "ssim_rgb", 4),
    ("NIQE", "niqe", 2),
    ("colour drift, levels of 255", "drift", 2),
)


def write_report(folder: RunFolder, why: str, pictures: tuple[int, int] | None = None) -> Path:
    """Write ``report.md``, and its pictures into ``report/``, from what lies in the folder of a run.

    ``metrics.jsonl``, ``config.toml`` and the samples are all that it takes; what is missing is left out.

    Args:
        folder: of the run, which may have been killed.
        why: it ended: ``complete``, ``time``, ``signal``, ``alarm`` or any sentence.
        pictures: how many it was validated on, and of how many; None where that is not known.

    Returns:
        The path of ``report.md``.

    Raises:
        UserError: something cannot be read or written.
    """
    history = History.read(folder.metrics)
    drawn = folder.report.with_suffix("")
    parts = [
        _summary(folder, history, why),
        _scores(history, pictures),
        _alarms(history),
        _samples(folder, history, drawn),
        *(_plot(plot, folder) for plot in write_plots(history, drawn)),
        _configuration(folder),
    ]
    with whole_file(folder.report) as file:
        file.write("\n".join(part for part in parts if part).encode())
    return folder.report


def _summary(folder: RunFolder, history: History, why: str) -> str:
    of = f" of {history.steps:,}" if history.steps else ""
    lines = [f"# Training run {folder.path.resolve().name}", ""]
    lines += [
        f"{_WHY.get(why, why)} {history.step:,}{of} steps in {_duration(history.seconds)}" + _sessions(history),
        "",
    ]
    rows = [(f"stage {stage}", f"steps {first:,} to {last:,}") for stage, (first, last) in history.stages.items()]
    rows += [(name, f"{count:,} parameters") for name, count in history.parameters.items()]
    alarms = len(history.alarms)
    if alarms:
        rows.append(("alarms", f"{alarms}, of which {sum(alarm.severe for alarm in history.alarms)} severe"))
    if history.rollbacks:
        rows.append(("rollbacks", ", ".join(f"{each.step:,} to {each.to:,}" for each in history.rollbacks)))
    weights = [path for name in ("best", "last") if (path := folder.weights(name)).is_file()]
    if weights:
        rows.append(("weights", ", ".join(f"[{path.stem}]({_link(path, folder)})" for path in weights)))
    return "\n".join(lines) + ("\n" + _table(("", ""), rows, right=False) if rows else "")


def _scores(history: History, pictures: tuple[int, int] | None) -> str:
    if not history.validations:
        return "## Scores\n\nThere was no validation.\n"
    parts = ["## Scores\n"]
    of = f"{pictures[0]:,} of {pictures[1]:,}" if pictures else "the"
    for stage in dict.fromkeys(each.stage for each in history.validations):
        told = [each for each in history.validations if each.stage == stage]
        columns = [("bicubic", told[-1].bicubic), *((label, each.scores) for label, each in _landmarks(told))]
        rows = [(title, *(_number(scores, name, digits) for _, scores in columns)) for title, name, digits in _ROWS]
        parts.append(f"### Stage {stage}\n")
        parts.append(_table((f"mean over {of} pictures", *(label for label, _ in columns)), rows, right=True))
    parts.append("PSNR and SSIM are better where they are higher, NIQE and colour drift where they are lower.\n")
    return "\n".join(parts)


def _landmarks(told: Sequence[Validated]) -> list[tuple[str, Validated]]:
    """First, best and last of a stage, those that are the same under one label."""
    labels: dict[int, list[str]] = {}
    best = [each for each in told if each.best]
    for label, each in (("first", told[0]), *(("best", each) for each in best[-1:]), ("last", told[-1])):
        labels.setdefault(each.step, []).append(label)
    by_step = {each.step: each for each in told}
    return [(f"{' and '.join(names)}, step {step:,}", by_step[step]) for step, names in sorted(labels.items())]


def _alarms(history: History) -> str:
    if not history.alarms:
        return ""
    groups: dict[tuple[str, str], list[Alarm]] = {}
    for alarm in history.alarms:
        groups.setdefault((alarm.stage, alarm.fault), []).append(alarm)
    lines = ["## Alarms", ""]
    for (stage, fault), alarms in groups.items():
        first, last = alarms[0], alarms[-1]
        when = (
            f"step {first.step:,}"
            if len(alarms) == 1
            else f"{len(alarms)} times, steps {first.step:,} to {last.step:,}"
        )
        severe = ", severe" if any(alarm.severe for alarm in alarms) else ""
        lines.append(f"- **{fault}** ({stage}, {when}{severe}): {last.seen}.")
        lines.append(f"  To try: {last.advice}.")
    return "\n".join(lines) + "\n"


def _samples(folder: RunFolder, history: History, pictures: Path) -> str:
    """The comparison sheet and the animation, of those samples that no rollback has undone."""
    steps = {each.step for each in history.validations}
    found = {}
    for each in sorted(folder.samples.iterdir()) if folder.samples.is_dir() else []:
        results = {step: path for step, path in sample_steps(each).items() if step in steps}
        if results:
            found[each] = results
    if not found:
        return ""
    rows = [_row(sample, results, history) for sample, results in found.items()]
    rows = [row for row in rows if [label for label, _ in row] == [label for label, _ in rows[0]]]
    sheet, film = pictures / "samples.png", pictures / "animation.webp"
    write_picture(sheet, PictureWithMetadata(crops_sheet(rows), Metadata()))
    sample, results = next(iter(found.items()))
    frames = titled(_frames(results, history), enlarge=2)
    write_animation(film, frames, pace(len(frames)))
    names = ", ".join(f"`{each.name}`" for each in found)
    return "\n".join(
        [
            "## Samples",
            "",
            f"The crops with the most detail of {names}.",
            "",
            f"![crops: bicubic, the model at several steps, reference]({_link(sheet, folder)})",
            "",
            f"`{sample.name}` over time:",
            "",
            f"![a crop while the model learns]({_link(film, folder)})",
            "",
        ]
    )


def _row(sample: Path, results: dict[int, Path], history: History) -> list[tuple[str, Picture]]:
    """Bicubic, the first result, the best of each stage, the last, and the reference."""
    labels: dict[int, list[str]] = {min(results): ["first"]}
    several = len(history.stages) > 1
    for stage, step in {each.stage: each.step for each in history.validations if each.best}.items():
        if step in results:
            labels.setdefault(step, []).append(f"best of {stage}" if several else "best")
    labels.setdefault(max(results), []).append("last")
    columns = [(f"{' and '.join(names)}, {step:,}", results[step]) for step, names in sorted(labels.items())]
    ends = [("bicubic", sample / "bicubic.png")], [("reference", sample / "reference.png")]
    return [(label, _read(path)) for label, path in [*ends[0], *columns, *ends[1]] if path.is_file()]


def _frames(results: dict[int, Path], history: History) -> list[tuple[str, Picture]]:
    """Results evenly spread over the run, as large as the last one."""
    steps = sorted(results)
    count = min(len(steps), _MOST_FRAMES)
    chosen = [steps[round(place * (len(steps) - 1) / max(count - 1, 1))] for place in range(count)]
    stages = {each.step: each.stage for each in history.validations}
    last = _read(results[steps[-1]])
    frames = [(f"{stages[step]}, step {step:,}", _read(results[step])) for step in chosen[:-1]]
    return [frame for frame in frames if frame[1].shape == last.shape] + [
        (f"{stages[steps[-1]]}, step {steps[-1]:,}", last)
    ]


def _read(path: Path) -> Picture:
    return as_rgb(open_picture(path, trusted=True).read().pixels)


def _plot(plot: Plot, folder: RunFolder) -> str:
    return f"## {plot.title}\n\n{plot.caption}\n\n![{plot.title}]({_link(plot.path, folder)})\n"


def _configuration(folder: RunFolder) -> str:
    try:
        text = folder.config.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {folder.config}: {error}") from error
    return f"## Configuration\n\n```toml\n{text.rstrip()}\n```\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool) -> str:
    """A table in Markdown; ``right`` puts all but the first column there."""
    rule = [":--", *(["--:" if right else ":--"] * (len(head) - 1))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))


def _number(scores: Scores, name: str, digits: int) -> str:
    value = getattr(scores, name)
    return "-" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _sessions(history: History) -> str:
    return f", in {history.sessions} sessions." if history.sessions > 1 else "."


def _link(path: Path, folder: RunFolder) -> str:
    return quote(path.relative_to(folder.path).as_posix())
