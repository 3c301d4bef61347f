from __future__ import annotations

from typing import Any

from upscaler.images.resize import resize
from upscaler.training.fingerprints import luma, thumbnail
from upscaler.training.inspection import Inspection
from upscaler.training.verdicts import groups


def test_pictures_of_the_same_are_a_group(scene: Any) -> None:
    pictures = [scene(0), scene(1), scene(0)[::-1], scene(2), resize(scene(1), 80, 96), resize(scene(0), 80, 96)]
    inspections = [
        Inspection(str(index), ("",), thumbnail=thumbnail(luma(pixels)).tobytes().hex())
        for index, pixels in enumerate(pictures)
    ]
    assert groups(inspections) == [0, 1, 0, 3, 1, 0]
    assert groups([]) == []
