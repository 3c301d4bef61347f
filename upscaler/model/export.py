"""A network as files that other programs read: ONNX, ncnn's pair, PyTorch's ``.pth``."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from typing import Any, Literal

import torch

from upscaler.errors import UserError
from upscaler.model.export_layers import Exportable
from upscaler.model.export_ncnn import ncnn_pair

Format = Literal["onnx", "ncnn", "pth"]

# A .pth has no settings: what other programs take for granted where the tensors do not tell.
_ASSUMED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "rrdbnet": {
        "growth": (32,),
        "unshuffle": (1, 2, 4),
        "fusion_kernel": (3,),
        "hr_kernel": (3,),
        "upsampling": ("nearest",),
        "residual_scale": (0.2,),
        "output_activation": ("none",),
    },
    "compact": {"activation": ("prelu",)},
}


def suffixes(to: Format) -> tuple[str, ...]:
    """Of the files that a format has, with the dot."""
    return (".param", ".bin") if to == "ncnn" else (f".{to}",)


def check_writable(to: Format) -> None:
    """Refuse a format whose package is missing, before a model is fetched for it.

    Raises:
        UserError: it is missing.
    """
    if to == "onnx" and importlib.util.find_spec("onnx") is None:
        raise UserError("ONNX is written with the package onnx, which is not installed; run: pip install onnx")


def exported(network: Exportable, to: Format, notes: Mapping[str, str], *, half: bool = False) -> list[bytes]:
    """The contents of the files, in the order of ``suffixes``; the same network makes the same bytes.

    Args:
        network: on the CPU.
        to: the format.
        notes: what to tell of the network's origin, where the format has room for that: in ONNX.
        half: store convolution weights in 16 bits; only ncnn's files can.

    Raises:
        UserError: a network that the format cannot express.
    """
    if to == "onnx":
        from upscaler.model.export_onnx import onnx_model

        return [onnx_model(network, notes)]
    return list(ncnn_pair(network, half=half)) if to == "ncnn" else [_checkpoint(network)]


def round_to_half(network: Exportable) -> None:
    """Round the weights of convolutions to 16 bits, in place, so that storing them so loses nothing more.

    Raises:
        UserError: one of them is too large for that.
    """
    for name, weight in network.named_parameters():
        if weight.dim() == 4:
            weight.data = weight.data.half().float()
            if not weight.isfinite().all():
                raise UserError(f"{name} has numbers that 16 bits cannot hold; leave --fp16 out")


def _checkpoint(network: Exportable) -> bytes:
    """``params_ema`` with BasicSR's keys, which Real-ESRGAN, spandrel and all that use it read."""
    settings = network.settings()
    if network.architecture not in _ASSUMED:
        raise UserError(f"no other program reads {network.architecture} from a .pth; use --to onnx or --to ncnn")
    for name, known in _ASSUMED[network.architecture].items():
        if settings[name] not in known:
            raise UserError(
                f"a .pth cannot tell that {name} is {settings[name]}, and other programs would take it for "
                f"{' or '.join(map(str, known))}; use --to onnx or --to ncnn"
            )
    file = io.BytesIO()
    torch.save({"params_ema": network.state_dict()}, file)
    return file.getvalue()
