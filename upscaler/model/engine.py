"""One pass of a network over a picture, cut as the plan says, on whichever device."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from upscaler.errors import UserError
from upscaler.images.rows import FloatArray, Rows
from upscaler.model.acceleration import Acceleration
from upscaler.model.device import is_out_of_memory
from upscaler.model.events import Notify, Redone, Shrunk, Worked
from upscaler.model.network import Network
from upscaler.model.tiles import Box, NoPlanError, Plan, make_plan
from upscaler.model.turns import TURNS, Turn, turned, turned_back, turned_box
from upscaler.model.winograd_networks import accelerated
from upscaler.transfers import Leaving, sent

# The sum, one turned result and what turning it back leaves behind, measured.
_TTA_COPIES = 3

# How many times less their multiplications take; beyond that, computing surroundings twice costs more.
_ACCELERATION = 2.5


class NotFiniteError(UserError):
    """A network gives NaN or infinity in fp32 too."""


class Engine:
    """A network on a device.

    Args:
        network: an ``nn.Module`` that keeps the ``Network`` protocol. It is copied at the first use; here it is not
            changed, and elsewhere it must not be before.
        device: where it computes.
        tta: average the results of all eight flips and rotations (test-time augmentation).
        notify: told of every event.
    """

    def __init__(self, network: Network, *, device: torch.device, tta: bool, notify: Notify) -> None:
        self.network = network
        self.device = device
        self.turns = TURNS if tta else TURNS[:1]
        self.notify = notify
        self._placed: dict[torch.dtype, Network] = {}
        fast = accelerated(network, lambda operations: notify(Worked(operations))) if device.type == "cpu" else None
        self._fast = Acceleration(fast, notify) if fast else None

    def plan(
        self,
        height: int,
        width: int,
        *,
        dtype: torch.dtype,
        budget: int,
        tile: int | Literal["auto", "whole"],
        passes: int = 1,
    ) -> Plan:
        """The plan for one pass over a picture of that size, computed in that precision.

        On the CPU in fp32 it is for fast convolutions where they gain. A tile that was asked for may not keep the
        budget.

        Args:
            height, width: of the picture, in pixels.
            dtype: the precision to compute in.
            budget: bytes that all passes together may hold at once.
            tile: see ``make_plan``.
            passes: that are at work at the same time.

        Raises:
            NoPlanError: no plan keeps the budget.
        """
        planned = partial(
            make_plan,
            height=height,
            width=width,
            budget=budget,
            element=dtype.itemsize,
            shared=self.device.type != "cuda",
            tile=tile,
            copies=_TTA_COPIES if len(self.turns) > 1 else 1,
            passes=passes,
        )
        fast = self._fast
        ways: list[Callable[[], Plan]] = [lambda: planned(self.network, held=lambda *_: fast.kept if fast else 0)]
        if fast and dtype == torch.float32 and fast.pays(self._operations_of(height * width)):
            ways.append(lambda: replace(planned(fast.network, held=fast.held), accelerated=True))
        plans, least = list[Plan](), list[int]()
        for way in ways:
            try:
                plans.append(way())
            except NoPlanError as error:
                least.append(error.least)
        if not plans:
            raise NoPlanError(min(least))
        fitting = [plan for plan in plans if plan.together(passes) <= budget]
        return min(fitting, key=self._cost) if fitting else min(plans, key=lambda plan: plan.together(passes))

    def _operations_of(self, pixels: int) -> float:
        network = self.network
        each = network.trunk_operations + network.head_operations
        return pixels / network.unshuffle**2 * each * len(self.turns)

    def _cost(self, plan: Plan) -> float:
        return self.operations(plan) / (_ACCELERATION if plan.accelerated else 1)

    def sampled(self, plan: Plan, *, accelerated: bool) -> tuple[Plan, float]:
        """A plan to time in place of one of that kind, and how many times as long it takes; nothing is compiled."""
        if accelerated and not (self._fast and self._fast.compiled):
            return replace(plan, accelerated=False), _ACCELERATION
        return replace(plan, accelerated=accelerated), 1.0

    def operations(self, plan: Plan) -> float:
        """Multiplications of a pass by that plan, test-time augmentation included."""
        return plan.operations(self.network) * len(self.turns)

    def run(self, rows: Rows, plan: Plan, *, dtype: torch.dtype, skip_ones: bool = False) -> Rows:
        """The picture ``scale`` times as large, in 0..1.

        Args:
            rows: RGB, float32 in 0..1.
            plan: made for this picture's size and this precision.
            dtype: the precision to compute in.
            skip_ones: tiles whose every input is 1 give 1 without being computed (opaque alpha).

        Raises:
            NotFiniteError: values that are not finite in fp32 too.
            UserError: no memory for the smallest tile.
        """
        scale = self.network.scale
        bands = self._bands(rows, plan, dtype, skip_ones)
        return Rows(rows.height * scale, rows.width * scale, 3, bands)

    def _bands(self, rows: Rows, plan: Plan, dtype: torch.dtype, skip_ones: bool) -> Iterator[FloatArray]:
        scale, top = self.network.scale, 0
        if self._fast:
            self._fast.asked(self.operations(plan))
            if plan.accelerated and not self._fast.load():
                plan = self._unaccelerated(plan, dtype)
        while top < rows.height:
            window = _window(rows, plan, top)
            band = self._row_or_nothing(window, plan, top, dtype, skip_ones)
            if band is None:
                plan = self._shrunk(plan, dtype)
                continue
            bottom = min(top + plan.tile_height, rows.height)
            yield band[: (bottom - top) * scale, : rows.width * scale]
            top = bottom

    def _row_or_nothing(
        self, window: FloatArray, plan: Plan, top: int, dtype: torch.dtype, skip_ones: bool
    ) -> FloatArray | None:
        """One row of tiles; None where memory ran out. On return nothing of a failed try is alive."""
        try:
            return self._row(window, plan, top, dtype, skip_ones)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _shrunk(self, plan: Plan, dtype: torch.dtype) -> Plan:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        budget = int(plan.memory * 0.6) + plan.held
        try:
            smaller = self.plan(plan.height, plan.width, dtype=dtype, budget=budget, tile="auto")
        except NoPlanError:
            raise UserError(
                f"out of memory on {self.device} with tiles of {plan.tile_width} x {plan.tile_height}; "
                "free some memory, or use a smaller model"
            ) from None
        self.notify(Shrunk(smaller))
        return smaller

    def _unaccelerated(self, plan: Plan, dtype: torch.dtype) -> Plan:
        """What takes no more memory than a plan whose kernels do not work; failing that, the same tiles."""
        try:
            return self.plan(plan.height, plan.width, dtype=dtype, budget=plan.memory, tile="auto")
        except NoPlanError:
            return replace(plan, accelerated=False)

    def _row(self, window: FloatArray, plan: Plan, top: int, dtype: torch.dtype, skip_ones: bool) -> FloatArray:
        scale = self.network.scale
        boxes = plan.row(top)
        tiles = self._tiles(window, plan, boxes, dtype, skip_ones)
        if len(boxes) == 1:
            return next(tiles)
        band = np.empty((boxes[0].height * scale, plan.width * scale, 3), np.float32)
        for box, tile in zip(boxes, tiles, strict=True):
            band[:, box.left * scale : box.right * scale] = tile
        return band

    def _tiles(
        self, window: FloatArray, plan: Plan, boxes: Sequence[Box], dtype: torch.dtype, skip_ones: bool
    ) -> Iterator[FloatArray]:
        """The tiles of a row. A GPU computes the next one while one travels to the host and is looked at there."""
        overlap = self.device.type == "cuda" and len(boxes) > 1
        begun = deque[Callable[[], FloatArray]]()
        for box in boxes:
            outer = box.grown(plan.halo, plan.height, plan.width)
            values = window[:, outer.left : outer.right]
            if skip_ones and values.min() == 1:
                begun.append(partial(_ones, box, self.network.scale))
            else:
                begun.append(self._begun(values, plan, box, outer, dtype, overlap=overlap))
            if len(begun) > overlap:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()

    def _begun(
        self, values: FloatArray, plan: Plan, box: Box, outer: Box, dtype: torch.dtype, *, overlap: bool
    ) -> Callable[[], FloatArray]:
        """Begin with a tile; what is returned waits for it."""
        x = torch.from_numpy(np.array(values)).permute(2, 0, 1)[None]
        compute = partial(self._computed, x=x, plan=plan, box=box, outer=outer)
        result = compute(dtype)
        if overlap:
            return partial(self._checked, Leaving(result).arrived, compute, box, dtype)
        result = result.cpu()  # into ordinary memory: to pin that much for one copy takes longer
        return partial(self._checked, lambda: result, compute, box, dtype)

    def _checked(
        self, arrived: Callable[[], Tensor], compute: Callable[[torch.dtype], Tensor], box: Box, dtype: torch.dtype
    ) -> FloatArray:
        tile = arrived().permute(1, 2, 0).numpy()
        if not np.isfinite(tile).all() and dtype != torch.float32:
            self.notify(Redone(box))
            tile = compute(torch.float32).cpu().permute(1, 2, 0).numpy()
        if not np.isfinite(tile).all():
            raise NotFiniteError(
                "the network gives values that are not finite numbers for this picture; use another model"
            )
        return np.clip(tile, 0, 1, out=tile)

    def _computed(self, dtype: torch.dtype, x: Tensor, plan: Plan, box: Box, outer: Box) -> Tensor:
        """(3, h * scale, w * scale), float32 on the device."""
        network = self._fast.network if plan.accelerated and self._fast else self._network_in(dtype)

        def result(turn: Turn) -> Tensor:
            laid = turned(x, turn).contiguous(memory_format=torch.channels_last)
            return turned_back(_enlarged(network, laid, turned_box(box, outer, turn), plan.head_rows), turn)

        # On NVIDIA GPUs convolutions in fp32 have the precision of TF32, 11 bits, unless told otherwise.
        full = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), full, _Counter(network, self.notify):
            x = sent(x, self.device).to(dtype)
            total = result(self.turns[0])
            for turn in self.turns[1:]:
                total += result(turn)
            total /= len(self.turns)
            return total

    def _network_in(self, dtype: torch.dtype) -> Network:
        if dtype not in self._placed:
            made: Any = copy.deepcopy(self.network)
            made.to(self.device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
            self._placed[dtype] = made
        return self._placed[dtype]


class _Counter:
    """While entered, tells of every convolution that a module has done."""

    def __init__(self, network: Network, notify: Notify) -> None:
        modules = network.modules() if isinstance(network, nn.Module) else ()
        self.convolutions = [m for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        self.notify = notify
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self.handles = [m.register_forward_hook(self._done) for m in self.convolutions]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _done(self, module: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        self.notify(Worked(positions.shape[-1] * positions.shape[-2] * module.weight.numel()))


def _window(rows: Rows, plan: Plan, top: int) -> FloatArray:
    """The input rows of the row of tiles at ``top``, padded to the plan's size."""
    outer = plan.row(top)[0].grown(plan.halo, plan.height, plan.width)
    window = rows.window(outer.top, min(outer.bottom, rows.height))
    padding = (outer.height - len(window), plan.width - rows.width)
    return np.pad(window, ((0, padding[0]), (0, padding[1]), (0, 0)), mode="edge") if any(padding) else window


def _ones(box: Box, scale: int) -> FloatArray:
    return np.ones((box.height * scale, box.width * scale, 3), np.float32)


def _enlarged(network: Network, x: Tensor, core: Box, head_rows: int) -> Tensor:
    """The core of (1, 3, H, W), enlarged: float32 (3, h * scale, w * scale).

    The trunk runs over all of ``x``, the head over the core in bands of ``head_rows`` feature rows.
    """
    unit, factor = network.unshuffle, network.scale * network.unshuffle
    f = network.features(x)
    core = Box(core.top // unit, core.bottom // unit, core.left // unit, core.right // unit)
    out = torch.empty((3, core.height * factor, core.width * factor), dtype=torch.float32, device=x.device)
    for top in range(core.top, core.bottom, head_rows):
        band = Box(top, min(top + head_rows, core.bottom), core.left, core.right)
        outer = band.grown(network.head_reach, f.shape[-2], f.shape[-1])
        large = network.reconstruct(f[..., outer.top : outer.bottom, outer.left : outer.right])
        rows, columns = band.inside(outer, factor)
        out[:, (band.top - core.top) * factor : (band.bottom - core.top) * factor] = large[0, :, rows, columns]
    return out
