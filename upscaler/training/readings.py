"""What a training run tells while it runs: numbers, validations, alarms and what becomes of it.

Names of numbers are the tags they have in TensorBoard, the part before the slash being the group:

- ``loss/...``: each term as it enters the sum, weight included (``pixel``, ``feature``, ``texture``, ``evenness``,
  ``adversarial``, ``generator`` for their sum; ``discriminator``, ``penalty``), mean since the last reading.
- ``output/real``, ``output/fake``: mean of the discriminator's raw outputs; ``output/largest``: their largest
  magnitude.
- ``gradient/generator``, ``gradient/discriminator``: norm over all parameters before clipping, and the
  norms of the weight of the first and of the last layer as ``gradient/generator_first`` and so on.
- ``picture_gradient/pixel`` and so on, for each of the ``TERMS``: norm of the gradient that the term, weight
  included, sends into the generated pictures.
- ``weight/...``: root mean square of the weights, of the same parts as ``gradient/...``.
- ``rate/generator``, ``rate/discriminator``: learning rates.
- ``colour/red``, ``colour/green``, ``colour/blue``: mean of the generated patches less that of the HR patches, in
  levels of 255.
- ``speed/steps_per_second``, ``speed/waiting`` (share of the time spent waiting for data), ``memory/bytes``.
- ``noise/instance``: standard deviation of the instance noise, in levels of 255.

Groups without an adversarial part leave out what they do not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaler.model.evaluation import Scores

ROLLBACKS = 3
"""How often a run goes back to a checkpoint at most."""
TERMS = ("pixel", "feature", "texture", "evenness", "adversarial")
"""Of the generator's loss."""


@dataclass(frozen=True)
class Reading:
    """Numbers at a step.

    Args:
        stage: its name.
        step: steps done in the whole run.
        values: by name, see above. They may be infinite or NaN: then something is wrong.
        distributions: (N,) samples of a quantity, for histograms: ``output/real`` and ``output/fake``, and
            weights and gradients of first and last layers under the names that their norms have.
    """

    stage: str
    step: int
    values: Mapping[str, float]
    distributions: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """The same crop of a validation picture, (H, W, 3) uint8 each, at the size of the result."""

    name: str
    bicubic: NDArray[np.uint8]
    result: NDArray[np.uint8]
    reference: NDArray[np.uint8]


@dataclass(frozen=True)
class Validated:
    """The averaged generator was measured on whole pictures.

    Args:
        stage, step: as in ``Reading``.
        scores: mean over the validation pictures.
        bicubic: the same of bicubic interpolation.
        samples: a few crops to look at.
        best: it is the best of its stage so far.
    """

    stage: str
    step: int
    scores: Scores
    bicubic: Scores
    samples: Sequence[Sample]
    best: bool


@dataclass(frozen=True)
class Alarm:
    """Something in a run is not as it should be.

    Args:
        stage, step: as in ``Reading``.
        fault: a short name, such as ``nan`` or ``saturated discriminator``.
        seen: what was seen, with numbers.
        advice: what to try.
        severe: going on is useless or harmful; these are what ``--on-alarm rollback`` and ``stop`` act on.
    """

    stage: str
    step: int
    fault: str
    seen: str
    advice: str
    severe: bool


@dataclass(frozen=True)
class Started:
    """The first step is about to be made; ``step`` of ``steps`` are done already where a run is resumed."""

    folder: Path
    step: int
    steps: int
    parameters: Mapping[str, int]
    """How many numbers each network has."""


@dataclass(frozen=True)
class Stepped:
    """A step is made: ``step`` in all. Told of every one, to whoever shows progress, and kept nowhere."""

    step: int


@dataclass(frozen=True)
class StageEnded:
    """A stage is complete, and its averaged weights are there."""

    stage: str
    step: int
    weights: Path


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class RolledBack:
    """After an alarm the run went back to a checkpoint; it goes on with other patches and lower learning rates.

    Args:
        step: that had been reached.
        to: of the checkpoint.
        count: rollbacks of the run so far.
        rate_factor: on all learning rates from now on.
    """

    step: int
    to: int
    count: int
    rate_factor: float


@dataclass(frozen=True)
class Finished:
    """The run is over for now.

    Args:
        folder: of the run.
        step: steps done.
        why: ``complete``, ``time`` (``--max-hours``), ``signal`` or ``alarm``.
        weights: the last averaged weights.
        report: what happened, to read.
    """

    folder: Path
    step: int
    why: str
    weights: Path
    report: Path


Event = Started | Reading | Validated | Alarm | StageEnded | Saved | RolledBack | Finished
"""What is kept of a run."""
