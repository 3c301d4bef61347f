"""From a model's name on the command line to its weights, with what a person should see on the way."""

from __future__ import annotations

from pathlib import Path

from upscaler.cli.console import Console
from upscaler.errors import UserError
from upscaler.model import catalogue
from upscaler.model.interpolation import blend
from upscaler.model.weights import Weights, load_weights


def load_model(console: Console, name: str, alpha: float | None = None) -> Weights:
    """The weights of that name, downloaded if need be.

    Args:
        console: shows the progress of a download and what to know of the file.
        name: as ``catalogue.resolve`` takes it.
        alpha: blend them with their PSNR-oriented pair; 1 is the model itself, 0 its pair.

    Raises:
        UserError: what ``resolve`` and ``load_weights`` raise, or no pair to blend with.
    """
    if alpha is None:
        return load_weights(resolve(console, name))
    pair = catalogue.pair_of(name)
    if pair is None:
        raise UserError(f"{name} has no known PSNR-oriented pair to blend with; leave --alpha out")
    if not 0 <= alpha <= 1:
        console.warning(f"alpha {alpha:g} is outside 0..1 and extrapolates beyond the two models")
    return blend(load_weights(resolve(console, pair)), load_weights(resolve(console, name)), alpha)


def resolve(console: Console, name: str) -> Path:
    """The file of a model, downloaded with progress if it is not at hand."""
    found = catalogue.locate(name)
    if found is None:
        entry = catalogue.find(name)
        size = entry.bytes if entry else None
        with console.progress(f"fetching {name}", size or 0, bytes_=True) as progress:
            found = catalogue.resolve(name, progress=lambda done, _: progress.update(done))
        if not found.pinned:
            console.notice(f"{name} is not pinned to one commit; what came has the SHA-256 {found.sha256}")
    return found.path
