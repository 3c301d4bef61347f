"""The same pictures as PNG sub-pictures and as a prepared set: `python -m tests.benchmarks.training_data FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file

from tests.benchmarks.loading import SUB_PICTURE, originals
from tests.benchmarks.steps import vgg_weights
from tests.benchmarks.training_loops import LAYER, SCALE, VGG
from upscaler.images.resize import resize
from upscaler.training.building import Storage
from upscaler.training.inspection import Rules
from upscaler.training.preparation import Settings, prepare
from upscaler.training.selection import Crops
from upscaler.training.sources import find_sources


def main(folder: Path) -> None:
    for name in ("whole", "hr", "lr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(originals(None)):
        Image.fromarray(pixels).save(folder / f"whole/{number}.png")
        for top, left, height, width in Crops(SUB_PICTURE).boxes(*pixels.shape[:2]):
            part = pixels[top : top + height, left : left + width]
            name = f"{number}-{top}-{left}.png"
            Image.fromarray(part).save(folder / "hr" / name)
            small = resize(part, height // SCALE, width // SCALE)
            Image.fromarray(small).save(folder / "lr" / name)
    save_file(vgg_weights([LAYER]).state_dict(), folder / VGG)
    settings = Settings(Rules(flat=0, blurred=0), Storage(), duplicates=False)
    prepare(find_sources([str(folder / "whole")]), folder / "set", settings, lambda _: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
