"""Which device computes, in which precision, and how much memory it may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Literal, get_args

import torch

from upscaler.errors import UserError

Precision = Literal["auto", "fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What an automatic budget leaves to everything else that runs on the machine.
_SHARE_OF_RAM = 0.6
_SHARE_OF_VRAM = 0.85
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
    try:
        torch.empty(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise UserError(f"PyTorch cannot use the device {name}: {str(error).splitlines()[0]}") from None
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
    """Bytes of RAM that this process holds now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_budget(device: torch.device, asked: int | None) -> int:
    """Bytes that the plan for one picture may add to what is in use now.

    On a GPU the budget is of the GPU's memory, elsewhere of this process's RAM; ``asked`` is the
    total the person allows, so what the process holds already is taken off.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        return asked - torch.cuda.memory_allocated(device) if asked else int((free + reserved) * _SHARE_OF_VRAM)
    if asked:
        return asked - resident_memory()
    return int(_available_ram() * _SHARE_OF_RAM)


def _available_ram() -> int:
    """Bytes of RAM that can be had without swapping, within the limit of a container."""
    candidates = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:
            candidates.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        candidates.append(int(limit.read_text()) - int(used.read_text()))
    if candidates:
        return max(min(candidates), 0)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch ran out of memory, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        "not enough memory" in str(error) or "can't allocate memory" in str(error) or "out of memory" in str(error)
    )
