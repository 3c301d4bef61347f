"""What is plotted of a training run for its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upscaler.saving import whole_file
from upscaler.training.curves import Line, Panel, draw, smoothed, stage_borders
from upscaler.training.history import QUANTILES, History

_DPI = 110


@dataclass(frozen=True)
class Plot:
    """A picture of curves, and what there is to see in it."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class _Topic:
    file: str
    title: str
    caption: str
    panels: Sequence[Panel]


def write_plots(history: History, folder: Path) -> list[Plot]:
    """Write a PNG for each group of numbers that the run has told of; there may be none.

    Raises:
        UserError: they cannot be written.
    """
    plots = []
    for topic in _topics(history):
        if topic.panels:
            path = folder / f"{topic.file}.png"
            figure = draw(topic.panels, history)
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
                # Schedules end near zero, where a logarithmic axis would show little else.
                *_panel(history, "Learning rate", history.names("rate"), zero=True, smooth=False),
                *_panel(history, "Instance noise, levels of 255", ["noise/instance"], zero=True, smooth=False),
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
    history: History,
    title: str,
    names: Sequence[str],
    *,
    factor: float = 1,
    zero: bool = False,
    log: bool = False,
    smooth: bool = True,
) -> list[Panel]:
    """The panel of some numbers, or none where none of them was told."""
    lines = []
    for name in names:
        steps, values = history.series(name)
        if len(steps):
            lines.append(Line(name.split("/", 1)[1].replace("_", " "), steps, values * factor))
    return [Panel(title, lines, zero=zero, log=log, smooth=smooth)] if lines else []


def _networks(history: History, group: str) -> list[Panel]:
    panels = []
    for network in ("generator", "discriminator"):
        lines = []
        for part, label in (("", "all layers"), ("_first", "first"), ("_last", "last")):
            steps, values = history.series(f"{group}/{network}{part}")
            if len(steps):
                lines.append(Line(label, steps, values))
        if lines:
            panels.append(Panel(network.capitalize(), lines, log=group == "gradient"))
    return panels


def _validation(history: History) -> list[Panel]:
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
            line = Line("model", np.array([each.step for each, _ in known]), np.array([value for _, value in known]))
            bicubic = getattr(known[-1][0].bicubic, name)
            rings = frozenset(best.values())
            panels.append(Panel(title, [line], bicubic, rings, zero=name == "drift", smooth=False))
    return panels


def _outputs(history: History) -> list[Panel]:
    lines = []
    for kind in ("real", "fake"):
        steps, values = history.series(f"output/{kind}")
        spread_steps, spread = history.quantiles(f"output/{kind}")
        low, high = spread[:, QUANTILES.index(0.05)], spread[:, QUANTILES.index(0.95)]
        if len(steps):
            lines.append(Line(kind, steps, values, (spread_steps, low, high) if len(spread_steps) else None))
    panels = [Panel("Raw outputs", lines)] if lines else []
    return panels + _panel(history, "Largest magnitude", ["output/largest"])


def _balance(history: History) -> list[Panel]:
    names = history.names("picture_gradient")
    if len(names) < 2:
        return []
    norms = _panel(history, "Norms", names, log=True)
    steps = np.unique(np.concatenate([line.steps for line in norms[0].lines]))
    table = np.zeros((len(names), len(steps)))
    for row, line in zip(table, norms[0].lines, strict=True):
        row[np.searchsorted(steps, line.steps)] = np.where(np.isfinite(line.values), line.values, 0)
    borders = stage_borders(history)
    table = np.array([smoothed(steps, row, borders) for row in table])
    total = table.sum(axis=0)
    shares = 100 * table / np.where(total > 0, total, 1)
    lines = [Line(line.label, steps, share) for line, share in zip(norms[0].lines, shares, strict=True)]
    return [Panel("Shares, %", lines, stacked=True), *norms]
