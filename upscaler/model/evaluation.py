"""Models, and results that anybody made, measured against reference pictures by one protocol.

Every reference is cropped to a multiple of the scale at its top left; the low-resolution picture is
MATLAB's antialiased bicubic of that unless one is given; a border counts for nothing in PSNR, SSIM and
NIQE. What happens is told as events; nothing is printed here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch

from upscaler.errors import UserError
from upscaler.images.metrics import colour_shift, luma, psnr, ssim
from upscaler.images.niqe import niqe
from upscaler.images.partners import Case, Failed, read_case, read_opaque
from upscaler.images.resize import resize
from upscaler.model.device import resident_memory
from upscaler.model.sources import Pixels, PixelSource
from upscaler.model.upscaler import Size, Upscaler

BICUBIC = "bicubic"
"""The row that is always there: the low-resolution picture enlarged by the same resizer that made it."""

_SAMPLING_SECONDS = 0.005


@dataclass(frozen=True)
class Scores:
    """What one method got for one picture, or on average.

    PSNR is in dB, infinite for equal pictures. ``shift`` is the mean of R, G and B less that of the
    reference, ``shift_lr`` that of the result made small again less that of the low-resolution picture,
    both over the whole picture in levels of 255; the two ``drift`` are the largest magnitude in each. On
    average a shift can cancel out, a drift cannot.
    """

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    niqe: float | None
    """None where the picture is too small for it."""
    drift: float
    drift_lr: float
    shift: tuple[float, ...]
    shift_lr: tuple[float, ...]
    seconds: float | None = None
    """None for results that were made elsewhere."""
    memory: int | None = None
    """Bytes added at the peak, of the GPU's memory or else of RAM; on average the largest. None if not known."""


@dataclass(frozen=True)
class Started:
    """Work on a picture begins."""

    case: Case
    operations: float
    """Multiplications that the models will tell of, as ``events.Worked``, before the picture is done."""


@dataclass(frozen=True)
class Measured:
    """A picture is done by all methods: their results and scores, bicubic first."""

    case: Case
    reference: Pixels
    lr: Pixels
    results: dict[str, Pixels]
    scores: dict[str, Scores]


Event = Started | Measured | Failed


def evaluate(cases: Sequence[Case], models: Mapping[str, Upscaler], *, scale: int, border: int) -> Iterator[Event]:
    """Enlarge and measure each picture by bicubic interpolation and every model, and measure the results given.

    A picture that fails in one method fails as a whole, so that all averages are over the same pictures.

    Args:
        cases: of ``partners.find_cases``, for the same scale and border.
        models: by the names of their rows.
        scale: of the benchmark; a model of another scale is resized to it.
        border: pixels at each edge that do not count.
    """
    for case in cases:
        try:
            reference, lr = read_case(case, scale)
            size = Size(width=case.width, height=case.height)
            estimates = [upscaler.estimate(PixelSource(lr), size) for upscaler in models.values()]
            yield Started(case, sum(estimate.operations for estimate in estimates))
            yield _measured(case, reference, lr, models, border)
        except UserError as error:
            yield Failed(case.reference, str(error))


def measure(result: Pixels, reference: Pixels, lr: Pixels, border: int) -> Scores:
    """The scores of one result.

    Args:
        result, reference: (H, W, C) uint8 or uint16, C 1 or 3; the types need not agree. The reference
            decides whether grey or colour is measured, so grey saved as RGB scores the same.
        lr: (h, w, C), what the result was made from.
        border: pixels at each edge that do not count in PSNR, SSIM and NIQE.

    Raises:
        ValueError: different sizes, or too small for SSIM inside the border.
    """
    result = _grey(result) if reference.shape[2] == 1 else _rgb(result)
    y, y_reference = luma(result), luma(reference)
    result, reference, lr = _rgb(result), _rgb(reference), _rgb(lr)
    shift = colour_shift(result, reference)
    shift_lr = colour_shift(resize(result, *lr.shape[:2]), lr)
    return Scores(
        psnr_y=psnr(y, y_reference, border),
        ssim_y=ssim(y, y_reference, border),
        psnr_rgb=psnr(result, reference, border),
        ssim_rgb=ssim(result, reference, border),
        niqe=niqe(y, border),
        drift=max(map(abs, shift)),
        drift_lr=max(map(abs, shift_lr)),
        shift=shift,
        shift_lr=shift_lr,
    )


def average(scores: Sequence[Scores]) -> Scores:
    """The mean of each score over the pictures that have it; of the memory the largest."""
    means: dict[str, Any] = {}
    for name in (field.name for field in fields(Scores)):
        values = [value for each in scores if (value := getattr(each, name)) is not None]
        if not values:
            means[name] = None
        elif name == "memory":
            means[name] = max(values)
        elif isinstance(values[0], tuple):
            means[name] = tuple(float(mean) for mean in np.mean(values, axis=0))
        else:
            means[name] = sum(values) / len(values)
    return Scores(**means)


def _measured(case: Case, reference: Pixels, lr: Pixels, models: Mapping[str, Upscaler], border: int) -> Measured:
    results: dict[str, Pixels] = {}
    usages: dict[str, _Usage] = {}

    def run(name: str, device: torch.device, work: Callable[[], Pixels]) -> None:
        with _Usage(device) as usages[name]:
            results[name] = work()

    run(BICUBIC, torch.device("cpu"), partial(resize, lr, case.height, case.width))
    size = Size(width=case.width, height=case.height)
    for name, upscaler in models.items():
        run(name, upscaler.device, partial(upscaler.upscale, lr, size))
    for name, path in case.results.items():
        results[name] = read_opaque(path)[: case.height, : case.width]
    scores = {name: measure(result, reference, lr, border) for name, result in results.items()}
    for name, usage in usages.items():
        scores[name] = replace(scores[name], seconds=usage.seconds, memory=usage.memory)
    return Measured(case, reference, lr, results, scores)


class _Usage:
    """Time and memory of the work inside a ``with``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0
        self.memory: int | None = None

    def __enter__(self) -> _Usage:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = self._peak = resident_memory()
            self._over = threading.Event()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        if self._device.type == "cuda":
            self.memory = torch.cuda.max_memory_allocated(self._device) - self._before
            return
        self._over.set()
        self._sampler.join()
        self.memory = self._peak - self._before

    def _sample(self) -> None:
        # The kernel's own high-water mark is of the process's whole life.
        while not self._over.wait(_SAMPLING_SECONDS):
            self._peak = max(self._peak, resident_memory())
        self._peak = max(self._peak, resident_memory())


def _grey(pixels: Pixels) -> Pixels:
    """One channel: the three where they are equal, else BT.601 over the full range."""
    if pixels.shape[2] == 1:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return pixels[..., :1]
    grey: Pixels = np.rint(pixels @ np.array([0.299, 0.587, 0.114]))[..., None].astype(pixels.dtype)
    return grey


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
