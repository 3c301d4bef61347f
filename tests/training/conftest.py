from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upscaler.images.files import Metadata, Picture, open_picture, write_picture
from upscaler.images.resize import resize
from upscaler.training.preparation import Settings, prepare
from upscaler.training.shards import PreparedSet
from upscaler.training.sources import find_sources

Scene = Callable[..., Any]


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Makes pictures that look a little like nature: blots of every size, no two seeds alike."""

    def make(seed: int, height: int = 160, width: int = 192) -> Any:
        random = np.random.default_rng(seed)
        total = np.zeros((height, width, 3), np.float32)
        for cell in (64, 32, 16, 8, 4, 2):
            coarse = random.standard_normal((height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            total += resize(coarse, height, width) * cell**0.6
        return np.clip(128 + total * (50 / total.std()), 0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def save() -> Callable[[Path, Any], Path]:
    """Writes pixels (H, W, C) to a picture file."""

    def write(path: Path, pixels: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, Picture(np.ascontiguousarray(pixels), Metadata()))
        return path

    return write


def _compressed(pixels: Any, folder: Path) -> Any:
    path = folder / "compressed.jpg"
    write_picture(path, Picture(np.ascontiguousarray(pixels), Metadata()), quality=40)
    return open_picture(path).read().pixels


def _resized(pixels: Any, vertically: float, horizontally: float) -> Any:
    return resize(pixels, round(pixels.shape[0] * vertically), round(pixels.shape[1] * horizontally))


_WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "same": lambda pixels, _: pixels,
    "halved": lambda pixels, _: _resized(pixels, 0.5, 0.5),
    "enlarged": lambda pixels, _: _resized(pixels, 1.5, 1.5),
    "stretched": lambda pixels, _: _resized(pixels, 1, 1.25),
    "compressed": _compressed,
    "mirrored": lambda pixels, _: pixels[:, ::-1],
    "upside down": lambda pixels, _: pixels[::-1],
    "turned": lambda pixels, _: np.rot90(pixels),
    "all of it": lambda pixels, folder: _compressed(np.rot90(_resized(pixels, 0.5, 0.5), 3)[::-1], folder),
}


@pytest.fixture(params=_WAYS)
def change(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Any]:
    """Does to a picture what is often done to pictures before somebody finds them again; a test for each way."""
    return lambda pixels: np.ascontiguousarray(_WAYS[request.param](pixels, tmp_path))


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory, scene: Scene, save: Callable[[Path, Any], Path]) -> PreparedSet:
    """A training set of four small pictures, one more for validation."""
    folder = tmp_path_factory.mktemp("tiny")
    for seed in range(5):
        save(folder / f"photos/{seed}.png", scene(seed, 96, 96))
    prepare(find_sources([str(folder / "photos")]), folder / "set", Settings(validation=1), lambda _: None)
    return PreparedSet(folder / "set")
