"""What the tensors of a file are called, and which network they make.

Canonical keys are BasicSR's: ``conv_first``, ``body.N.rdb1.conv1``, ``conv_body``, ``conv_up1``,
``conv_hr``, ``conv_last`` for RRDBNet, ``body.N`` for Compact, and ``body.N.conv1`` and ``conv_after_body``
for Residual. Errors are ``ValueError``; whoever knows the file's name adds it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet

Built = RRDBNet | Compact | Residual
NETWORKS: dict[str, type[Built]] = {"rrdbnet": RRDBNet, "compact": Compact, "residual": Residual}

# DataParallel and torch.compile put these before every key.
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")

_ORIGINAL = (  # the first ESRGAN release, and BSRGAN
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB([123])\."), r"body.\1.rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_OLDEST_BLOCK = re.compile(r"^model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.")
_OLDEST_TRUNK = re.compile(r"^model\.1\.sub\.\d+\.(?=weight$|bias$)")
_OLDEST_HEAD = re.compile(r"^model\.(\d+)\.(?=weight$|bias$)")


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under canonical keys, whichever layout they came in; unknown keys stay.

    Raises:
        ValueError: two keys become one.
    """
    stripped = {_PREFIX.sub("", key): tensor for key, tensor in tensors.items()}
    rename = _rename_oldest(stripped) if "model.0.weight" in stripped else _rename_original
    renamed = {rename(key): tensor for key, tensor in stripped.items()}
    if len(renamed) < len(tensors):
        raise ValueError("several of its tensors have the same name once prefixes are taken off")
    return renamed


def _rename_original(key: str) -> str:
    for pattern, replacement in _ORIGINAL:
        key = pattern.sub(replacement, key)
    return key


class _rename_oldest:  # noqa: N801 - a function with a memory
    """Renames ``model.N`` of the oldest layout, one flat sequence that counts layers without tensors too.

    The first convolution is 0 and the trunk 1. What follows has gaps for enlargements and activations
    and so depends on the scale; in order it is always the enlarging convolutions, HR and last.
    """

    def __init__(self, keys: Mapping[str, Tensor]) -> None:
        numbers = {int(match[1]) for match in map(_OLDEST_HEAD.match, keys) if match}
        if len(numbers - {0}) < 2:
            raise ValueError("it has the oldest key layout, but not its last two convolutions")
        *enlarging, hr, last = sorted(numbers - {0})
        self.names = {0: "conv_first", hr: "conv_hr", last: "conv_last"}
        self.names |= {number: f"conv_up{step}" for step, number in enumerate(enlarging, start=1)}

    def __call__(self, key: str) -> str:
        key = _OLDEST_BLOCK.sub(r"body.\1.rdb\2.conv\3.", key)
        key = _OLDEST_TRUNK.sub("conv_body.", key)
        return _OLDEST_HEAD.sub(lambda match: f"{self.names[int(match[1])]}.", key)


def identify(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The architecture of canonical tensors and the complete settings of its constructor.

    Tensors decide all they can. The metadata may repeat that, and decides the rest: residual scale,
    output activation, the kind of an activation without weights, the kind of no enlargement.

    Args:
        tensors: under canonical keys.
        metadata: ``architecture`` and ``settings`` (JSON), or each setting under its own key.

    Raises:
        ValueError: no network known here; shapes that do not fit each other; metadata that says
            something else than the tensors.
    """
    architecture: str
    if not tensors:
        raise ValueError("there are no weights in it")
    if "conv_first.weight" in tensors and "body.0.rdb1.conv1.weight" in tensors:
        architecture, seen = "rrdbnet", _rrdbnet_settings(tensors)
    elif "conv_after_body.weight" in tensors and "body.0.act.weight" in tensors:
        architecture, seen = "residual", _residual_settings(tensors)
    elif "body.0.weight" in tensors:
        architecture, seen = "compact", _compact_settings(tensors)
    else:
        raise ValueError(f"no network known to srup; its keys are such as {_examples(tensors)}")
    stated = _stated_settings(architecture, metadata)
    for name in seen.keys() & stated.keys():
        if seen[name] != stated[name]:
            raise ValueError(f"its metadata says {name} {stated[name]}, but its tensors make {seen[name]}")
    settings = stated | seen
    if architecture == "compact" and "activation" not in settings:
        raise ValueError(
            "its activation has no weights and no metadata says whether it is relu or leakyrelu; "
            "save it as safetensors with the metadata architecture=compact and activation=..."
        )
    with torch.device("meta"):
        network = NETWORKS[architecture](**settings)
    check_shapes(network.state_dict(), tensors)
    return architecture, network.settings()


def check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` naming a tensor unless both hold the same keys with the same shapes."""
    if missing := expected.keys() - found.keys():
        raise ValueError(f"{len(missing)} of its tensors are missing, such as {_examples(missing)}")
    if surplus := found.keys() - expected.keys():
        raise ValueError(f"it has {len(surplus)} tensors too many for its network, such as {_examples(surplus)}")
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise ValueError(f"{key} has the shape {list(found[key].shape)}, its network needs {list(tensor.shape)}")


def _rrdbnet_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    features, inputs = _convolution(tensors, "conv_first")[:2]
    channels = _convolution(tensors, "conv_last")[0]
    growth = _convolution(tensors, "body.0.rdb1.conv1")[0]
    blocks = _blocks(tensors)
    doublings = sum(bool(re.fullmatch(r"conv_up\d\.weight", key)) for key in tensors)
    unshuffle = _edge(inputs, channels, "conv_first")
    if 30 * blocks > len(tensors):  # before so many blocks are made
        raise ValueError(f"its {blocks} RRDBs lack some of their tensors")
    scale, rest = divmod(2**doublings, unshuffle)
    if rest:
        raise ValueError(f"{doublings} doublings after a {unshuffle}-fold pixel-unshuffle make no whole scale")
    settings: dict[str, Any] = {
        "features": features,
        "growth": growth,
        "blocks": blocks,
        "scale": scale,
        "unshuffle": unshuffle,
        "fusion_kernel": _convolution(tensors, "body.0.rdb1.conv5")[3],
        "hr_kernel": _convolution(tensors, "conv_hr")[3],
        "channels": channels,
    }
    if doublings:
        outputs, _, _, kernel = _convolution(tensors, "conv_up1")
        kind = "pixelshuffle" if outputs == 4 * features else "nearest"
        settings["upsampling"] = "transposed" if kernel == 4 else kind
    return settings


def _compact_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    numbers = sorted(int(m[1]) for m in (re.fullmatch(r"body\.(\d+)\.bias", key) for key in tensors) if m)
    if len(numbers) < 2:
        raise ValueError("a Compact network has two convolutions at least")
    features, channels = _convolution(tensors, "body.0")[:2]
    outputs = _convolution(tensors, f"body.{numbers[-1]}")[0]
    settings: dict[str, Any] = {
        "features": features,
        "convolutions": len(numbers) - 2,
        "scale": _edge(outputs, channels, "the last convolution"),
        "channels": channels,
    }
    if "body.1.weight" in tensors:
        settings["activation"] = "prelu"
    return settings


def _residual_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    features, channels = _convolution(tensors, "conv_first")[:2]
    blocks = _blocks(tensors)
    if 5 * blocks > len(tensors):  # before so many blocks are made
        raise ValueError(f"its {blocks} residual blocks lack some of their tensors")
    return {
        "features": features,
        "blocks": blocks,
        "scale": _edge(_convolution(tensors, "conv_last")[0], channels, "the last convolution"),
        "channels": channels,
    }


def _blocks(tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for match in (re.match(r"body\.(\d+)\.", key) for key in tensors) if match})


def _convolution(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.dim() != 4:
        raise ValueError(f"{name}.weight is missing or no convolution's")
    outputs, inputs, height, width = weight.shape
    return outputs, inputs, height, width


def _edge(folded: int, channels: int, where: str) -> int:
    """The edge of the square of pixels that is folded into channels."""
    edge = isqrt(folded // channels) if channels else 0
    if not edge or edge * edge * channels != folded:
        raise ValueError(f"{where} has {folded} channels, which fold no square of {channels}-channel pixels")
    return edge


def _stated_settings(architecture: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("architecture") != architecture:
        return {}
    known = {name: type(p.default) for name, p in inspect.signature(NETWORKS[architecture]).parameters.items()}
    try:
        if "settings" in metadata:
            stated = dict(json.loads(metadata["settings"]))
            if unknown := stated.keys() - known.keys():
                raise ValueError(f"it has settings unknown to this version of srup: {_examples(unknown)}")
        else:
            stated = {name: known[name](metadata[name]) for name in known.keys() & metadata.keys()}
    except (TypeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("its metadata is damaged: settings is not a JSON object") from error
    for name, value in stated.items():
        whole_float = known[name] is float and type(value) is int
        if (type(value) is not known[name] and not whole_float) or (known[name] is float and not abs(value) <= 1e6):
            raise ValueError(f"its metadata gives {name} as {repr(value)[:40]}")
    return stated


def _examples(keys: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(sorted(keys)[:3]) or "none"
