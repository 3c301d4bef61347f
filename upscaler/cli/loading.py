"""From a model's name on the command line to its file and its weights, with what a person should see on the way."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from upscaler.cli.console import Console, Progress
from upscaler.cli.options import parse_alpha
from upscaler.errors import UserError
from upscaler.model import catalogue
from upscaler.model.catalogue import Found

if TYPE_CHECKING:
    from upscaler.model.interpolation import Parent
    from upscaler.model.weights import Weights


def fetch_model(console: Console, name: str) -> Found:
    """The file of a model, downloaded with progress if it is not at hand.

    Raises:
        UserError: as ``catalogue.resolve``.
    """
    display: Progress | None = None
    with ExitStack() as stack:

        def advance(done: int, total: int) -> None:
            # Opened by the first bytes: nothing is shown for what is there already.
            nonlocal display
            display = display or stack.enter_context(console.progress(f"fetching {name}", total, bytes_=True))
            display.update(done)

        found = catalogue.resolve(name, progress=advance)
    if not found.pinned:
        console.warning(f"{name} is not pinned: whoever owns it can change it; this one is {found.sha256}")
    return found


def load_model(console: Console, name: str, alpha: float | None = None) -> Weights:
    """The weights of a model, downloaded if need be.

    Args:
        console: shows the progress of a download and what to know of the file.
        name: as ``catalogue.resolve`` takes it.
        alpha: blend them with their PSNR-oriented pair; 1 is the model itself, 0 its pair.

    Raises:
        UserError: as ``catalogue.resolve`` and ``load_weights``, or no pair to blend with.
    """
    from upscaler.model.interpolation import between

    if alpha is None:
        return load_parent(console, name).weights
    pair = catalogue.pair_of(name)
    if pair is None:
        raise UserError(f"{name} has no known PSNR-oriented pair to blend with; leave --alpha out")
    if not 0 <= alpha <= 1:
        console.warning(f"alpha {alpha:g} is outside 0..1 and extrapolates beyond the two models")
    return between(load_parent(console, pair), load_parent(console, name), alpha)


def load_parent(console: Console, name: str) -> Parent:
    """The weights of a model, downloaded if need be, with its name, of the catalogue where it has one, and licence.

    Raises:
        UserError: as ``catalogue.resolve`` and ``load_weights``.
    """
    from upscaler.model.interpolation import Parent
    from upscaler.model.weights import load_weights

    found = fetch_model(console, name)
    weights = load_weights(found.path)
    licence = weights.metadata.get("licence") or (found.entry.licence if found.entry else None)
    return Parent(found.entry.name if found.entry else name, weights, licence)


def parted_alpha(name: str) -> tuple[str, float | None]:
    """``NAME@ALPHA`` as the two; a name of the catalogue, which alone can have a pair to blend with.

    Raises:
        BadParameter: something else than a number behind the @.
    """
    model, separator, alpha = name.rpartition("@")
    return (model, parse_alpha(alpha)) if separator and catalogue.find(model) else (name, None)
