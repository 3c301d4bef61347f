"""Panels of curves over the steps of a run, drawn with matplotlib's figures alone: nothing global, no windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from upscaler.training.history import History
from upscaler.training.readings import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Steps = NDArray[np.int64]
Values = NDArray[np.float64]

_WIDTH, _WIDTH_OF_ONE, _PANEL_HEIGHT = 11.6, 9.0, 2.9
_FEW = 40
_DECADES, _OUTLIER = 30, 300
_SMOOTHED_FROM = 120
_INK, _FAINT, _GRID = "#333333", "#8a8a8a", "#e6e6e6"
_ALARM, _ROLLBACK = "#b2182b", "#7b3294"
_LABEL_SIZE, _LABEL_HEIGHT = 8.5, 0.075
"""In points, and as a share of a panel's height."""

# Okabe and Ito's colours, which the colour-blind can tell apart; one name has one colour in all plots.
_COLOURS = {
    "generator": "#333333",
    "discriminator": "#d55e00",
    "pixel": "#0072b2",
    "feature": "#e69f00",
    "texture": "#009e73",
    "evenness": "#cc79a7",
    "adversarial": "#d55e00",
    "penalty": "#0072b2",
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
class Line:
    """A number over the steps.

    Attributes:
        label: written at its end; some labels have a colour of their own.
        steps: (N,), ascending.
        values: (N,); where they are not finite the line has a gap, and a cross tells of it.
        band: steps (M,) with the lower and the upper bound (M,) of the values that ``values`` are the means of.
    """

    label: str
    steps: Steps
    values: Values
    band: tuple[Steps, Values, Values] | None = None


@dataclass(frozen=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        title: with the unit, if there is one.
        lines: at least one.
        bicubic: what bicubic interpolation has, as a dashed line.
        best: steps that get a ring.
        zero: zero is a value to compare with, so it is in view.
        log: the vertical axis is logarithmic; otherwise it is so where the values span decades.
        stacked: the lines, all of the same steps, are shares in percent, drawn as areas.
        smooth: many values are drawn faintly under their mean over a neighbourhood.
    """

    title: str
    lines: Sequence[Line]
    bicubic: float | None = None
    best: frozenset[int] = frozenset()
    zero: bool = False
    log: bool = False
    stacked: bool = False
    smooth: bool = True


def draw(panels: Sequence[Panel], history: History) -> Figure:
    """Panels side by side, each with the stages, alarms and rollbacks of the run."""
    from matplotlib.figure import Figure

    columns = 3 if len(panels) == 3 else min(len(panels), 2)
    rows = ceil(len(panels) / columns)
    width = _WIDTH if columns > 1 else _WIDTH_OF_ONE
    figure = Figure((width, _PANEL_HEIGHT * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    events: list[Event] = [*history.readings, *history.validations, *history.alarms, *history.rollbacks]
    last = max([event.step for event in events], default=1)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=False):
        _frame(axes, panel.title, history.begun, last)
        if panel.stacked:
            _draw_stack(axes, panel.lines, history.begun)
        else:
            _draw_lines(axes, panel, stage_borders(history) if panel.smooth else None, handles)
        _mark(axes, history, handles)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=_LABEL_SIZE
        )
    return figure


def _frame(axes: Axes, title: str, first: int, last: int) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=_INK, pad=16)
    axes.set_xlim(first, last + 0.015 * max(last - first, 1))
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=_LABEL_SIZE, length=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.4g}k" if value >= 10_000 else f"{value:,.4g}")
    axes.set_xlabel("step", fontsize=_LABEL_SIZE, color=_INK, loc="right", labelpad=1)


def _draw_lines(axes: Axes, panel: Panel, borders: Steps | None, handles: dict[str, Any]) -> None:
    """Draw a panel; smoothed between the borders of stages, or not at all."""
    ends, drawn = [], []
    for number, line in enumerate(panel.lines):
        colour = _colour(line.label, number)
        values = np.where(np.isfinite(line.values), line.values, np.nan)
        curve = values if borders is None else smoothed(line.steps, values, borders)
        drawn.append((values, curve))
        if curve is not values:
            axes.plot(line.steps, values, color=colour, linewidth=0.6, alpha=0.25)
        if line.band:
            steps, *bounds = line.band
            low, high = bounds if borders is None else (smoothed(steps, bound, borders) for bound in bounds)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        marker = "o" if len(values) <= _FEW else None
        axes.plot(line.steps, curve, color=colour, linewidth=1.6, marker=marker, markersize=3)
        rings = np.isin(line.steps, list(panel.best))
        axes.plot(line.steps[rings], values[rings], "o", markersize=9, fillstyle="none", color=colour)
        lost = line.steps[~np.isfinite(line.values)]
        if len(lost):
            where = axes.get_xaxis_transform()
            height = np.full(len(lost), 0.97)
            crosses = axes.plot(lost, height, "x", transform=where, color=_ALARM, markersize=5)
            handles["NaN or infinite"] = crosses[0]
        known = curve[np.isfinite(curve)]
        if len(known):
            label = f"{line.label} " if len(panel.lines) > 1 or panel.bicubic is not None else ""
            ends.append((float(known[-1]), f"{label}{known[-1]:.4g}", colour))
    if panel.bicubic is not None and np.isfinite(panel.bicubic):
        axes.axhline(panel.bicubic, color=_FAINT, linewidth=1.2, linestyle=(0, (5, 3)))
        ends.append((panel.bicubic, f"bicubic {panel.bicubic:.4g}", _FAINT))
    _scale(axes, panel, *(np.concatenate(kind) for kind in zip(*drawn, strict=True)))
    if not ends:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=_FAINT)
    _label_ends(axes, ends)


def _draw_stack(axes: Axes, lines: Sequence[Line], begun: int) -> None:
    colours = [_colour(line.label, number) for number, line in enumerate(lines)]
    steps = lines[0].steps
    if len(steps) == 1:  # an area needs a width
        steps = np.array([begun, *steps])
    shares = np.array([np.resize(line.values, len(steps)) for line in lines])
    axes.stackplot(steps, shares, colors=colours, alpha=0.8, linewidth=0)
    axes.set_ylim(0, 100)
    tops = np.cumsum(shares[:, -1])
    ends = [
        (float(top - share / 2), f"{line.label} {share:.0f} %", colour)
        for top, share, line, colour in zip(tops, shares[:, -1], lines, colours, strict=True)
    ]
    _label_ends(axes, ends)


def _scale(axes: Axes, panel: Panel, values: Values, curves: Values) -> None:
    """Choose the vertical axis for all values of a panel: logarithmic where the curves span decades."""
    values, curves = values[np.isfinite(values)], curves[np.isfinite(curves)]
    if not len(curves):
        return
    if panel.zero:
        axes.axhline(0, color=_FAINT, linewidth=0.8)
        # The few wildest values may leave the view.
        low, high = (float(bound) for bound in np.quantile([*values, 0, panel.bicubic or 0], (0.005, 0.995)))
        low, high = min(low, 0, curves.min()), max(high, 0, curves.max(), panel.bicubic or 0)
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin * (low < 0), high + margin)
        return
    low, high = np.quantile(curves, (0.02, 0.98))
    size = float(np.median(np.abs(curves)))
    if values.min() > 0 and (panel.log or high > _DECADES * low):
        axes.set_yscale("log")
    elif panel.log and values.min() == 0 < values.max():
        # A gradient that is exactly zero is what to see here.
        axes.set_yscale("symlog", linthresh=values[values > 0].min())
        axes.set_ylim(0)
    elif size and np.abs(curves).max() > _OUTLIER * size:
        axes.set_yscale("symlog", linthresh=size)
    elif np.ptp(values) < 1e-6 * size:
        # A constant, up to the rounding of means.
        axes.set_ylim(size * np.sign(curves[0]) - 0.05 * size, size * np.sign(curves[0]) + 0.05 * size)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, label, colour) beside the axes, each as near to its value as the others allow."""
    if not ends:
        return
    axes.autoscale_view(scalex=False)
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(
        (float(np.clip(to_axes.transform((1, value))[1], 0, 1)), text, colour) for value, text, colour in ends
    )
    heights = [height for height, _, _ in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + _LABEL_HEIGHT)
    # What was pushed out at the top pushes the ones below it back down.
    ceiling = 1.0
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - _LABEL_HEIGHT
    for height, (_, text, colour) in zip(heights, placed, strict=True):
        axes.text(
            1.015, height, text, transform=axes.transAxes, color=colour, fontsize=_LABEL_SIZE, va="center", ha="left"
        )


def _mark(axes: Axes, history: History, handles: dict[str, Any]) -> None:
    """Beginnings of stages, alarms and rollbacks."""
    where = axes.get_xaxis_transform()
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
        steps = [alarm.step for alarm in history.alarms if alarm.severe == severe]
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


def stage_borders(history: History) -> Steps:
    """The last step of each stage but the last one."""
    return np.array([last for _, last in history.stages.values()][:-1], np.int64)


def smoothed(steps: Steps, values: Values, borders: Steps) -> Values:
    """The mean of what is finite nearby in the same stage, where there are many values; else the very same array."""
    if len(values) < _SMOOTHED_FROM:
        return values
    half = max(len(values) // 80, 1)
    cuts = [0, *np.searchsorted(steps, borders, side="right"), len(values)]
    smooth = np.full(len(values), np.nan)
    for start, stop in pairwise(cuts):
        known = np.isfinite(values[start:stop])
        sums = np.concatenate([[0], np.where(known, values[start:stop], 0).cumsum()])
        counts = np.concatenate([[0], known.cumsum()])
        places = np.arange(stop - start)
        first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, stop - start)
        number = counts[end] - counts[first]
        means = (sums[end] - sums[first]) / np.where(number, number, 1)
        smooth[start:stop] = np.where(known, means, np.nan)
    return smooth


def _colour(label: str, number: int) -> str:
    return _COLOURS.get(label, _INK if label in ("all layers", "model") else _SPARE[number % len(_SPARE)])
