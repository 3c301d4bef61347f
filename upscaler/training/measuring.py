"""Numbers of a run, gathered on the device and read seldom, so that nothing waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from upscaler.training.discriminators import first_and_last

_MOST_VALUES = 4096


class Meter:
    """Means and largest values since the last reading."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._largest: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """A scalar whose mean is wanted."""
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._counts[name] = self._counts.get(name, 0) + 1

    def stretch(self, name: str, value: Tensor) -> None:
        """A scalar whose largest value is wanted."""
        value = value.detach().float()
        self._largest[name] = torch.maximum(self._largest[name], value) if name in self._largest else value.clone()

    def take(self) -> dict[str, float]:
        """All of them, and begin anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()} | self._largest
        self._sums, self._counts, self._largest = {}, {}, {}
        return read(means)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "counts": self._counts, "largest": self._largest}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """From a checkpoint."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])
        self._largest = {name: value.to(device) for name, value in state["largest"].items()}


def read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars from the device, all in one copy."""
    if not values:
        return {}
    together = torch.stack([value.float() for value in values.values()]).tolist()
    return dict(zip(values, together, strict=True))


def gradient_sizes(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Norms of the gradients: of all parameters, of the first layer's weight and of the last one's."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    first, last = first_and_last(network)
    sizes = {"": _norm(gradients) if gradients else first.new_zeros(())}
    sizes |= {end: w.grad.norm() for end, w in (("_first", first), ("_last", last)) if w.grad is not None}
    return {f"gradient/{name}{end}": value for end, value in sizes.items()}


def weight_sizes(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Root mean squares of the weights, of the same parts."""
    parameters = [p.detach() for p in network.parameters()]
    count = sum(p.numel() for p in parameters)
    first, last = first_and_last(network)
    return {
        f"weight/{name}": _norm(parameters) / count**0.5,
        f"weight/{name}_first": first.detach().square().mean().sqrt(),
        f"weight/{name}_last": last.detach().square().mean().sqrt(),
    }


def distributions(name: str, network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Weights and gradients of the first and the last layer."""
    found = {}
    for end, layer in zip(("first", "last"), first_and_last(network), strict=True):
        found[f"weight/{name}_{end}"] = some(layer)
        if layer.grad is not None:
            found[f"gradient/{name}_{end}"] = some(layer.grad)
    return found


def some(values: Tensor) -> NDArray[np.float32]:
    """Up to 4096 of the values, evenly spread, as (N,) float32."""
    flat = values.detach().flatten()
    return flat[:: max(1, -(-flat.numel() // _MOST_VALUES))].float().cpu().numpy()


def finite(networks: Iterable[nn.Module]) -> bool:
    """Whether every parameter is."""
    return bool(_norm([p.detach() for network in networks for p in network.parameters()]).isfinite())


def _norm(tensors: list[Tensor]) -> Tensor:
    norms: Tensor = torch.stack(torch._foreach_norm(tensors)).norm()
    return norms
