from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from upscaler.errors import UserError
from upscaler.images.rows import FloatArray, Rows
from upscaler.model import acceleration, winograd
from upscaler.model.compact import Compact
from upscaler.model.engine import Engine
from upscaler.model.events import Compiling, Event, Redone, Shrunk, Uncompiled, Worked
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.sources import PixelSource
from upscaler.model.tiles import make_plan
from upscaler.model.upscaler import Upscaler
from upscaler.model.winograd_networks import accelerated

CPU = torch.device("cpu")


def engine(network: Any, events: list[Event] | None = None, *, tta: bool = False) -> Engine:
    seen: list[Event] = [] if events is None else events
    return Engine(network, device=CPU, tta=tta, notify=seen.append)


def network(kind: str) -> Any:
    torch.manual_seed(1)
    made: dict[str, Any] = {
        "compact": lambda: Compact(features=12, convolutions=4),
        "residual": lambda: Residual(features=12, blocks=2),
        "compact x3": lambda: Compact(features=12, convolutions=2, scale=3),
        "rrdbnet": lambda: RRDBNet(features=12, growth=4, blocks=1),
        "rrdbnet x2 unshuffled": lambda: RRDBNet(features=12, growth=4, blocks=1, scale=2, unshuffle=2),
        "rrdbnet x1 unshuffled": lambda: RRDBNet(features=12, growth=4, blocks=1, scale=1, unshuffle=4),
        "rrdbnet x8 transposed": lambda: RRDBNet(features=12, growth=2, blocks=1, scale=8, upsampling="transposed"),
        "rrdbnet kernel 5": lambda: RRDBNet(features=12, growth=4, blocks=1, hr_kernel=5, upsampling="pixelshuffle"),
    }
    return made[kind]()


def picture(height: int, width: int) -> FloatArray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def run(machine: Engine, values: FloatArray, **how: Any) -> FloatArray:
    height, width = values.shape[:2]
    plan = how.pop("plan", None) or make_plan(
        machine.network, height, width, budget=how.pop("budget", 10**9), tile=how.pop("tile", "auto")
    )
    source = Rows(height, width, 3, (values[top : top + 7] for top in range(0, height, 7)))
    how.setdefault("dtype", torch.float32)
    return np.concatenate(list(machine.run(source, plan, **how).bands(11)))


def direct(made: Any, values: FloatArray) -> FloatArray:
    with torch.inference_mode():
        y = made(torch.from_numpy(values).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    return np.asarray(y.clamp(0, 1))


@pytest.mark.parametrize(
    "kind",
    [
        "compact",
        "compact x3",
        "rrdbnet",
        "rrdbnet x2 unshuffled",
        "rrdbnet x1 unshuffled",
        "rrdbnet x8 transposed",
        "rrdbnet kernel 5",
    ],
)
@pytest.mark.parametrize("tile", ["whole", 8, 16, 37])
@pytest.mark.parametrize(("height", "width"), [(61, 83), (1, 1), (3, 5), (40, 7)])
def test_tiles_give_what_the_whole_gives(kind: str, tile: Any, height: int, width: int) -> None:
    made, values = network(kind), picture(height, width)
    result = run(engine(made), values, tile=tile)
    assert result.shape == (height * made.scale, width * made.scale, 3)
    assert np.abs(result - direct(made, values)).max() < 1e-5


def test_the_head_in_bands_of_one_row_gives_the_same() -> None:
    made, values = network("rrdbnet"), picture(20, 30)
    machine = engine(made)
    plan = make_plan(made, 20, 30, budget=10**9)
    narrow = type(plan)(**{**vars(plan), "head_rows": 1})
    rows = machine.run(Rows(20, 30, 3, [values]), narrow, dtype=torch.float32)
    assert np.abs(rows.window(0, 80) - direct(made, values)).max() < 1e-5


def test_a_plan_from_a_small_budget_gives_the_same() -> None:
    made, values = network("rrdbnet"), picture(90, 120)
    assert np.abs(run(engine(made), values, budget=8_000_000) - direct(made, values)).max() < 1e-5


class Limited(Compact):
    """A network that runs out of memory on pictures of more than so many pixels."""

    limit = 0

    def features(self, x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return super().features(x)


def test_out_of_memory_shrinks_the_plan_and_goes_on() -> None:
    torch.manual_seed(1)
    made, events, values = Limited(features=12, convolutions=2), list[Event](), picture(64, 64)
    made.limit = 1500
    result = run(engine(made, events), values)
    made.limit = 10**9
    assert np.abs(result - direct(made, values)).max() < 1e-5
    shrunk = [event for event in events if isinstance(event, Shrunk)]
    assert shrunk
    assert shrunk[-1].plan.tiles > 1


def test_out_of_memory_for_every_tile_is_said() -> None:
    made = Limited(features=12, convolutions=2)
    with pytest.raises(UserError, match="out of memory on cpu"):
        run(engine(made), picture(64, 64))


def test_a_picture_that_cannot_be_read_for_want_of_memory_is_no_reason_to_shrink() -> None:
    def broken() -> Any:
        yield picture(10, 40)
        raise MemoryError

    made, events = network("compact"), list[Event]()
    plan = make_plan(made, 40, 40, budget=10**9)
    with pytest.raises(MemoryError):
        list(engine(made, events).run(Rows(40, 40, 3, broken()), plan, dtype=torch.float32).bands(8))
    assert events == []


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    class Broken(Compact):
        def features(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"something else with {x.shape}")

    with pytest.raises(RuntimeError, match="something else"):
        run(engine(Broken()), picture(8, 8))


class Overflowing(Compact):
    """A network that is not a number in half precision where the picture is bright."""

    def features(self, x: Tensor) -> Tensor:
        result = super().features(x)
        return result if x.dtype == torch.float32 or x.max() < 0.9 else result * torch.inf


def test_values_that_are_no_numbers_are_computed_again_in_fp32() -> None:
    torch.manual_seed(1)
    made, events = Overflowing(features=12, convolutions=1), list[Event]()
    values = picture(32, 32) * np.float32(0.5)
    values[20, 20] = 1
    result = run(engine(made, events), values, tile=16, dtype=torch.bfloat16)
    redone = [event.box for event in events if isinstance(event, Redone)]
    assert [(box.top, box.left) for box in redone] == [(16, 16)]
    exact = direct(made, values)
    assert np.abs(result[64:, 64:] - exact[64:, 64:]).max() < 1e-5
    assert np.abs(result - exact).max() < 0.05


def test_values_that_stay_no_numbers_are_refused() -> None:
    made = Compact(features=4, convolutions=1)
    with torch.no_grad():
        made.body[0].bias.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(UserError, match="not finite"):
        run(engine(made), picture(8, 8))


@pytest.mark.parametrize("kind", ["compact", "rrdbnet x2 unshuffled"])
@pytest.mark.parametrize("tile", ["whole", 16])
def test_tta_is_the_mean_over_the_eight_turns(kind: str, tile: Any) -> None:
    made, values = network(kind), picture(24, 40)
    expected = np.zeros((24 * made.scale, 40 * made.scale, 3), np.float32)
    for transposed in (False, True):
        for quarter in range(0, 4):
            turned = np.rot90(values.swapaxes(0, 1) if transposed else values, quarter)
            back = np.rot90(direct_unclipped(made, np.ascontiguousarray(turned)), -quarter)
            expected += (back.swapaxes(0, 1) if transposed else back) / 8
    result = run(engine(made, tta=True), values, tile=tile)
    assert np.abs(result - expected.clip(0, 1)).max() < 1e-5


def direct_unclipped(made: Any, values: FloatArray) -> FloatArray:
    with torch.inference_mode():
        return np.asarray(made(torch.from_numpy(values).permute(2, 0, 1)[None])[0].permute(1, 2, 0))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("kind", ["compact", "rrdbnet x2 unshuffled", "rrdbnet x8 transposed"])
def test_the_work_told_is_at_least_the_work_planned(kind: str, tta: bool) -> None:
    made, events = network(kind), list[Event]()
    machine = engine(made, events, tta=tta)
    values = picture(48, 64)
    plan = make_plan(made, 48, 64, budget=10**9, tile=24)
    run(machine, values, tile=24)
    told = sum(event.operations for event in events if isinstance(event, Worked))
    assert machine.operations(plan) <= told < 2.5 * machine.operations(plan)


def test_opaque_tiles_are_not_computed() -> None:
    made, events = network("compact"), list[Event]()
    values = np.ones((64, 32, 3), np.float32)
    values[60:] = 0
    result = run(engine(made, events), values, tile=32, skip_ones=True)
    assert (result[:100] == 1).all()
    computed = sum(event.operations for event in events if isinstance(event, Worked))
    assert 0 < computed < made.trunk_operations * 64 * 32


def test_the_engine_leaves_the_network_as_it_was() -> None:
    made = network("compact").train()
    run(engine(made), picture(4, 4), dtype=torch.bfloat16)
    assert made.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in made.parameters())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast convolutions for pictures of any size."""
    monkeypatch.setattr(acceleration, "_WORTH_LOADING", 0)
    monkeypatch.setattr(acceleration, "_WORTH_COMPILING", 0)


def planned(machine: Engine, height: int, width: int, budget: int = 10**9, tile: Any = "auto") -> Any:
    return machine.plan(height, width, dtype=torch.float32, budget=budget, tile=tile)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("tile", ["whole", 24])
@pytest.mark.parametrize("kind", ["compact", "residual", "rrdbnet", "rrdbnet x2 unshuffled", "rrdbnet x8 transposed"])
def test_fast_convolutions_change_nothing(kind: str, tile: Any, tta: bool) -> None:
    made, values, events = network(kind), picture(46, 70), list[Event]()
    machine = engine(made, events, tta=tta)
    plan = planned(machine, 46, 70, tile=tile)
    assert plan.accelerated
    expected = run(engine(made, tta=tta), values, tile="whole")
    told = len(events)
    result = np.concatenate(list(machine.run(Rows(46, 70, 3, [values]), plan, dtype=torch.float32).bands(11)))
    np.testing.assert_allclose(result, expected, atol=1e-4 if plan.whole else 1 / 255)
    work = sum(event.operations for event in events[told:] if isinstance(event, Worked))
    assert machine.operations(plan) <= work < 2.5 * machine.operations(plan)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_no_fast_convolutions(dtype: torch.dtype) -> None:
    plan = engine(network("compact")).plan(50, 50, dtype=dtype, budget=10**9, tile="auto")
    assert not plan.accelerated


@pytest.mark.usefixtures("eager")
def test_a_budget_that_fast_convolutions_do_not_keep_is_kept_without_them() -> None:
    machine = engine(RRDBNet(features=64, growth=32, blocks=2))
    least = make_plan(machine.network, 200, 200, budget=0, tile=16).memory
    tight = planned(machine, 200, 200, budget=least)
    assert not tight.accelerated
    assert tight.memory <= least
    assert planned(machine, 200, 200).accelerated
    tiles = planned(machine, 200, 200, budget=least, tile=16)  # asked for, so that it is given though it may not fit
    assert not tiles.accelerated
    assert tiles.memory <= least


@pytest.mark.usefixtures("eager")
def test_a_tile_is_given_by_fast_convolutions_where_nothing_fits_without() -> None:
    machine = engine(Compact(features=64, convolutions=2))
    fast = planned(machine, 300, 300)
    assert fast.accelerated
    assert planned(machine, 300, 300, budget=fast.memory + fast.held, tile="whole") == fast


@pytest.mark.usefixtures("eager")
def test_passes_share_what_the_network_keeps() -> None:
    machine = engine(RRDBNet(features=64, growth=32, blocks=2))
    one = planned(machine, 40, 40)
    both = machine.plan(40, 40, dtype=torch.float32, budget=2 * one.memory + one.held, tile="auto", passes=2)
    assert both == one
    assert not machine.plan(
        40, 40, dtype=torch.float32, budget=2 * one.memory + one.held - 1, tile="auto", passes=2
    ).whole


@pytest.mark.usefixtures("eager")
def test_turned_pictures_have_memory_for_their_longer_side() -> None:
    upright, lying = ((2000, 20), (20, 2000))
    network = RRDBNet(features=64, growth=32, blocks=2)
    tta = [planned(engine(network, tta=True), *size).held for size in (upright, lying)]
    assert tta[0] == tta[1]


@pytest.mark.usefixtures("eager")
def test_what_fast_convolutions_keep_counts_in_plans_without_them() -> None:
    made = RRDBNet(features=64, growth=32, blocks=2)
    machine = engine(made)
    assert planned(machine, 30, 40, tile="whole").held > 0
    half = machine.plan(30, 40, dtype=torch.bfloat16, budget=10**9, tile="auto")
    assert half.held == 0
    run(machine, picture(30, 40), plan=planned(machine, 30, 40))
    weights = 4 * sum(p.numel() for p in made.parameters())
    assert machine.plan(30, 40, dtype=torch.bfloat16, budget=10**9, tile="auto").held > 3 * weights


def test_networks_of_few_features_are_left_to_pytorch() -> None:
    assert accelerated(Compact(features=11)) is None
    assert accelerated(RRDBNet(features=11, growth=32, blocks=1)) is None
    assert accelerated(Residual(features=12, blocks=1)) is not None


class Kernels:
    """Stand-ins for what ``winograd`` says of its kernels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, compiled: bool, works: bool = True) -> None:
        self.loaded = False
        self.works = works
        monkeypatch.setattr(winograd, "available", lambda: self.works or not self.loaded)
        monkeypatch.setattr(winograd, "ready", lambda: compiled)
        monkeypatch.setattr(winograd, "loaded", lambda: self.loaded)
        monkeypatch.setattr(winograd, "usable", self.use)
        monkeypatch.setattr(winograd, "failure", lambda: "no reason")

    def use(self) -> bool:
        self.loaded = True
        return self.works


