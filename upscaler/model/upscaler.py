"""Upscaler: picture in, picture out, at any size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch

from upscaler.errors import UserError
from upscaler.images.colour import MATCHED_ROWS, matched
from upscaler.images.rows import Rows, band_rows, resized
from upscaler.model.device import choose_device, choose_precision, memory_budget, resident_memory, return_freed_memory
from upscaler.model.engine import Engine
from upscaler.model.events import Event
from upscaler.model.network import Network
from upscaler.model.sources import Pixels, PixelSource, Source, colours, opacity, quantised
from upscaler.model.tiles import NoPlanError, Plan, megabytes

AlphaUpsampler = Literal["network", "bicubic"]

_LONGEST_SIDE = 1_000_000
# What files, threads and allocators take beside the tensors of the plan, measured on large pictures.
_FIXED_OVERHEAD = 128 * 2**20
_SAMPLE_EDGE = 96
_SAMPLES = 3


@dataclass(frozen=True)
class Size:
    """The size of a result: a factor, or a width and a height of which one may follow from the other.

    Raises:
        UserError: something that is not positive and finite.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= _LONGEST_SIDE:
            raise UserError(f"a scale of {self.scale:g} is not possible; it must be above 0, at most {_LONGEST_SIDE}")
        for side in (self.width, self.height):
            if side is not None and not 0 < side <= _LONGEST_SIDE:
                raise UserError(f"a side of {side} pixels is not possible; it must be 1 to {_LONGEST_SIDE}")

    def of(self, height: int, width: int, network_scale: int) -> tuple[int, int]:
        """(height, width) of the result for a picture of that size; nothing asked: the network's scale."""
        if self.width or self.height:
            factor = self.width / width if self.width else (self.height or 0) / height
            result = (self.height or max(round(height * factor), 1), self.width or max(round(width * factor), 1))
        else:
            factor = self.scale or network_scale
            result = (max(round(height * factor), 1), max(round(width * factor), 1))
        if max(result) > _LONGEST_SIDE:
            raise UserError(f"the result would be {result[1]} x {result[0]} pixels; a side can be {_LONGEST_SIDE}")
        return result


@dataclass(frozen=True)
class Estimate:
    """What upscaling one picture will take."""

    height: int
    width: int
    passes: tuple[Plan, ...]
    """The plan of each pass of the network over the colours."""
    dtype: torch.dtype
    """In which it is computed."""
    memory: int
    """Predicted peak in bytes beyond what the process held before: device memory on a GPU, else RAM."""
    operations: float
    output_bytes: int
    """Of the result before compression."""


