from __future__ import annotations

from typing import Any

import pytest
import torch

from upscaler.model.compact import Compact
from upscaler.model.export_layers import Exportable
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

_RRDBNETS: tuple[dict[str, Any], ...] = (
    {},
    {"scale": 1},
    {"scale": 2},
    {"scale": 8},
    {"scale": 2, "unshuffle": 2},
    {"scale": 1, "unshuffle": 4},
    {"scale": 2, "unshuffle": 2, "channels": 1},
    {"upsampling": "pixelshuffle"},
    {"upsampling": "transposed"},
    {"fusion_kernel": 1},
    {"hr_kernel": 5},
    {"output_activation": "sigmoid"},
    {"output_activation": "tanh"},
    {"residual_scale": 0.12345678},
    {"residual_scale": 1.0},
)
_COMPACTS: tuple[dict[str, Any], ...] = (
    {},
    {"activation": "relu"},
    {"activation": "leakyrelu"},
    {"scale": 1},
    {"scale": 3},
    {"scale": 5, "channels": 1},
    {"convolutions": 0},
)
_RESIDUALS: tuple[dict[str, Any], ...] = ({}, {"blocks": 1, "scale": 3}, {"scale": 1, "channels": 1})
# Odd numbers, so that nothing lies as ncnn packs it.
_TINY: dict[type, dict[str, Any]] = {
    RRDBNet: {"features": 7, "growth": 3, "blocks": 1},
    Compact: {"features": 7, "convolutions": 2},
    Residual: {"features": 7, "blocks": 2},
}


def _named(settings: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in settings.items()) or "plain"


@pytest.fixture(
    params=[
        (kind, settings)
        for kind, several in ((RRDBNet, _RRDBNETS), (Compact, _COMPACTS), (Residual, _RESIDUALS))
        for settings in several
    ],
    ids=lambda case: f"{case[0].__name__}-{_named(case[1])}",
)
def exportable(request: pytest.FixtureRequest) -> Exportable:
    """A tiny network of each kind that there can be, with random weights."""
    make, settings = request.param
    torch.manual_seed(0)
    network: Exportable = make(**(_TINY[make] | settings)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(3)  # so that every layer shows in the result
    return network