def test_a_small_picture_does_not_wait_for_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    events, kernels = list[Event](), Kernels(monkeypatch, compiled=False)
    machine = engine(Compact(), events)
    assert not planned(machine, 500, 500).accelerated
    plan = planned(machine, 2000, 2000)
    assert plan.accelerated
    assert (events, kernels.loaded) == ([], False)
    monkeypatch.setattr(Engine, "_row", lambda *_: np.zeros((8000, 8000, 3), np.float32))
    run(machine, picture(2000, 2000), plan=plan)
    assert (events, kernels.loaded) == ([Compiling()], True)


def test_many_small_pictures_are_worth_what_a_large_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernels(monkeypatch, compiled=True)
    machine, accelerated = engine(Compact()), []
    monkeypatch.setattr(Engine, "_row", lambda *_: np.zeros((512, 512, 3), np.float32))
    for _ in range(20):
        plan = planned(machine, 128, 128)
        assert planned(machine, 128, 128) == plan  # asked of once more, computed not
        accelerated.append(plan.accelerated)
        run(machine, picture(128, 128), plan=plan)
    assert accelerated == sorted(accelerated)
    assert (accelerated[0], accelerated[-1]) == (False, True)


@pytest.mark.usefixtures("eager")
def test_where_kernels_do_not_work_a_picture_is_computed_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernels(monkeypatch, compiled=True, works=False)
    events, made, values = list[Event](), network("residual"), picture(30, 40)
    machine = engine(made, events)
    plan = planned(machine, 30, 40)
    assert plan.accelerated
    expected = run(engine(made), values)
    np.testing.assert_array_equal(run(machine, values, plan=plan), expected)
    np.testing.assert_array_equal(run(machine, values, plan=plan), expected)
    assert [event for event in events if not isinstance(event, Worked)] == [Uncompiled("no reason")]
    assert not planned(machine, 30, 40).accelerated


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("compiled", [True, False])
def test_time_is_foretold_without_compiling(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    kernels = Kernels(monkeypatch, compiled=compiled, works=False)
    events = list[Event]()
    upscaler = Upscaler(network("residual"), device="cpu", notify=events.append)
    estimate = upscaler.estimate(PixelSource(np.zeros((60, 40, 3), np.uint8)))
    assert estimate.passes[0].accelerated
    assert upscaler.seconds(estimate) > 0
    assert kernels.loaded == compiled
    assert Compiling() not in events


@pytest.mark.usefixtures("eager")
def test_what_has_grown_for_a_wide_picture_counts_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "WORKSPACE", winograd.Workspace())
    machine = engine(RRDBNet(features=64, growth=32, blocks=1))
    before, wide = planned(machine, 30, 40).held, planned(machine, 9, 5000).held
    run(machine, picture(9, 5000), plan=planned(machine, 9, 5000))
    assert before < planned(machine, 30, 40).held <= wide


def test_fast_convolutions_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRUP_WINOGRAD", "0")
    assert not planned(engine(Compact()), 2000, 2000).accelerated


@pytest.mark.usefixtures("eager")
def test_the_plan_has_memory_for_kernels_that_are_not_loaded_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    monkeypatch.setattr(winograd, "ready", lambda: True)
    for loaded in (True, False):
        monkeypatch.setattr(winograd, "loaded", lambda loaded=loaded: loaded)
        plans.append(planned(engine(Compact()), 64, 64))
    assert plans[1].accelerated
    assert plans[1].held - plans[0].held == winograd.KERNEL_BYTES
