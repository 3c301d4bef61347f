from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upscaler.images.files import Metadata, Picture, write_picture
from upscaler.images.resize import resize

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
