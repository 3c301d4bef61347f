"""What goes between the host and a GPU, and that what stands in for one sees what is done wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from upscaler.transfers import Leaving, constant, sent

CPU = torch.device("cpu")

WAITS: dict[str, Callable[[Tensor], Any]] = {
    "a value": lambda x: x[0].item(),
    "a number": lambda x: float(x.sum()),
    "a condition": lambda x: bool((x > 0).any()),
    "a list": lambda x: x.tolist(),
    "a tensor": lambda x: x.cpu(),
    "a copy to the host": lambda x: torch.empty(3, pin_memory=True).copy_(x),
    "chosen by a mask": lambda x: x[x > 0],
    "places": lambda x: x.nonzero(),
    "a blocking copy": lambda x: torch.ones(3).pin_memory().to(x.device),
    "a copy that is not pinned": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a copy that is changed on its way": lambda x: torch.ones(3).pin_memory().to(x.device, torch.half, True),
    "a copy into place": lambda x: x.copy_(torch.ones(3)),
    "a tensor made of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "like another": lambda x: torch.ones(3).to(x),
}

MIXES: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda x: x + torch.ones(3),
    "a product": lambda x: torch.ones(3) @ x,
    "places on the host": lambda x: x[torch.tensor([0, 2])],
    "a choice": lambda x: torch.where(torch.ones(3).bool(), x, 0),
    "joined": lambda x: torch.stack([x, torch.ones(3)]),
}


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_a_wait_is_seen(gpu: Any, ask: Callable[[Tensor], Any]) -> None:
    with gpu:
        x = torch.ones(3, device=gpu.device)
        with gpu.unwaited(), pytest.raises((AssertionError, DynamicOutputShapeException)):
            ask(x)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_mixed_devices_are_seen(gpu: Any, mix: Callable[[Tensor], Any]) -> None:
    with gpu:
        x = torch.ones(3, device=gpu.device)
        with pytest.raises(AssertionError, match="mixes devices"):
            mix(x)


def test_mixed_precisions_are_seen(gpu: Any) -> None:
    with gpu, pytest.raises((RuntimeError, ValueError)):
        _ = torch.ones(3, 3, device=gpu.device) @ torch.ones(3, 3, device=gpu.device).half()


def test_what_is_sent_keeps_type_and_layout(gpu: Any) -> None:
    picture = torch.ones(2, 3, 4, 5, dtype=torch.uint8).to(memory_format=torch.channels_last)
    with gpu, gpu.unwaited():
        there = sent(picture, gpu.device)
        assert (there.device, there.dtype, there.stride()) == (gpu.device, torch.uint8, picture.stride())
        assert sent(there, gpu.device).device == gpu.device
    assert sent(picture, CPU) is picture


def test_what_leaves_is_there_once_it_has_arrived(gpu: Any) -> None:
    with gpu, gpu.unwaited():
        leaving = Leaving(torch.ones(2, 3, device=gpu.device))
        assert leaving._here.isnan().all()
        assert leaving.arrived().tolist() == [[0.5] * 3] * 2


def test_constants_are_made_once_for_each_device_and_type(gpu: Any) -> None:
    made: list[int] = []

    def ramp(length: int) -> Tensor:
        made.append(length)
        return torch.arange(length, dtype=torch.float64)

    with gpu, gpu.unwaited():
        for _ in range(2):
            for device in (CPU, gpu.device):
                found = constant(ramp, 4, device=device, dtype=torch.float32)
                assert (found.device, found.dtype) == (device, torch.float32)
            constant(ramp, 4, device=CPU, dtype=torch.float64)
    assert made == [4, 4, 4]


def test_constants_made_in_inference_mode_take_part_in_training() -> None:
    with torch.inference_mode():
        ones = constant(torch.ones, 3, device=CPU, dtype=torch.float32)
    x = torch.zeros(3, requires_grad=True)
    (x * ones).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1]
