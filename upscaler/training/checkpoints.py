"""Checkpoints: everything a run needs to go on as if nothing had happened."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from upscaler.errors import UserError
from upscaler.saving import whole_file

FORMAT = 2
_NAME = re.compile(r"step-(\d{9})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:09}.pt"


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """All checkpoints by step, oldest first."""
    found = {int(match[1]): path for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint so that it is there complete or not at all.

    Args:
        folder: of the checkpoints.
        step: steps done.
        state: tensors, numbers, text, and lists and dicts of them.

    Raises:
        UserError: it cannot be written, for example for want of space. Those before it stay as they are.
    """
    path = checkpoint_path(folder, step)
    with whole_file(path) as file:
        try:
            torch.save({"format": FORMAT, "step": step, **state}, file)
        except RuntimeError as error:
            # What the system refuses, PyTorch covers with an error of its own about the end of the file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; its tensors are on the CPU, so that a device need not hold them twice.

    Raises:
        UserError: it cannot be read, is damaged, or is of another version.
    """
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():  # which torch.load does not look for
                raise ValueError(damaged)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise UserError(f"{path} is damaged or no checkpoint") from error
    if version != FORMAT:
        raise UserError(f"{path} is of format {version}, and this srup reads {FORMAT}")
    return state


def thin_out(folder: Path, keep: int, bests: Sequence[int]) -> None:
    """Remove all but the last ``keep`` checkpoints and, for each of them, that of the best weights until then.

    Args:
        folder: of the checkpoints.
        keep: at least 1.
        bests: steps at which the weights were the best so far, in ascending order.
    """
    found = checkpoints_in(folder)
    kept = list(found)[-keep:]
    precious = {max(best for best in bests if best <= step) for step in kept if bests and bests[0] <= step}
    for step in list(found)[:-keep]:
        if step not in precious:
            with suppress(FileNotFoundError):
                found[step].unlink()


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for later, path in checkpoints_in(folder).items():
        if later > step:
            path.unlink(missing_ok=True)
