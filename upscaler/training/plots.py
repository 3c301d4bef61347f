"""Curves of a training run, as pictures for its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from upscaler.saving import whole_file
from upscaler.training.history import QUANTILES, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Steps = NDArray[np.int64]
Values = NDArray[np.float64]

_DPI = 110
_PANEL_WIDTH, _PANEL_HEIGHT, _WIDE = 5.8, 2.9, 9.0
_FEW = 40
_SMOOTHED_FROM = 120
_INK, _FAINT, _GRID = "#333333", "#8a8a8a", "#e6e6e6"
_ALARM, _ROLLBACK = "#b2182b", "#7b3294"
_LABEL_SIZE = 8.5
# Okabe and Ito's colours, which the colour-blind can tell apart; one name has one colour in all plots.
_COLOURS = {
    "generator": "#333333",
    "discriminator": "#333333",
    "pixel": "#0072b2",
    "feature": "#e69f00",
    "texture": "#009e73",
    "adversarial": "#d55e00",
    "penalty": "#cc79a7",
    "first": "#0072b2",
    "last": "#d55e00",
    "real": "#0072b2",
    "fake": "#d55e00",
    "red": "#c4302b",
    "green": "#2c8a3d",
    "blue": "#2b5fc4",
}
_SPARE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")


@dataclass(frozen=True)
class Plot:
    """A picture of curves, and what there is to see in it."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class _Line:
    label: str
    steps: Steps
    values: Values
    band: tuple[Steps, Values, Values] | None = None


@dataclass(frozen=True)
class _Panel:
    title: str
    lines: Sequence[_Line]
    bicubic: float | None = None
    best: frozenset[int] = frozenset()
    zero: bool = False
    """Zero is a value to compare with: it is in view and has a line."""
    stacked: bool = False


@dataclass(frozen=True)
class _Topic:
    file: str
    title: str
    caption: str
    panels: Sequence[_Panel]


def write_plots(history: History, folder: Path) -> list[Plot]:
    """Write a PNG for each group of numbers that the run has told of; there may be none.

    Raises:
        UserError: they cannot be written.
    """
    plots = []
    for topic in _topics(history):
        if topic.panels:
            path = folder / f"{topic.file}.png"
            figure = _figure(topic.panels, history)
            with whole_file(path) as file:
                figure.savefig(file, format="png", dpi=_DPI)
            plots.append(Plot(path, topic.title, topic.caption))
    return plots


def _topics(history: History) -> list[_Topic]:
    losses = history.names("loss")
    of_discriminator = [name for name in losses if name in ("loss/discriminator", "loss/penalty")]
    of_generator = [name for name in losses if name not in of_discriminator]
    return [
        _Topic(
            "validation",
            "Validation",
            "Whole pictures through the averaged generator. Dashed is bicubic interpolation; a ring marks the best of a"
            " stage.",
            _validation(history),
        ),
        _Topic(
            "losses",
            "Losses",
            "Each term as it enters the sum, smoothed where the faint line is not. A term far above all others decides"
            " alone.",
            [*_panel(history, "Generator", of_generator), *_panel(history, "Discriminator", of_discriminator)],
        ),
        _Topic(
            "outputs",
            "Outputs of the discriminator",
            "Means, and as a band the middle 90 % of single outputs. Bands that part for good: it has won. Bands that"
            " stay one: it has learnt nothing.",
            _outputs(history),
        ),
        _Topic(
            "balance",
            "Balance of the losses",
            "What each term, weight included, sends into the generated pictures as gradient: a share that is all or"
            " nothing means that a weight is wrong.",
            _balance(history),
        ),
        _Topic(
            "gradients",
            "Gradients",
            "Norms before clipping. A first layer far below the last one gets no signal.",
            _networks(history, "gradient"),
        ),
        _Topic(
            "weights",
            "Weights",
            "Root mean squares. Weights that only ever grow end in divergence.",
            _networks(history, "weight"),
        ),
        _Topic(
            "colour",
            "Colour",
            "Mean of the generated patches less that of the HR patches, in levels of 255. Away from zero is a tint.",
            _panel(history, "Colour drift", history.names("colour"), zero=True),
        ),
        _Topic(
            "rates",
            "Learning rates and noise",
            "As the schedules set them.",
            [
                *_panel(history, "Learning rate", history.names("rate")),
                *_panel(history, "Instance noise, levels of 255", ["noise/instance"], zero=True),
            ],
        ),
        _Topic(
            "speed",
            "Speed",
            "How fast it went, how long it waited for data, and the memory that was in use.",
            [
                *_panel(history, "Steps per second", ["speed/steps_per_second"], zero=True),
                *_panel(history, "Waiting for data, % of the time", ["speed/waiting"], factor=100, zero=True),
                *_panel(history, "Memory, MB", ["memory/bytes"], factor=1e-6, zero=True),
            ],
        ),
    ]


