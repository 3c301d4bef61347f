"""Winograd's convolutions against PyTorch's on this CPU: `python tests/benchmarks/convolutions.py [ROUNDS]`.

Both have the same weights and pictures, are channels_last, and take turns in this process; a ratio is the median over
the turns. Networks run without gradients, training steps with Adam and an L1 loss.
"""

from __future__ import annotations

import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from upscaler.model import winograd, winograd_training
from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.winograd_networks import accelerated

INFERENCE: tuple[tuple[str, Callable[[], nn.Module], int], ...] = (
    ("RRDBNet 23 x 64", lambda: RRDBNet(), 128),
    ("RRDBNet 6 x 64", lambda: RRDBNet(blocks=6), 128),
    ("Compact 16 x 64", lambda: Compact(), 128),
    ("Compact 16 x 64", lambda: Compact(), 256),
)
TRAINING: tuple[tuple[str, Callable[[], nn.Module], int, int], ...] = (
    ("Compact 16 x 64", lambda: Compact(), 16, 32),
    ("RRDBNet 2 x 64", lambda: RRDBNet(blocks=2), 4, 32),
)


def laid(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def compared(name: str, ways: list[Callable[[], Any]], rounds: int, difference: str) -> None:
    """A line of the table: PyTorch's way and the one here."""
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for way, taken in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            if turn:
                taken.append(time.perf_counter() - start)
    direct, ours = (statistics.median(taken) * 1e3 for taken in seconds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    print(f"| {name} | {direct:.0f} | {ours:.0f} | {ratio:.2f} | {difference} |", flush=True)


@torch.inference_mode()
def inference(name: str, make: Callable[[], nn.Module], edge: int, rounds: int) -> None:
    """A whole network on one picture."""
    torch.manual_seed(0)
    network: Any = make().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = accelerated(network)
    assert fast is not None
    x = laid(torch.rand(1, 3, edge, edge))
    exact = network(x)
    difference = float((fast(x) - exact).abs().max() / exact.abs().max())
    ways: list[Callable[[], Any]] = [lambda: network(x), lambda: fast(x)]
    compared(f"{name}, {edge}x{edge}", ways, rounds, f"{difference:.1e}")


def training(name: str, make: Callable[[], nn.Module], batch: int, edge: int, rounds: int) -> None:
    """A training step."""
    torch.manual_seed(0)
    network = make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = copy.deepcopy(network)
    winograd_training.accelerate(fast)
    x, target = laid(torch.rand(batch, 3, edge, edge)), laid(torch.rand(batch, 3, 4 * edge, 4 * edge))

    def step(model: nn.Module) -> Callable[[], None]:
        optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

        def run() -> None:
            optimiser.zero_grad()
            nn.functional.l1_loss(model(x), target).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

        return run

    compared(f"{name}, a step of {batch} x {edge}x{edge}", [step(network), step(fast)], rounds, "")


def main() -> None:
    if not winograd.usable():
        raise SystemExit("numba is not installed or has no OpenMP, or SRUP_WINOGRAD is 0")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    )
    print(
        "| work | PyTorch, ms | Winograd, ms | ratio | largest difference / largest value |\n|---|---:|---:|---:|---:|"
    )
    for name, make, edge in INFERENCE:
        inference(name, make, edge, rounds)
    for name, make, batch, edge in TRAINING:
        training(name, make, batch, edge, rounds)


if __name__ == "__main__":
    main()
