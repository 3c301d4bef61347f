"""Options that several commands share, each with one meaning, and what `--overwrite` guards."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from upscaler.errors import UserError

_LARGEST_SCALE = 1_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """``2GB``, ``1.5GiB``, ``800M`` or a plain number, as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or match[2] not in _UNITS or not 0 < float(match[1]) < math.inf:
        raise typer.BadParameter(f"{text!r} is no amount of memory; write it as 2GB, 1.5GiB or 800MB")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_scale(text: str) -> float:
    """A number above 0 that leads to a picture of a million pixels along an edge at most."""
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale <= _LARGEST_SCALE:
        raise typer.BadParameter(f"{text!r} is no scale; it must be a number above 0, such as 2 or 1.5")
    return scale


def parse_alpha(text: str) -> float:
    """A finite number."""
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise typer.BadParameter(f"{text!r} is no alpha; it must be a number, normally 0 to 1")
    return alpha


def parse_tile(text: str) -> int | Literal["auto", "whole"]:
    """``auto``, ``whole`` or a number of pixels."""
    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is no tile; use auto, whole or a number of pixels")
    return int(text)


def parse_size(text: str) -> tuple[int | None, int | None]:
    """``WxH``, ``Wx`` or ``xH``, as (width, height)."""
    match = re.fullmatch(r"([1-9]\d*)?[xX]([1-9]\d*)?", text.strip())
    if not match or not (match[1] or match[2]):
        raise typer.BadParameter(f"{text!r} is no size; write it as 1920x1080, 1920x or x1080")
    return int(match[1]) if match[1] else None, int(match[2]) if match[2] else None


def parse_place(text: str) -> tuple[int, int]:
    """``X,Y`` in pixels."""
    match = re.fullmatch(r"(\d+),(\d+)", text.strip())
    if not match:
        raise typer.BadParameter(f"{text!r} is no place; write it as X,Y in pixels, such as 120,80")
    return int(match[1]), int(match[2])


class Numbers(StrEnum):
    """What ``--precision`` can be."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha", parser=parse_alpha, metavar="A", help="Blend the model (1) with its PSNR-oriented pair (0)."
    ),
]
Memory = Annotated[
    Any,
    typer.Option(
        "--memory", parser=parse_bytes, metavar="BYTES", help="Most memory that upscaling may use, such as 2GB."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Precision = Annotated[
    Numbers,
    typer.Option(
        "--precision",
        metavar="auto|fp32|fp16|bf16",
        help="Numbers to compute with; auto is fp16 on fast GPUs, else fp32.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object per event on stdout; text for people goes to stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N, mps or another PyTorch device.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything random.")]


def refuse_given(context: typer.Context, options: Set[str], refusal: str) -> None:
    """Refuse options that would do nothing, where they were typed; ``refusal`` has {} for the option."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in options and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(refusal.format(parameter.opts[0]))


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that nobody has asked to replace."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; use --overwrite or another name")
