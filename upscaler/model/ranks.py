"""The processes that ``torchrun`` started for one batch: each does its share, and they wait for each other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_Job = TypeVar("_Job")
_GLANCE = 0.1
"""Seconds between looks for the others."""


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(jobs: Sequence[_Job]) -> list[_Job]:
    """This process's part of the jobs; all of them without ``torchrun``."""
    return list(jobs[rank() :: world()])


class Meeting:
    """Where the processes wait for each other; without ``torchrun`` nobody waits.

    ``torchrun`` ends all processes as soon as one fails, so one that has met a bad picture must not end before the
    others are done, nor may one begin to write while another still looks whether there is something to be lost.
    """

    def __init__(self) -> None:
        self._store = common_store() if world() > 1 else None

    def wait(self, place: str) -> None:
        """Return when every process has come to this place; unlike PyTorch's barrier it heeds signals meanwhile."""
        if self._store is None:
            return
        self._store.add(place, 1)
        while self._store.add(place, 0) < world():
            time.sleep(_GLANCE)


def common_store() -> Store:
    """The numbers and words that all processes of ``torchrun`` share, nothing of those before a restart among them."""
    # Not there in a PyTorch without torch.distributed.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://"))[0]
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world()):
        # After a restart torchrun's store still holds what the processes that died have left, such as addresses. On
        # several machines each counts its own restarts, so that they could not agree.
        return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    return store