class Upscaler:
    """A network that upscales pictures of any size, depth and kind within a memory budget.

    Args:
        network: anything that keeps the ``Network`` protocol, with three picture channels.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or another device of PyTorch's.
        precision: ``auto``, ``fp32``, ``fp16`` or ``bf16``.
        memory: bytes that may be in use at the peak: of the GPU's memory, or of RAM by this process.
            None takes a share of what is free.
        tile: ``auto``, ``whole``, or the edge of square tiles in pixels.
        tta: average the results for all eight flips and rotations.
        colour_fix: move the low frequencies of the result to those of the picture.
        alpha: what enlarges an alpha channel.
        notify: told of each engine event: work done, tiles redone, plans shrunk.

    Raises:
        UserError: a device or precision that is not there, or a network of other than three channels.
    """

    def __init__(
        self,
        network: Network,
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: int | None = None,
        tile: int | Literal["auto", "whole"] = "auto",
        tta: bool = False,
        colour_fix: bool = False,
        alpha: AlphaUpsampler = "network",
        notify: Callable[[Event], None] = lambda _: None,
    ) -> None:
        if network.channels != 3:
            raise UserError(f"this network works on pictures of {network.channels} channels; upscaling needs 3 (RGB)")
        self.network = network
        self.device = choose_device(device)
        self.precision = precision
        self.dtype = choose_precision(precision, self.device)
        self.memory = memory
        self._held = resident_memory()
        if memory is not None:
            return_freed_memory()
        self.tile: int | Literal["auto", "whole"] = tile
        self.colour_fix = colour_fix
        self.alpha = alpha
        self._speeds: dict[tuple[bool, torch.dtype], float] = {}
        self.engine = Engine(network, device=self.device, tta=tta, notify=notify)

    def upscale(self, pixels: Pixels, size: Size = Size()) -> Pixels:
        """(H, W, C) uint8 or uint16 to the asked size, same channels and depth."""
        source = PixelSource(pixels)
        height, width = size.of(source.height, source.width, self.network.scale)
        result = np.empty((height, width, source.channels), pixels.dtype)
        top = 0
        for band in self.bands(source, size, self.estimate(source, size, beside=result.nbytes)):
            result[top : top + len(band)] = band
            top += len(band)
        return result

    def estimate(self, source: Source, size: Size = Size(), *, beside: int = 0) -> Estimate:
        """The plan for a picture, without doing anything.

        Args:
            source: the picture.
            size: of the result.
            beside: bytes of RAM that something else takes meanwhile, counted as part of the work.

        Raises:
            UserError: the memory budget is too small for any plan.
        """
        height, width = size.of(source.height, source.width, self.network.scale)
        passes = self._passes(source, height, width)
        # Every pass is at work at the same time, and an alpha channel has passes of its own.
        streams = 2 if self._network_makes_alpha(source) else 1
        overhead = self._overhead(source, height, width, passes, beside)
        budget = memory_budget(self.device, self.memory, self._held)
        dtype, together = self.dtype_for(source), passes * streams
        plans, rows, columns = [], source.height, source.width
        for _ in range(passes):
            try:
                plans.append(
                    self.engine.plan(
                        rows, columns, dtype=dtype, budget=budget - overhead, tile=self.tile, passes=together
                    )
                )
            except NoPlanError as error:
                raise UserError(self._too_little(error.least + overhead, budget)) from None
            rows, columns = rows * self.network.scale, columns * self.network.scale
        memory = streams * sum(plan.memory for plan in plans) + max(plan.held for plan in plans) + overhead
        if self.memory is not None and memory > budget:
            raise UserError(f"with --tile {self.tile}, {self._too_little(memory, budget)}, or use --tile auto")
        return Estimate(
            height=height,
            width=width,
            passes=tuple(plans),
            dtype=dtype,
            memory=memory,
            operations=streams * sum(self.engine.operations(plan) for plan in plans),
            output_bytes=height * width * source.channels * source.depth // 8,
        )

    def ram(self) -> int:
        """Bytes of RAM that may be in use beyond what the process held before the first picture."""
        if self.device.type == "cuda":
            return memory_budget(torch.device("cpu"), None, self._held)
        return memory_budget(self.device, self.memory, self._held)

    def seconds(self, estimate: Estimate) -> float:
        """How long an estimated picture will take, by the speed of a small one that is computed in its way."""
        # The last pass is by far the longest one.
        kind = estimate.passes[-1].accelerated, estimate.dtype
        if kind not in self._speeds:
            self._speeds[kind] = self._seconds_per_operation(*kind)
        return estimate.operations * self._speeds[kind]

    def _seconds_per_operation(self, accelerated: bool, dtype: torch.dtype) -> float:
        edge = _SAMPLE_EDGE * self.network.unshuffle
        plan = self.engine.plan(edge, edge, dtype=dtype, budget=0, tile="whole")
        plan, longer = self.engine.sampled(plan, accelerated=accelerated)
        elapsed = []
        for _ in range(_SAMPLES):
            sample = Rows(edge, edge, 3, [np.full((edge, edge, 3), 0.5, np.float32)])
            start = time.perf_counter()
            self.engine.run(sample, plan, dtype=dtype).window(0, edge * self.network.scale)
            elapsed.append(time.perf_counter() - start)
        return min(elapsed) / longer / self.engine.operations(plan)

    def bands(self, source: Source, size: Size = Size(), estimate: Estimate | None = None) -> Iterator[Pixels]:
        """The result from top to bottom, in bands of rows, with the source's channels and depth.

        Args:
            source: read from its top, once for each use of it.
            size: of the result.
            estimate: what ``estimate`` gave for the same source and size, if it was asked already.

        Raises:
            UserError: the budget is too small, memory ran out, or the network gives no finite values.
        """
        estimate = estimate or self.estimate(source, size)
        result = self._enlarged(colours(source), estimate)
        if self.colour_fix:
            result = matched(result, colours(source))
        alpha: Rows | None = None
        if source.channels in (2, 4):
            transparency = opacity(source)
            if self._network_makes_alpha(source):
                alpha = self._enlarged(transparency, estimate, opaque=True)
            else:
                alpha = resized(transparency, estimate.height, estimate.width)
        grey = source.channels < 3
        step = band_rows(estimate.width)
        for top in range(0, estimate.height, step):
            bottom = min(top + step, estimate.height)
            rows = result.window(top, bottom)
            channels = [rows.mean(axis=2, keepdims=True) if grey else rows]
            if alpha is not None:
                channels.append(alpha.window(top, bottom).mean(axis=2, keepdims=True))
            yield quantised(np.concatenate(channels, axis=2), source.depth)

    def dtype_for(self, source: Source) -> torch.dtype:
        """Half precision has 11 bits, too few for pictures of 16; they get it only where it was asked for."""
        return torch.float32 if source.depth == 16 and self.precision == "auto" else self.dtype

    def _enlarged(self, rows: Rows, estimate: Estimate, *, opaque: bool = False) -> Rows:
        for plan in estimate.passes:
            rows = self.engine.run(rows, plan, dtype=estimate.dtype, skip_ones=opaque)
        return resized(rows, estimate.height, estimate.width)

    def _too_little(self, needed: int, budget: int) -> str:
        if self.memory is None:
            free = megabytes(max(budget, 0))
            return f"this picture needs {megabytes(needed)}, and {free} are to be had; use a smaller model or scale"
        return f"this picture needs --memory {ceil((needed + self.memory - budget) / 1e6)}MB or more"

    def in_all(self, estimate: Estimate) -> int:
        """Predicted peak, in bytes, of all that this process will hold: of RAM, or of a GPU's memory."""
        before = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else self._held
        return before + estimate.memory

    def _passes(self, source: Source, height: int, width: int) -> int:
        """Passes of the network until the picture is at least as large as asked; one at least."""
        factor = max(height / source.height, width / source.width)
        passes, reached = 1, self.network.scale
        while reached < factor and self.network.scale > 1:
            passes, reached = passes + 1, reached * self.network.scale
        return passes

    def _network_makes_alpha(self, source: Source) -> bool:
        return source.channels in (2, 4) and self.alpha == "network"

    def _overhead(self, source: Source, height: int, width: int, passes: int, beside: int) -> int:
        """Bytes of RAM for what surrounds the network; a GPU's budget is not touched by it."""
        if self.device.type == "cuda":
            if beside > (ram := self.ram()):
                raise UserError(f"this picture needs {megabytes(beside)} of RAM, and {megabytes(ram)} are to be had")
            return 0
        pixel = max(source.channels, 3) * 4
        reached = self.network.scale**passes
        band = band_rows(width)
        total = beside + _FIXED_OVERHEAD + 3 * band * max(width, source.width) * pixel
        if (height, width) != (source.height * reached, source.width * reached):
            # The rows that make a band, once as they are and once beside what they become.
            total += 2 * (band * source.height * reached // height + band) * source.width * reached * pixel
        if self.colour_fix:
            total += 3 * MATCHED_ROWS * (width * height // source.height + 2 * source.width) * pixel
        return total
