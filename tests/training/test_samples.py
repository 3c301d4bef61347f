"""The sheet of pictures from a training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from upscaler.images.files import open_picture
from upscaler.training.samples import EDGE, write_samples
from upscaler.training.shards import Pictures


class Same:
    """As many pictures of one size as asked for, without LR."""

    scale = None

    def __init__(self, count: int, edge: int) -> None:
        self.count, self.edge = count, edge
        self.sizes = np.full((count, 2), edge)

    def __len__(self) -> int:
        return self.count

    def hr(self, _: int) -> Any:
        return np.full((self.edge, self.edge, 3), 200, np.uint8)


@pytest.mark.parametrize(("edge", "shown"), [(96, 96), (500, EDGE)])
def test_cells_are_no_larger_than_what_is_in_them(tmp_path: Path, edge: int, shown: int) -> None:
    write_samples(tmp_path / "sheet.png", cast(Pictures, Same(40, edge)))
    sheet = open_picture(tmp_path / "sheet.png").read().pixels
    assert sheet.shape == (4 * (shown + 8) - 8, 8 * (shown + 8) - 8, 3)
    assert (sheet == 200).mean() > 0.85
