"""A file of weights -> architecture, settings and tensors; and back, as safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from upscaler import __version__
from upscaler.errors import UserError
from upscaler.model import layouts, ncnn
from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet

# Where a checkpoint keeps its weights, the ones to prefer first: an average before what was averaged.
_WRAPPERS = ("params_ema", "params", "state_dict", "model")


@dataclass(frozen=True)
class Weights:
    """The weights of one network, with all that is known of where they are from.

    ``tensors`` are fp32 on the CPU under canonical keys and share no memory with the file;
    ``settings`` are all the arguments of the constructor; ``digest`` is the SHA-256 of the file, of an
    ncnn pair the ``.param`` followed by the ``.bin``.
    """

    architecture: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str


def load_weights(path: Path | str) -> Weights:
    """Read weights of every known form, told apart by content and never by the name.

    Forms: safetensors; PyTorch files, through ``weights_only`` and never otherwise; ncnn, where either
    of the two files is given and the other lies beside it.

    Raises:
        UserError: a file that cannot be read, is damaged, contains code or no network known here, or
            whose numbers are not all finite.
    """
    path = Path(path)
    try:
        tensors, metadata, digest = _read(path)
        tensors = layouts.canonical(tensors)
        architecture, settings = layouts.identify(tensors, metadata)
        return Weights(architecture, settings, _as_float32(tensors), metadata, digest)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def save_weights(
    path: Path | str,
    architecture: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write weights as safetensors that describe themselves, and return the SHA-256 of the file.

    The file appears complete or not at all, and the same weights make the same bytes.

    Args:
        path: the file; its folder is made where it is missing.
        architecture: ``rrdbnet`` or ``compact``.
        settings: arguments of the network's constructor; those left out have its defaults.
        tensors: its ``state_dict``, on any device.
        metadata: what to tell of their origin. The keys in use are ``training`` (the recipe), ``data``,
            ``licence``, and for a blend ``alpha`` and ``parents``. ``architecture``, ``settings``,
            ``scale`` and ``version`` are added here.

    Raises:
        ValueError: tensors that do not make this network.
        UserError: a place that cannot be written.
    """
    with torch.device("meta"):
        network = layouts.NETWORKS[architecture](**settings)
    layouts.check_shapes(network.state_dict(), tensors)
    described = dict(metadata or {}) | {
        "architecture": architecture,
        "settings": json.dumps(network.settings()),
        "scale": str(network.scale),
        "version": __version__,
    }
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    data = _sort_header(save(plain, metadata=described))
    try:
        _write(Path(path), data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return hashlib.sha256(data).hexdigest()


def build_network(weights: Weights) -> RRDBNet | Compact:
    """The network of these weights on the CPU: fp32, eval mode, without gradients, sharing their memory."""
    with torch.device("meta"):
        network = layouts.NETWORKS[weights.architecture](**weights.settings)
    network.load_state_dict(weights.tensors, assign=True)
    return network.eval().requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors under the file's own keys, its metadata and its digest."""
    with path.open("rb") as file:
        start = file.read(512)
        digest = hashlib.file_digest(file, "sha256") if not file.seek(0) else None
    assert digest is not None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        raise ValueError("the file is empty")
    if text[:1] == b"<":
        raise ValueError("it is a web page or XML, not weights; the download probably failed, fetch it again")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError("it only points to the weights (git-lfs); fetch the file itself")
    if text.startswith(ncnn.MAGIC) or path.suffix == ".bin" and path.with_suffix(".param").exists():
        return _read_ncnn(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return *_read_torch(path, zipped=start[:1] == b"P"), digest.hexdigest()
    if start[8:9] == b"{":
        return *_read_safetensors(path), digest.hexdigest()
    raise ValueError("it is neither safetensors nor a PyTorch file nor ncnn")
