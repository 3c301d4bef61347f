"""Which device computes, in which precision, and how much memory it may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Literal, get_args

import psutil
import torch

from upscaler.errors import UserError

Precision = Literal["auto", "fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What an automatic budget leaves to everything else that runs on the machine.
_SHARE_OF_RAM = 0.6
_SHARE_OF_VRAM = 0.85
_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "Invalid buffer size",
    "ALLOC_FAILED",
)
_CGROUP = Path("/sys/fs/cgroup")
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BLOCK = 2**20


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Under ``torchrun`` a plain ``cuda`` (or ``auto``) means the GPU of this process's local rank.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no kind of device called {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(count, 1))
        if device.index >= count:
            found = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
            raise UserError(f"{name} is not there: this PyTorch sees {found}; use --device auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("mps is not there: it needs an Apple GPU; use --device auto or cpu")
    if device.type == "meta":
        raise UserError("the device meta computes nothing; use auto, cpu, cuda, cuda:N or mps")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # the rest can be an essay
        raise UserError(f"PyTorch cannot use the device {name}: {reason}") from None
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in; ``auto`` is fp16 on CUDA devices with tensor cores and fp32 elsewhere.

    Raises:
        UserError: an unknown precision.
    """
    if name not in get_args(Precision):
        raise UserError(f"precision {name!r} is unknown; use {', '.join(get_args(Precision))}")
    if name == "auto":
        fast_half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
        return torch.float16 if fast_half else torch.float32
    return _DTYPES[name]


def return_freed_memory() -> None:
    """Make the C library give large freed blocks back to the system at once, where it can be told to.

    glibc otherwise keeps them in a heap that fragments: with tiles of changing sizes the process then holds up to
    twice what is alive. Costs page faults, so it is for those who asked for a budget.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none and does not need it
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def resident_memory() -> int:
    """Bytes of RAM that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def memory_budget(device: torch.device, asked: int | None, held: int) -> int:
    """Bytes that the work on one picture may take beyond what the process held before the first one.

    Args:
        device: on a GPU the budget is of its memory, elsewhere of this process's RAM.
        asked: the total that the person allows; None takes a share of what is free, of which every
            process that ``torchrun`` started here gets its part.
        held: ``resident_memory`` before the first picture. What freed blocks the process keeps since
            then are not counted as lost.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated(device)
        if asked is not None:
            return asked - allocated
        free, _ = torch.cuda.mem_get_info(device)
        sharing = -(-processes // max(torch.cuda.device_count(), 1))
        return int((free + torch.cuda.memory_reserved(device) - allocated) * _SHARE_OF_VRAM / sharing)
    if asked is not None:
        return asked - held
    return int((_available_ram() + resident_memory() - held) * _SHARE_OF_RAM / processes)


def _available_ram() -> int:
    """Bytes of RAM that can be had without swapping, within the limit of a container."""
    available = int(psutil.virtual_memory().available)
    limit, used, parts = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return available
    counted = dict(line.split() for line in parts.read_text().splitlines())
    # Pages of files count as used, and are given back when they are needed.
    cached = int(counted.get("inactive_file", 0)) + int(counted.get("active_file", 0))
    return max(min(available, int(limit.read_text()) - int(used.read_text()) + cached), 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch ran out of memory, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
