"""The engine on CUDA, without a GPU: that devices and precisions do not mix, and when the host waits.

``gpu`` of ``tests/conftest.py`` says what is seen there and what is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from upscaler.images.rows import Rows
from upscaler.model.compact import Compact
from upscaler.model.engine import Engine
from upscaler.model.events import Event, Redone
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.tiles import make_plan
from upscaler.transfers import Leaving

NETWORKS: dict[str, Any] = {
    "compact": lambda: Compact(features=4, convolutions=1),
    "rrdbnet": lambda: RRDBNet(features=4, growth=2, blocks=1),
    "rrdbnet unshuffled": lambda: RRDBNet(features=4, growth=2, blocks=1, scale=2, unshuffle=2),
    "rrdbnet pixelshuffle": lambda: RRDBNet(features=4, growth=2, blocks=1, upsampling="pixelshuffle"),
    "rrdbnet transposed": lambda: RRDBNet(features=4, growth=2, blocks=1, scale=2, upsampling="transposed"),
}
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


TILES: dict[Any, int] = {"whole": 1, 16: 2}


def run(gpu: Any, network: Any, dtype: torch.dtype, tile: Any, *, tta: bool = False) -> list[Event]:
    """A picture of 16 x 24 pixels; what was told."""
    events: list[Event] = []
    with gpu:
        engine = Engine(network, device=gpu.device, tta=tta, notify=events.append)
        engine._network_in(dtype)
        gpu.waits.clear()
        plan = make_plan(network, 16, 24, budget=10**9, tile=tile, shared=False)
        assert plan.tiles == TILES[tile]
        rows = Rows(16, 24, 3, [np.random.default_rng(0).random((16, 24, 3), np.float32)])
        picture = engine.run(rows, plan, dtype=dtype).window(0, 16 * network.scale)
    assert picture.shape == (16 * network.scale, 24 * network.scale, 3)
    assert (picture == 0.5).all()
    return events


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_one_device_and_one_precision(gpu: Any, kind: str, dtype: torch.dtype) -> None:
    run(gpu, NETWORKS[kind](), dtype, "whole")
    assert {found for _, found in gpu.products} == {dtype}
    assert len(gpu.waits) == 1  # for the whole result


@pytest.mark.parametrize("kind", NETWORKS)
def test_tiles_are_not_waited_for_but_by_their_events(gpu: Any, kind: str) -> None:
    run(gpu, NETWORKS[kind](), torch.float16, 16)
    assert not gpu.waits
    assert not gpu.under_way


@pytest.mark.parametrize("tile", TILES)
def test_turned_tiles(gpu: Any, tile: Any) -> None:
    run(gpu, NETWORKS["compact"](), torch.bfloat16, tile, tta=True)
    assert {found for _, found in gpu.products} == {torch.bfloat16}
    assert len(gpu.waits) == (tile == "whole")


def test_a_tile_travels_while_the_next_is_computed(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than one, for which the plan has memory."""
    order: list[str] = []
    computed, arrived = Engine._computed, Leaving.arrived

    def watched_computed(*arguments: Any, **options: Any) -> Any:
        order.append("computed")
        return computed(*arguments, **options)

    def watched_arrived(leaving: Leaving) -> Any:
        order.append("arrived")
        return arrived(leaving)

    monkeypatch.setattr(Engine, "_computed", watched_computed)
    monkeypatch.setattr(Leaving, "arrived", watched_arrived)
    TILES[8] = 6
    run(gpu, NETWORKS["compact"](), torch.float32, 8)
    row = ["computed", "computed", "arrived", "computed", "arrived", "arrived"]
    assert order == [*row, *row]


def test_a_tile_that_is_not_finite_is_computed_again_on_the_gpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaving, "arrived", lambda leaving: leaving._here)  # before it is there it is NaN
    events = run(gpu, NETWORKS["compact"](), torch.float16, 16)
    assert sum(isinstance(event, Redone) for event in events) == 2
    assert {found for _, found in gpu.products} == {torch.float16, torch.float32}
