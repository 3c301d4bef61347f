"""What the stages of a run are fed with: batches of pairs, and pictures to validate with."""

from __future__ import annotations

import time
from collections.abc import Iterator

from upscaler.errors import UserError
from upscaler.training.config import Stage
from upscaler.training.degradation import find_preset
from upscaler.training.orders import Order
from upscaler.training.pairs import Batch, Growth, Pairs, load
from upscaler.training.processes import Processes
from upscaler.training.validation import ValidationSet

# Far enough apart that no two stages, and no two tries after a rollback, draw the same patches.
_OTHER_DRAWS = 1_000_003


class Supply:
    """The data of a run.

    Args:
        order: what is trained on what.
        processes: this one and the others, which share each batch.

    Raises:
        UserError: a stage that the training set does not suit, or nothing usable to validate with.
    """

    def __init__(self, order: Order, processes: Processes) -> None:
        self._order, self._config, self._processes = order, order.config, processes
        self._pictures = order.data.pictures()
        for number in range(len(self._config.stages)):
            self._pairs(number, 0)
        self._validation: dict[tuple[str, str, int], ValidationSet | None] = {}
        self.validation = self.validation_set(len(self._config.stages) - 1)
        """The last stage's pictures to validate with."""

    def batches(self, number: int, step: int, rollbacks: int) -> TimedBatches:
        """The batches of a stage from one of its steps on.

        Args:
            number: of the stage.
            step: steps of the stage that are done.
            rollbacks: how often the run went back; each time other patches are drawn.
        """
        stage, pairs = self._config.stages[number], self._pairs(number, rollbacks)
        each = len(pairs) // stage.iterations
        return TimedBatches(load(pairs, start=step * each, workers=stage.data.workers))

    def validation_set(self, number: int) -> ValidationSet | None:
        """Pictures made worse as a stage's are, in the process that looks at them; None where there are none."""
        if not self._processes.first:
            return None
        stage = self._config.stages[number]
        key = stage.data.degradation, self._lr(stage), stage.validation.pictures
        if key not in self._validation:
            self._validation[key] = self._made_worse(stage)
        return self._validation[key]

    def _made_worse(self, stage: Stage) -> ValidationSet | None:
        config, degrade, most = self._config, find_preset(stage.data.degradation), stage.validation.pictures
        if self._order.val is not None:
            return ValidationSet.from_folder(self._order.val, config.scale, degrade, config.seed, most)
        pictures = self._order.data.pictures("validation")
        if not len(pictures):
            return None
        return ValidationSet.from_prepared(
            pictures, config.scale, "stored" if self._lr(stage) == "stored" else degrade, config.seed, most
        )

    @property
    def unused(self) -> bool:
        """Whether the training set holds LR pictures that no stage asks for."""
        return self._pictures.scale is not None and all(self._lr(stage) != "stored" for stage in self._config.stages)

    def _lr(self, stage: Stage) -> str:
        """Who makes LR: ``workers`` or ``device``, or ``stored``."""
        automatic = "workers" if self._pictures.scale is None else "stored"
        return automatic if stage.data.lr == "auto" else stage.data.lr

    def _pairs(self, number: int, rollbacks: int) -> Pairs:
        config, stage, world = self._config, self._config.stages[number], self._processes.world
        data, each = stage.data, stage.discriminator.steps if stage.adversarial else 1
        if data.batch % (data.accumulate * world):
            raise UserError(
                f"a batch of {data.batch} cannot be shared evenly by {world} processes with data.accumulate "
                f"{data.accumulate}"
            )
        lr = self._lr(stage)
        patch: int | Growth
        if isinstance(data.patch, int):
            patch = data.patch
        else:
            patch = Growth(tuple(sorted((round(share * stage.iterations) * each, size) for share, size in data.patch)))
        return Pairs(
            self._pictures,
            scale=config.scale,
            batch=data.batch,
            patch=patch,
            steps=stage.iterations * each,
            lr="stored" if lr == "stored" else find_preset(data.degradation) if lr == "workers" else None,
            seed=config.seed + _OTHER_DRAWS * (number + len(config.stages) * rollbacks),
            rank=self._processes.rank,
            world=world,
            flips=data.flips,
            noise=data.noise,
            shuffle_channels=data.shuffle_channels,
        )


class TimedBatches(Iterator[Batch]):
    """Batches, and how long was waited for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._waited = 0.0

    def __next__(self) -> Batch:
        start = time.monotonic()
        batch = next(self._batches)
        self._waited += time.monotonic() - start
        return batch

    def waited(self) -> float:
        """Seconds since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited
