"""What the rest of the package may expect of a network."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Network(Protocol):
    """A super-resolution network in two halves, so that each half can be tiled by its own rule.

    ``features`` (the trunk) works at low resolution and sees far; ``reconstruct`` (the head)
    produces the large picture and sees only ``head_reach`` feature pixels around each position.
    Pictures are float tensors (N, channels, H, W), nominally in 0..1.
    """

    architecture: str
    scale: int
    """Output pixels per input pixel."""
    channels: int
    """Picture channels, the same in and out: 3 for RGB, 1 for grey."""
    unshuffle: int
    """Input pixels per feature pixel along an edge; ``features`` needs H and W to be multiples of it."""
    trunk_reach: int
    """Input pixels around a position that can change its features: exact, not measured."""
    head_reach: int
    """Feature pixels around a position that can change its output pixels: exact."""
    trunk_floats: int
    """Floats alive at once in ``features`` for each feature pixel, the result included."""
    head_floats: int
    """Floats alive at once in ``reconstruct`` for each feature pixel, the result included."""
    feature_floats: int
    """Floats in the result of ``features`` for each feature pixel."""
    trunk_operations: int
    """Multiplications in ``features`` for each feature pixel."""
    head_operations: int
    """Multiplications in ``reconstruct`` for each feature pixel."""

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that make this network again."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, F, H / unshuffle, W / unshuffle)."""
        ...

    def reconstruct(self, f: Tensor) -> Tensor:
        """(N, F, h, w) to (N, channels, h * unshuffle * scale, w * unshuffle * scale)."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H * scale, W * scale), any H and W."""
        ...
