"""Optimisers, and learning rates as functions of the progress of a stage."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import nn

from upscaler.training import config
from upscaler.training.muon import Muon

_FUSED = ("cpu", "cuda")


def build_optimiser(settings: config.Optimiser, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of these parameters, in one kernel for all of them where the device has one."""
    parameters = list(parameters)
    if settings.optimiser == "muon":
        return Muon(parameters, settings.learning_rate, settings.betas, settings.weight_decay)
    fused = parameters[0].device.type in _FUSED
    if settings.optimiser == "sgd":
        sgd = torch.optim.SGD(
            parameters,
            settings.learning_rate,
            momentum=settings.betas[0],
            weight_decay=settings.weight_decay,
            fused=fused,
        )
        for parameter in parameters:
            # The fused kernel's own would be whatever lies in memory if fp16 skips the first step.
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    return kind(
        parameters, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=fused
    )


def learning_rate(settings: config.Optimiser, progress: float) -> float:
    """The learning rate at a moment of a stage.

    Cosine with restarts is Loshchilov and Hutter, "SGDR", ICLR 2017 (arXiv:1608.03983), equation 5, with
    cycles of one length.

    Args:
        settings: its schedule.
        progress: 0..1, the share of the stage that is done.
    """
    rate = settings.learning_rate
    if progress < settings.warmup:
        return rate * progress / settings.warmup
    if settings.schedule == "multistep":
        return float(rate * settings.factor ** sum(progress >= milestone for milestone in settings.milestones))
    if settings.schedule == "cosine":
        cycle = progress * (settings.restarts + 1) % 1
        return rate * (settings.least + (1 - settings.least) * (1 + cos(pi * cycle)) / 2)
    return rate


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step be made at this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
