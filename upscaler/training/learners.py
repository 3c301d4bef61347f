"""Networks that learn: each with its optimiser, and the discriminator as it is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from upscaler.model.equivariance import Equivariance
from upscaler.training.config import Losses, Optimiser
from upscaler.training.losses import gradient_penalty, r1_penalty
from upscaler.training.optimisers import build_optimiser, learning_rate, set_rate
from upscaler.training.stabilisers import mixing
from upscaler.transfers import sent


class Learner:
    """A network with what moves its weights.

    Args:
        network: on its device.
        forward: what is called in its place to compute gradients; holds ``network``.
        settings: of the optimiser.
        scaled: gradients are scaled to survive fp16.
        equivariance: of the network, where its weights are to keep it.
    """

    def __init__(
        self,
        network: nn.Module,
        forward: nn.Module,
        settings: Optimiser,
        *,
        scaled: bool,
        equivariance: Equivariance | None = None,
    ) -> None:
        self.network, self.forward, self.settings, self.equivariance = network, forward, settings, equivariance
        self.optimiser = build_optimiser(settings, network.parameters())
        device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._settled = False

    def begin(self, progress: float, factor: float) -> None:
        """Forget the last gradients and set the learning rate."""
        self._settled = False
        self.optimiser.zero_grad(set_to_none=True)
        set_rate(self.optimiser, learning_rate(self.settings, progress) * factor)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def joining(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes with the last part of a batch alone."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return self.forward.no_sync()

    def finish(self) -> None:
        """Move the weights."""
        self.settle()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.equivariance:
            self.equivariance.bind_weights()

    def settle(self) -> None:
        """Undo the scaling of the gradients and bind them, once a step."""
        if self._settled:
            return
        self.scaler.unscale_(self.optimiser)
        if self.equivariance:
            self.equivariance.bind_gradients()
        self._settled = True

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])


class Judge(nn.Module):
    """The discriminator on both kinds of pictures and its penalties, in one forward pass.

    DistributedDataParallel averages the gradients of one forward pass, not of two.
    """

    def __init__(self, discriminator: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.losses = losses

    def forward(self, real: Tensor, fake: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) twice to the raw outputs for both and the weighted sum of the penalties."""
        outputs = self.discriminator(real), self.discriminator(fake)
        penalty = real.new_zeros(())
        if self.losses.penalty_weight:
            mix = sent(mixing(seeds), real.device)
            penalty = penalty + self.losses.penalty_weight * gradient_penalty(self.discriminator, real, fake, mix)
        if self.losses.r1_weight:
            penalty = penalty + self.losses.r1_weight * r1_penalty(self.discriminator, real)
        return *outputs, penalty
