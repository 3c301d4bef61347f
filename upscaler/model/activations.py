"""What a network makes of a picture inside: feature maps of chosen layers, as pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.images.sheets import Picture
from upscaler.model.compact import Compact
from upscaler.model.device import is_out_of_memory
from upscaler.model.network import Network
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.sources import Pixels

CHANNELS = 8
"""Feature maps that are shown of each layer."""

_BLOCKS = 5
_DARK, _BRIGHT = 0.01, 0.99


@dataclass(frozen=True)
class FeatureMap:
    """One channel of a layer.

    Args:
        channel: its number.
        deviation: standard deviation over all positions, in the network's own numbers.
        picture: (h, w) uint8: its 1st percentile is black, its 99th white, and what is beyond as the nearer of both.
            Each map is scaled by itself, so that brightness says nothing between two of them.
    """

    channel: int
    deviation: float
    picture: Picture


def feature_maps(network: Network, pixels: Pixels, device: torch.device) -> dict[str, list[FeatureMap]]:
    """The feature maps of a picture, of each chosen layer those that vary most, in falling order.

    The network runs once over the picture, in fp32, and its trunk only; of a layer nothing is kept but what is shown.

    Args:
        network: an RRDBNet, Residual or Compact; it is copied, not changed.
        pixels: (H, W, 3), uint8 or uint16.
        device: where to compute.

    Returns:
        By the layers' names, from the first to the last: of RRDBNet and Residual the first convolution, up to five
        blocks from the first to the last, and the convolution after them; of Compact the activations after up to five
        convolutions from the first to the last but one, and the last convolution. Eight maps each, or as many as
        there are.

    Raises:
        UserError: another kind of network, or memory ran out.
    """
    placed: Any = copy.deepcopy(network)
    placed.to(device, torch.float32).eval().requires_grad_(False)
    found: dict[str, list[FeatureMap]] = {}

    def look(name: str, output: Tensor) -> None:
        found[name] = _most_varying(output[0])

    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, layer in chosen_layers(placed).items()
    ]
    try:
        values = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
        x = values.permute(2, 0, 1)[None].to(device)
        height, width = x.shape[-2:]
        padding = (0, -width % network.unshuffle, 0, -height % network.unshuffle)
        with torch.inference_mode():
            placed.features(F.pad(x, padding, mode="replicate"))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the feature maps of {pixels.shape[1]} x {pixels.shape[0]} pixels need more memory than there is; "
            "choose a smaller --size or leave --activations out"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def chosen_layers(network: Network) -> dict[str, nn.Module]:
    """The layers that ``feature_maps`` shows, by what they are called there."""
    if isinstance(network, RRDBNet | Residual):
        kind, after = (
            ("RRDB", network.conv_body) if isinstance(network, RRDBNet) else ("block", network.conv_after_body)
        )
        blocks = {f"{kind} {index + 1} of {len(network.body)}": network.body[index] for index in _spread(network.body)}
        return {"first convolution": network.conv_first, **blocks, f"convolution after the {kind}s": after}
    if isinstance(network, Compact):
        chain = list(network.body)[1::2]
        inner = {f"activation {index + 1} of {len(chain)}": chain[index] for index in _spread(chain)}
        return {**inner, "last convolution": network.body[-1]}
    raise UserError(f"{network.architecture} networks have no layers that --activations knows")


def _spread(layers: Sequence[nn.Module] | nn.Sequential) -> list[int]:
    """Up to five of so many layers, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, len(layers) - 1, _BLOCKS)})


def _most_varying(features: Tensor) -> list[FeatureMap]:
    deviations = features.flatten(1).std(dim=1)
    maps = []
    for channel in deviations.argsort(descending=True, stable=True)[:CHANNELS].tolist():
        values = features[channel].cpu().numpy()
        dark, bright = np.quantile(values, (_DARK, _BRIGHT))
        scaled = (values - dark) / max(float(bright - dark), 1e-12)
        picture = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
        maps.append(FeatureMap(channel, float(deviations[channel]), picture))
    return maps
