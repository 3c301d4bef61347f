"""Muon: momentum whose matrices are made orthogonal, with Adam for everything that is no matrix.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with the scale of
J. Liu et al., "Muon is Scalable for LLM Training" (arXiv:2502.16982), equation 4. A convolution is taken
as the matrix of its output channels by all that each of them reads. Directions of such a matrix whose
gradients are small move about as fast as those whose gradients are large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's quintic, which takes singular values in 0.003..1 to about 1 in five steps."""

_STEPS = 5

_RMS = 0.2
"""Root mean square of an update over the learning rate: about Adam's, so that its rates can be kept."""

_LEAST_CHANNELS = 12
"""What reads or gives fewer channels, such as the colours of a picture, is left to Adam."""


class Muon(Optimizer):
    """Muon for matrices and convolutions of at least 12 channels at both ends, AdamW for the rest.

    Args:
        parameters: what to move.
        lr: learning rate of both.
        betas: ``betas[0]`` is the momentum of both (Nesterov's, where matrices are made orthogonal), ``betas[1]``
            the decay of Adam's squared gradients.
        weight_decay: decoupled, a share of the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if _is_matrix(parameter) else others).append(parameter)
        groups = [{"params": matrices, "orthogonal": True}, {"params": others, "orthogonal": False}]
        super().__init__(
            [group for group in groups if group["params"]], {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            for parameter, _ in moving:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if group["orthogonal"]:
                self._move_matrices(moving, group)
            else:
                self._move_others(moving, group)

    def _move_matrices(self, moving: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        """Matrices of one size are made orthogonal together."""
        sizes: dict[torch.Size, list[nn.Parameter]] = {}
        nesterov: dict[nn.Parameter, Tensor] = {}
        beta = group["betas"][0]
        for parameter, gradient in moving:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            nesterov[parameter] = gradient.lerp(state["momentum"].lerp_(gradient, 1 - beta), beta).flatten(1)
            sizes.setdefault(parameter.shape, []).append(parameter)
        for alike in sizes.values():
            directions = orthogonal(torch.stack([nesterov[parameter] for parameter in alike]))
            scale = _RMS * max(directions.shape[1:]) ** 0.5
            for parameter, direction in zip(alike, directions, strict=True):
                parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * scale)

    def _move_others(self, moving: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        """Kingma and Ba, "Adam", algorithm 1."""
        first, second = group["betas"]
        for parameter, gradient in moving:
            state = self.state[parameter]
            if not state:
                state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
            state["step"] += 1
            mean = state["mean"].lerp_(gradient, 1 - first)
            square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
            spread = (square / (1 - second ** state["step"])).sqrt_().add_(1e-8)
            parameter.addcdiv_(mean, spread, value=-group["lr"] / (1 - first ** state["step"]))


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows (or columns, if these are fewer), roughly.

    The quintic is odd in a matrix X, so its iterates are polynomials in X X^T times X: these are multiplied
    out in the small square, and X is read twice.

    Args:
        matrices: (N, R, C) float32, multiplied as such: with TF32 or bfloat16 small singular values drown in
            the square. All zeros stay.

    Returns:
        (N, R, C), with singular values of 0.6 to 1.25 where they were above 1/200 of the matrix's norm, and at most
        485 times as large as they were over the norm where not.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    a, b, c = _NEWTON_SCHULZ
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    square = matrices @ matrices.mT
    unit = torch.eye(square.shape[1], dtype=square.dtype, device=square.device)
    factor = product = a * unit + b * square + c * square @ square
    for _ in range(_STEPS - 1):
        square = factor @ square @ factor
        factor = a * unit + b * square + c * square @ square
        product = factor @ product
    return product @ matrices


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and min(parameter.shape[:2]) >= _LEAST_CHANNELS