def _panel(
    history: History, title: str, names: Sequence[str], *, factor: float = 1, zero: bool = False
) -> list[_Panel]:
    """The panel of some numbers, or none where none of them was told."""
    lines = []
    for name in names:
        steps, values = history.series(name)
        if len(steps):
            lines.append(_Line(name.split("/", 1)[1].replace("_", " "), steps, values * factor))
    return [_Panel(title, lines, zero=zero)] if lines else []


def _networks(history: History, group: str) -> list[_Panel]:
    panels = []
    for network in ("generator", "discriminator"):
        lines = []
        for part, label in (("", "all layers"), ("_first", "first"), ("_last", "last")):
            steps, values = history.series(f"{group}/{network}{part}")
            if len(steps):
                lines.append(_Line(label, steps, values))
        if lines:
            panels.append(_Panel(network.capitalize(), lines))
    return panels


def _validation(history: History) -> list[_Panel]:
    best = {each.stage: each.step for each in history.validations if each.best}
    panels = []
    for name, title in (
        ("psnr_y", "PSNR-Y, dB (higher is better)"),
        ("ssim_y", "SSIM-Y (higher is better)"),
        ("niqe", "NIQE (lower is better)"),
        ("drift", "Colour drift, levels of 255 (lower is better)"),
    ):
        found = [(each, getattr(each.scores, name)) for each in history.validations]
        known = [(each, value) for each, value in found if value is not None]
        if known:
            line = _Line("model", np.array([each.step for each, _ in known]), np.array([value for _, value in known]))
            bicubic = getattr(known[-1][0].bicubic, name)
            panels.append(_Panel(title, [line], bicubic=bicubic, best=frozenset(best.values())))
    return panels


def _outputs(history: History) -> list[_Panel]:
    lines = []
    for kind in ("real", "fake"):
        steps, values = history.series(f"output/{kind}")
        spread_steps, spread = history.quantiles(f"output/{kind}")
        low, high = spread[:, QUANTILES.index(0.05)], spread[:, QUANTILES.index(0.95)]
        if len(steps):
            lines.append(_Line(kind, steps, values, (spread_steps, low, high) if len(spread_steps) else None))
    panels = [_Panel("Raw outputs", lines)] if lines else []
    return panels + _panel(history, "Largest magnitude", ["output/largest"])


def _balance(history: History) -> list[_Panel]:
    names = history.names("picture_gradient")
    if len(names) < 2:
        return []
    norms = _panel(history, "Norms", names)
    steps = np.unique(np.concatenate([line.steps for line in norms[0].lines]))
    table = np.zeros((len(names), len(steps)))
    for row, line in zip(table, norms[0].lines, strict=True):
        row[np.searchsorted(steps, line.steps)] = np.where(np.isfinite(line.values), line.values, 0)
    table = np.array([_smooth(row) for row in table])
    total = table.sum(axis=0)
    shares = 100 * table / np.where(total > 0, total, 1)
    lines = [_Line(line.label, steps, share) for line, share in zip(norms[0].lines, shares, strict=True)]
    return [_Panel("Shares, %", lines, stacked=True), *norms]


def _figure(panels: Sequence[_Panel], history: History) -> Figure:
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    rows = ceil(len(panels) / columns)
    width = _PANEL_WIDTH * columns if columns > 1 else _WIDE
    figure = Figure((width, _PANEL_HEIGHT * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    last = max([reading.step for reading in history.readings] + [each.step for each in history.validations] + [1])
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=False):
        _frame(axes, panel.title, last)
        if panel.stacked:
            _draw_stack(axes, panel.lines)
        else:
            _draw_lines(axes, panel, handles)
        _mark(axes, history, handles)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=_LABEL_SIZE
        )
    return figure


def _frame(axes: Axes, title: str, last: int) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=_INK, pad=16)
    axes.set_xlim(0, last)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=_LABEL_SIZE, length=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.4g}k" if value >= 10_000 else f"{value:,.4g}")
    axes.set_xlabel("step", fontsize=_LABEL_SIZE, color=_INK, loc="right", labelpad=1)


def _draw_lines(axes: Axes, panel: _Panel, handles: dict[str, Any]) -> None:
    ends, shown = [], []
    for number, line in enumerate(panel.lines):
        colour = _colour(line.label, number)
        values = np.where(np.isfinite(line.values), line.values, np.nan)
        smooth = _smooth(values)
        shown.append(smooth)
        if smooth is not values:
            axes.plot(line.steps, values, color=colour, linewidth=0.6, alpha=0.25)
        if line.band:
            axes.fill_between(*line.band, color=colour, alpha=0.15, linewidth=0)
        marker = "o" if len(values) <= _FEW else None
        axes.plot(line.steps, smooth, color=colour, linewidth=1.6, marker=marker, markersize=3)
        rings = np.isin(line.steps, list(panel.best))
        axes.plot(line.steps[rings], values[rings], "o", markersize=9, fillstyle="none", color=colour)
        lost = ~np.isfinite(line.values)
        if lost.any():
            where = axes.get_xaxis_transform()
            handles["NaN or infinite"] = axes.plot(
                line.steps[lost], np.full(lost.sum(), 0.97), "x", transform=where, color=_ALARM, markersize=5
            )[0]
        known = smooth[np.isfinite(smooth)]
        if len(known):
            ends.append((float(known[-1]), f"{line.label} {known[-1]:.4g}", colour))
    _scale(axes, np.concatenate(shown), zero=panel.zero)
    if panel.bicubic is not None and np.isfinite(panel.bicubic):
        axes.axhline(panel.bicubic, color=_FAINT, linewidth=1.2, linestyle=(0, (5, 3)))
        ends.append((panel.bicubic, f"bicubic {panel.bicubic:.4g}", _FAINT))
    if panel.zero:
        axes.axhline(0, color=_FAINT, linewidth=0.8)
    if not ends:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=_FAINT)
    _label_ends(axes, ends)


