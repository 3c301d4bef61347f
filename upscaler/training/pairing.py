"""Given LR pictures: which belongs to which HR picture, and whether the two really are a pair."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from upscaler.images.partners import core_of
from upscaler.images.resize import resize
from upscaler.training.fingerprints import Luma, correlation, details, overlap, views

SAME_SCENE = 0.7
"""An LR picture whose luma correlates less with its reduced HR picture shows something else."""

_BETTER = 0.05
"""A shift or a turn counts if the details correlate by so much more with it than without."""

_CENTRE = 512
_FLAT = 2.0
_SMALLEST = 8


class Partners:
    """LR pictures by the names of their HR pictures.

    Names fit without their suffixes, or else without endings such as ``x4``, ``_LR`` and ``_HR`` on
    either; those in the same folder below their source go before those elsewhere.

    Args:
        names: of the LR pictures, relative to their folder.
        scale: HR pixels per LR pixel.
    """

    def __init__(self, names: Iterable[str], scale: int) -> None:
        self._scale = scale
        self._known: dict[str, list[str]] = {}
        for name in names:
            for key in self._keys(name):
                self._known.setdefault(key, []).append(name)

    def find(self, name: str) -> list[str]:
        """The LR pictures that fit an HR picture by name: one if all is well."""
        return next((self._known[key] for key in self._keys(name) if key in self._known), [])

    def _keys(self, name: str) -> list[str]:
        """What a name can be known by, the surest first; each begins with its kind."""
        bare = PurePosixPath(name).with_suffix("")
        core = core_of(bare.name, self._scale)
        return [f"path {bare}", f"path core {bare.parent / core}", f"stem {bare.name}", f"stem core {core}"]


def pair_problem(hr: Luma, lr: Luma, scale: int) -> str | None:
    """Why two pictures are no pair, in words, or None if they are one.

    The HR picture is reduced to the size of the LR picture. The shift between the two is the peak of
    their phase correlation (Kuglin and Hines, "The phase correlation image alignment method", 1975).

    Args:
        hr: (H, W).
        lr: (h, w).
        scale: what H / h and W / w must be.
    """
    if hr.shape != (lr.shape[0] * scale, lr.shape[1] * scale):
        return (
            f"HR of {hr.shape[1]} x {hr.shape[0]} is not {scale} times LR of {lr.shape[1]} x {lr.shape[0]}; "
            "give the right --scale, or the right picture"
        )
    reduced = _centre(resize(hr[..., None].astype(np.float32), *lr.shape)[..., 0])
    given = _centre(lr.astype(np.float32))
    if min(given.shape) < _SMALLEST or reduced.std() < _FLAT:
        return None
    down, across = _shift(reduced, given)
    fine = details(reduced), details(given)
    there, moved = correlation(*fine), correlation(*overlap(*fine, down, across))
    turned = (view for view in views(fine[1]) if view.shape == fine[0].shape)
    if any(correlation(fine[0], view) > max(there, moved) + _BETTER for view in turned):
        return "LR is mirrored or turned"
    if correlation(*overlap(reduced, given, down, across)) < SAME_SCENE:
        return "LR does not show what HR shows"
    if (down, across) != (0, 0) and moved > there + _BETTER:
        return f"LR is shifted by {_towards(-down, 'down', 'up')} and {_towards(-across, 'right', 'left')} LR pixels"
    return None


def _centre(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    top, left = (max((length - _CENTRE) // 2, 0) for length in plane.shape)
    return plane[top : top + _CENTRE, left : left + _CENTRE]


def _shift(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[int, int]:
    """How far ``b`` must be moved down and to the right to lie on ``a``, at most a quarter of the picture."""
    window = np.hanning(a.shape[0] + 2)[1:-1, None] * np.hanning(a.shape[1] + 2)[1:-1]
    spectra = [np.fft.rfft2((plane - plane.mean()) * window) for plane in (a, b)]
    product = spectra[0] * np.conj(spectra[1])
    peaks = np.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), s=a.shape)
    rows, columns = (np.fft.fftfreq(length, 1 / length).round().astype(int) for length in a.shape)
    near = (np.abs(rows) <= a.shape[0] // 4)[:, None] & (np.abs(columns) <= a.shape[1] // 4)
    row, column = np.unravel_index(np.argmax(np.where(near, peaks, -np.inf)), peaks.shape)
    return int(rows[row]), int(columns[column])


def _towards(amount: int, positive: str, negative: str) -> str:
    return f"{abs(amount)} {positive if amount >= 0 else negative}"
