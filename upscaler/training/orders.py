"""What a run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from upscaler.training.config import Config
from upscaler.training.runs import RunFolder
from upscaler.training.shards import PreparedSet

OnAlarm = Literal["warn", "rollback", "stop"]


@dataclass(frozen=True)
class Order:
    """What a run is asked to do.

    Args:
        config: of the run.
        folder: where it lives.
        data: the training set.
        val: pictures to validate with; None takes the training set's validation split.
        device: that computes.
        hours: stop after so many of this session.
        on_alarm: what a severe alarm does.
    """

    config: Config
    folder: RunFolder
    data: PreparedSet
    val: Path | None
    device: torch.device
    hours: float | None
    on_alarm: OnAlarm
