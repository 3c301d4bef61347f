"""The numbers of a training run so far, as much as the health gauge needs of them, and what it finds in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

PERSISTENT = 3
"""Readings in a row that a fault must show in, where one alone can happen in a healthy run."""

WINDOW = 2 * PERSISTENT
"""Readings that are remembered."""

EARLY = 3
"""Readings at the start of a stage that later ones are compared with."""

PATIENCE = 500
"""Steps that slow faults must last, however many readings there are in them: networks need time to begin to learn."""


@dataclass(frozen=True)
class Finding:
    """A fault as it is seen now.

    Args:
        fault, seen, advice, severe: as in ``readings.Alarm``.
        size: tells whether it grew.
        patience: steps that it must be seen before it is told.
    """

    fault: str
    seen: str
    advice: str
    severe: bool
    size: float = 1.0
    patience: int = 0


@dataclass
class Trace:
    """The numbers of a stage so far, as much as is needed of them; newest last.

    Args:
        adversarial: kind of the adversarial loss, None without a discriminator.
        recent: the last ones; only finite numbers.
        early: the first ones.
        lowest: of the medians of the losses over ``PERSISTENT`` readings, by name.
        highest: PSNR.
        broken: names of numbers that were infinite or NaN in the last and in the one before.
    """

    adversarial: str | None
    recent: list[dict[str, float]] = field(default_factory=list)
    early: list[dict[str, float]] = field(default_factory=list)
    lowest: dict[str, float] = field(default_factory=dict)
    highest: float = -math.inf
    broken: list[list[str]] = field(default_factory=list)

    def add(self, values: Mapping[str, float]) -> None:
        """Take further numbers in."""
        watched = {name: float(value) for name, value in values.items() if not name.startswith(("speed/", "memory/"))}
        finite = {name: value for name, value in watched.items() if math.isfinite(value)}
        self.broken = [*self.broken, sorted(watched.keys() - finite.keys())][-2:]
        self.recent = [*self.recent, finite][-WINDOW:]
        if len(self.early) < EARLY:
            self.early.append(finite)
        for name in finite:
            if name.startswith("loss/") and (window := self.last(name)):
                self.lowest[name] = min(median(window), self.lowest.get(name, math.inf))
        self.highest = max(finite.get("psnr", -math.inf), self.highest)

    def state(self) -> dict[str, Any]:
        """All but ``adversarial``, of types that JSON knows."""
        return {
            "recent": [dict(values) for values in self.recent],
            "early": [dict(values) for values in self.early],
            "lowest": dict(self.lowest),
            "highest": self.highest if self.highest > -math.inf else None,
            "broken": [list(names) for names in self.broken],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the trace that ``state`` was of."""
        self.recent = [dict(values) for values in state["recent"]]
        self.early = [dict(values) for values in state["early"]]
        self.lowest = dict(state["lowest"])
        self.highest = -math.inf if state["highest"] is None else state["highest"]
        self.broken = [list(names) for names in state["broken"]]

    def now(self, name: str) -> float | None:
        """The newest value."""
        return self.recent[-1].get(name)

    def last(self, name: str, count: int = PERSISTENT) -> list[float]:
        """The last values; none at all unless the last ``count`` readings have them all."""
        values = [reading[name] for reading in self.recent[-count:] if name in reading]
        return values if len(values) == count else []

    def at_first(self, name: str) -> float | None:
        """The median of the first values, once they are complete."""
        values = [reading[name] for reading in self.early if name in reading]
        return median(values) if len(values) == EARLY else None


def short(value: float) -> str:
    """A number as people read it."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def words(name: str) -> str:
    """What a number is called in a sentence."""
    group, _, rest = name.partition("/")
    owner, _, layer = rest.partition("_")
    of = f"the {owner}'s {layer} layer" if layer else f"the {owner}"
    return {
        "loss": f"the {rest} loss",
        "output": f"the discriminator's output ({rest})",
        "gradient": f"the gradient of {of}",
        "picture_gradient": f"the gradient of the {rest} loss",
        "weight": f"the size of the weights of {of}",
        "colour": f"the mean of {rest}",
    }.get(group, name)