def _draw_stack(axes: Axes, lines: Sequence[_Line]) -> None:
    colours = [_colour(line.label, number) for number, line in enumerate(lines)]
    steps = lines[0].steps
    if len(steps) == 1:  # an area needs a width
        steps = np.array([0, *steps])
    shares = np.array([np.resize(line.values, len(steps)) for line in lines])
    axes.stackplot(steps, shares, colors=colours, alpha=0.8, linewidth=0)
    axes.set_ylim(0, 100)
    tops = np.cumsum(shares[:, -1])
    ends = [
        (float(top - share / 2), f"{line.label} {share:.0f} %", colour)
        for top, share, line, colour in zip(tops, shares[:, -1], lines, colours, strict=True)
    ]
    _label_ends(axes, ends)


def _scale(axes: Axes, values: Values, *, zero: bool) -> None:
    """A logarithmic axis where the values span decades."""
    known = values[np.isfinite(values)]
    if zero or not len(known):
        if zero and len(known):
            low, high = min(0.0, known.min()), max(0.0, known.max())
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin * (low < 0), high + margin)
        return
    low, high = np.quantile(known, (0.02, 0.98))
    size = float(np.median(np.abs(known)))
    if known.min() > 0:
        if high / low > 30:
            axes.set_yscale("log")
    elif size and np.abs(known).max() > 300 * size:
        axes.set_yscale("symlog", linthresh=size)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, label, colour) beside the axes, each as near to its value as the others allow."""
    if not ends:
        return
    axes.autoscale_view(scalex=False)
    to_axes = axes.transData + axes.transAxes.inverted()
    least = 0.075
    placed = sorted(
        (float(np.clip(to_axes.transform((1, value))[1], 0, 1)), text, colour) for value, text, colour in ends
    )
    heights = [height for height, _, _ in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + least)
    # What was pushed out at the top pushes the ones below it back down.
    ceiling = 1.0
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - least
    for height, (_, text, colour) in zip(heights, placed, strict=True):
        axes.text(
            1.015, height, text, transform=axes.transAxes, color=colour, fontsize=_LABEL_SIZE, va="center", ha="left"
        )


def _mark(axes: Axes, history: History, handles: dict[str, Any]) -> None:
    """Beginnings of stages, alarms and rollbacks."""
    where = axes.get_xaxis_transform()
    last = axes.get_xlim()[1]
    stages = history.stages
    for number, (stage, (first, end)) in enumerate(stages.items()):
        if number:
            axes.axvline(first, color=_INK, linewidth=0.9)
        if len(stages) > 1:
            axes.text(
                (first + end) / 2 if end > first else first,
                1.02,
                stage,
                transform=where,
                ha="center",
                va="bottom",
                color=_FAINT,
                fontsize=_LABEL_SIZE,
            )
    for rollback in history.rollbacks:
        axes.axvspan(rollback.to, rollback.step, color=_ROLLBACK, alpha=0.12, linewidth=0)
        line = axes.axvline(rollback.step, color=_ROLLBACK, linewidth=1, linestyle=":")
        handles["rolled back, and trained anew"] = line
    for severe, name, filled in ((False, "alarm", "none"), (True, "severe alarm", "full")):
        steps = [min(alarm.step, last) for alarm in history.alarms if alarm.severe == severe]
        if steps:
            marks = axes.plot(
                steps,
                np.zeros(len(steps)),
                "^",
                transform=where,
                clip_on=False,
                zorder=5,
                color=_ALARM,
                fillstyle=filled,
                markersize=6,
            )
            handles[name] = marks[0]


def _smooth(values: Values) -> Values:
    """The mean of what is finite nearby, where there are many values; else the very same array."""
    if len(values) < _SMOOTHED_FROM:
        return values
    half = max(len(values) // 80, 1)
    known = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0], np.where(known, values, 0)]))
    counts = np.cumsum(np.concatenate([[0], known]))
    first = np.maximum(np.arange(len(values)) - half, 0)
    end = np.minimum(np.arange(len(values)) + half + 1, len(values))
    number = counts[end] - counts[first]
    means = (sums[end] - sums[first]) / np.where(number, number, 1)
    smooth: Values = np.where(known, means, np.nan)
    return smooth


def _colour(label: str, number: int) -> str:
    return _COLOURS.get(label, _INK if label in ("all layers", "model") else _SPARE[number % len(_SPARE)])
