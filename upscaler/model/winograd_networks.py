"""The networks by the convolutions of ``winograd.py``: the same numbers, for inference on the CPU in float32."""

from __future__ import annotations

from upscaler.model.compact import Compact
from upscaler.model.network import Network
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.winograd import FEWEST_CHANNELS
from upscaler.model.winograd_chains import AcceleratedCompact, AcceleratedResidual
from upscaler.model.winograd_dense import AcceleratedRRDBNet
from upscaler.model.winograd_layers import Accelerated, Worked


def accelerated(network: Network, worked: Worked = lambda _: None) -> Accelerated | None:
    """What computes the same as a network, faster; None where nothing does.

    The weights are transformed, and so copied, at the first use; the network must not change before. What it needs
    of ``winograd`` must be ``usable``.

    Args:
        network: on the CPU, in float32.
        worked: told of the work as it is done.
    """
    if network.settings()["features"] < FEWEST_CHANNELS:
        return None
    # Networks derived from these may compute something else.
    if type(network) is RRDBNet:
        return AcceleratedRRDBNet(network, worked)
    if type(network) is Compact:
        return AcceleratedCompact(network, worked)
    return AcceleratedResidual(network, worked) if type(network) is Residual else None
