"""Network interpolation: one network between two, or among several.

Wang et al., "ESRGAN", ECCVW 2018 (arXiv:1809.00219), section 3.4: theta = (1 - alpha) * theta_PSNR +
alpha * theta_GAN, tensor by tensor. All that a network here has are weights, biases and learned slopes; what
must not be averaged, such as counters, ``load_weights`` refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isclose
from typing import Any, NoReturn

import torch
from torch import Tensor

from upscaler.errors import UserError
from upscaler.model.weights import Weights

UNRELATED = 0.5
"""A ``kinship`` below this is of networks that were trained apart."""

# What a blend has in common with its parents.
_COMMON = {"architecture", "settings", "scale", "licence"}


@dataclass(frozen=True)
class Parent:
    """Weights to blend, and what is known of them outside of their file."""

    name: str
    weights: Weights
    licence: str | None = None


def blend(parents: Sequence[Parent], shares: Sequence[float]) -> Weights:
    """The sum of all parents' tensors, each times its share, in fp32.

    A parent whose share is 1 while the others' are 0 comes out bit for bit. Shares below 0 extrapolate.

    Args:
        parents: two or more, of one architecture with the same numbers.
        shares: as many, with a sum of 1; for two the second one is alpha.

    Returns:
        Weights whose metadata have ``parents``, a JSON list with the ``name``, ``sha256``, ``share``,
        ``licence`` (where known) and ``metadata`` of each; ``licence``, all theirs; of two also ``alpha``.

    Raises:
        ValueError: fewer than two parents, not as many shares, or another sum.
        UserError: networks that do not fit each other, or shares so large that numbers overflow.
    """
    is_whole = isclose(sum(shares), 1, abs_tol=1e-6 * sum(map(abs, shares)))
    if len(parents) < 2 or len(parents) != len(shares) or not is_whole:
        raise ValueError(f"shares of {list(shares)} for {len(parents)} parents")
    check_alike(parents)
    first = parents[0].weights
    tensors = {key: _sum([each.weights.tensors[key] for each in parents], shares) for key in first.tensors}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError("so far outside of the models the weights are too large for fp32; stay nearer to 0..1")
    metadata = {"parents": json.dumps([_record(*each) for each in zip(parents, shares, strict=True)])}
    if len(parents) == 2:
        metadata["alpha"] = str(shares[1])
    licences = dict.fromkeys(parent.licence or "unknown" for parent in parents)
    if list(licences) != ["unknown"]:
        metadata["licence"] = " AND ".join(licences)
    digest = "+".join(parent.weights.digest for parent in parents) + "@" + ",".join(map(str, shares[1:]))
    return Weights(first.architecture, first.settings, tensors, metadata, digest)


def between(psnr: Parent, gan: Parent, alpha: float) -> Weights:
    """The blend at ``alpha`` of the way from ``psnr`` (0) to ``gan`` (1); errors as of ``blend``."""
    return blend((psnr, gan), (1 - alpha, alpha))


def kinship(parents: Sequence[Parent]) -> float:
    """How much networks have in common: the least cosine between the tensors of the first and another, -1..1.

    A GAN and the PSNR-oriented network that it began with have 0.99 and more. Networks that began with other
    random numbers have about 0; their channels are in another order, and what lies between them is no network.
    """

    def product(a: Weights, b: Weights) -> float:
        return sum(float(torch.vdot(a.tensors[key].flatten(), b.tensors[key].flatten())) for key in a.tensors)

    first = parents[0].weights
    others = [parent.weights for parent in parents[1:]]
    lengths = [(product(first, first) * product(other, other)) ** 0.5 for other in others]
    return min(product(first, other) / length if length else 1.0 for other, length in zip(others, lengths, strict=True))


def check_alike(parents: Sequence[Parent]) -> None:
    """Refuse networks that are not of one architecture with the same numbers.

    Raises:
        UserError: it names the first two that differ, and in what.
    """
    one, a = parents[0], parents[0].weights
    for other in parents[1:]:
        b = other.weights
        if a.architecture != b.architecture:
            what = f"{a.architecture} and {b.architecture}"
        elif a.settings != b.settings:
            unlike = [key for key, value in b.settings.items() if a.settings.get(key) != value]
            what = f"{a.architecture} with " + ", ".join(
                f"{key} {a.settings[key]} and {b.settings[key]}" for key in unlike
            )
        else:
            continue
        raise UserError(f"only networks of one architecture can be blended; {one.name} and {other.name} are {what}")


def unfolded(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of weights with the parents of a blend as ``blend`` recorded them, no longer as JSON."""
    told: dict[str, Any] = dict(metadata)
    try:
        parents = json.loads(metadata.get("parents", ""), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return told  # the digests of what a training began with, or nothing that ``blend`` wrote
    if isinstance(parents, list):
        told["parents"] = parents
    return told


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _sum(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    # Zero times a number is not nothing: added to -0 it gives +0.
    return reduce(torch.add, [share * tensor.float() for share, tensor in zip(shares, tensors, strict=True) if share])


def _record(parent: Parent, share: float) -> dict[str, Any]:
    weights = parent.weights
    own = {key: value for key, value in weights.metadata.items() if key not in _COMMON | weights.settings.keys()}
    licence = {"licence": parent.licence} if parent.licence else {}
    # 1 - 0.7 is not quite 0.3.
    told = {"name": parent.name, "sha256": weights.digest, "share": round(share, 12)}
    return {**told, **licence, "metadata": unfolded(own)}
