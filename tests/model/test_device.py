from __future__ import annotations

import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.device import choose_device, choose_precision, is_out_of_memory, memory_budget, resident_memory

CPU = torch.device("cpu")


def test_auto_is_a_device_that_works() -> None:
    assert torch.ones(1, device=choose_device("auto")).sum() == 1


def test_full_precision_on_the_cpu() -> None:
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("name", ["cuda:31", "xpu:7", "meta:x", "gpu", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_ranks_take_their_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, device: device)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)


def test_the_budget_is_what_is_asked_less_what_is_held() -> None:
    held = resident_memory()
    assert held > 10**7
    assert memory_budget(CPU, 10**12) == pytest.approx(10**12 - held, abs=10**8)
    assert memory_budget(CPU, None) > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
