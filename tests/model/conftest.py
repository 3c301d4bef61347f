from __future__ import annotations

from typing import Any

import pytest
import torch

from upscaler.model.compact import Compact
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


def _named(settings: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in settings.items()) or "plain"


@pytest.fixture(
    params=[(RRDBNet, settings) for settings in _RRDBNETS] + [(Compact, settings) for settings in _COMPACTS],
    ids=lambda case: f"{case[0].__name__}-{_named(case[1])}",
)
def exportable(request: pytest.FixtureRequest) -> RRDBNet | Compact:
    """A tiny network of each kind that there can be, with random weights."""
    make, settings = request.param
    torch.manual_seed(0)
    # Odd numbers, so that nothing lies as ncnn packs it.
    tiny = {"features": 7, "growth": 3, "blocks": 1} if make is RRDBNet else {"features": 7, "convolutions": 2}
    network: RRDBNet | Compact = make(**(tiny | settings)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(3)  # so that every layer shows in the result
    return network
