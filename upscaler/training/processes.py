"""This process among those that ``torchrun`` started; alone it needs nothing of torch.distributed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.model.ranks import common_store, rank, world

_ALONE = (
    "another process of this run has ended; the run goes on from its last checkpoint when it is started again, "
    "which torchrun does by itself with --max-restarts"
)
# The others wait for the first one while it validates, which may take long. One that has died is noticed at once by its
# connections, which close.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """Which one this is, of how many."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest value in any process; all must ask at the same step."""
        if self.world == 1:
            return value
        box = torch.tensor(value)  # on the CPU, so that a GPU need not be waited for
        torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MAX)
        return int(box)

    def told(self, value: Any) -> Any:
        """What the first process says; all must ask at the same step."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the values of all processes, with its gradient."""
        return self.averaged(values.mean())

    def averaged(self, own: Tensor) -> Tensor:
        """The mean of a tensor that each process has, element by element, with its gradient."""
        return own if self.world == 1 else cast(Tensor, _MeanOverProcesses.apply(own, self.world))  # type: ignore[no-untyped-call]

    def normalising(self, device: torch.device) -> int:
        """How many parts of a batch have a batch norm of their own; on CUDA it is synchronised."""
        return 1 if device.type == "cuda" else self.world

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients averaged over all processes."""
        if self.world == 1:
            return module
        if device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Take one's place among the processes of ``torchrun``; does nothing without it.

    What was made ``parallel`` should be out of use at the end: a group that outlives its place can abort the process.

    Raises:
        UserError: this PyTorch cannot talk to the other processes, or one of them has ended.
    """
    if world() == 1:
        yield Processes()
        return
    if not torch.distributed.is_available():
        raise UserError("this PyTorch was built without torch.distributed; train in one process")
    kinds = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(
        kinds,
        store=common_store(),
        rank=rank(),
        world_size=world(),
        device_id=device if device.type == "cuda" else None,
        timeout=_PATIENCE,
    )
    try:
        yield Processes(rank(), world())
        # The first one writes a report yet; connections that close under it can bring a process down.
        torch.distributed.barrier()
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise UserError(_ALONE) from error
        raise
    finally:
        gc.collect()  # modules that were made parallel, which have references to themselves
        torch.distributed.destroy_process_group()


class _MeanOverProcesses(torch.autograd.Function):
    """The mean over processes. Each process's gradient is the sum of what all of them send back, over their number."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, world: int) -> Tensor:
        ctx.world = world
        return _summed(value) / world

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0]) / ctx.world, None


def _summed(value: Tensor) -> Tensor:
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total
