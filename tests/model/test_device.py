from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from upscaler.errors import UserError
from upscaler.model import device
from upscaler.model.device import choose_device, choose_precision, is_out_of_memory, memory_budget, resident_memory

CPU = torch.device("cpu")


def test_auto_is_a_device_that_works() -> None:
    assert torch.ones(1, device=choose_device("auto")).sum() == 1


def test_full_precision_on_the_cpu() -> None:
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("name", ["cuda:31", "xpu:7", "xla", "hpu", "mtia", "meta", "gpu", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_ranks_take_their_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, device: device)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)


def test_the_budget_is_what_is_asked_less_what_is_held() -> None:
    assert resident_memory() > 10**7
    assert memory_budget(CPU, 10**12, 10**9) == 10**12 - 10**9
    assert memory_budget(CPU, None, resident_memory()) > 0


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=10**9))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**10))
    monkeypatch.setattr(device, "_CGROUP", Path("/nowhere"))
    alone = memory_budget(CPU, None, 10**9)
    assert alone == int(0.6 * 10**10)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_budget(CPU, None, 10**9) == alone // 4


@pytest.mark.parametrize(("limit", "budget"), [("max", 6 * 10**9), ("4000000000", int(0.6 * 3.5 * 10**9))])
def test_the_files_a_container_has_read_are_not_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, budget: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("3900000000\n")
    (tmp_path / "memory.stat").write_text("anon 500000000\nactive_file 1400000000\ninactive_file 2000000000\n")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=10**9))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**10))
    assert memory_budget(CPU, None, 10**9) == budget


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
