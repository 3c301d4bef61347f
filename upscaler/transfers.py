"""Tensors between the host and a device, sent so that the host does not wait for a GPU.

CUDA copies to and from ordinary memory of the host wait until the GPU has done all it was given; from pinned
memory they take their turn. PyTorch keeps pinned memory until the copy is done, and uses it again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor

Make = Callable[..., Tensor]


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The same values on a device, of the same type and layout."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=16)
def constant(make: Make, *arguments: Hashable, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``make(*arguments)``, computed on the CPU and sent once; nobody may write into it."""
    with torch.inference_mode(False), torch.no_grad():  # so that it can be used where gradients are wanted
        return sent(make(*arguments).to(dtype), device)


class Leaving:
    """A tensor on its way from a GPU to the host, beside what the GPU computes next.

    Args:
        values: on a CUDA device, of any type.
    """

    def __init__(self, values: Tensor) -> None:
        self._here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        stream = _side_stream(values.device)
        stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(stream):
            self._here.copy_(values, non_blocking=True)
            self._arrived = stream.record_event()
        values.record_stream(stream)  # what is computed next must not get its memory before it is read

    def arrived(self) -> Tensor:
        """The values on the host, once they are there."""
        self._arrived.synchronize()
        return self._here


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
