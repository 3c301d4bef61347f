"""A model's name on the command line -> its weights, with what a person should see of that."""

from __future__ import annotations

from upscaler.cli.console import Console
from upscaler.model.weights import Weights


def load_model(console: Console, name: str, alpha: float | None) -> Weights:
    """The weights of that name, downloaded if need be; with ``alpha`` blended with their PSNR-oriented pair."""
    from upscaler.model import catalogue
    raise RuntimeError
