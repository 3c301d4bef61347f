"""Training pairs: random patches of stored pictures, each a pure function of the seed and its number.

Sample k of a run is the same whatever worker makes it, in whatever process, and whether or not the run
was interrupted before. Under ``torchrun`` the ranks share one batch, each taking its part of the samples, so
that a run can go on with another number of processes: step k trains on the same patches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, forkserver
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from upscaler.errors import UserError
from upscaler.training.degradation import Degrade
from upscaler.training.shards import Picture, Pictures
from upscaler.transfers import sent

MARGIN = 2
"""LR pixels around a patch that a degradation sees and that are cut off afterwards: the reach of the bicubic
kernel, so that the edge of a patch looks like any other place of its picture."""


_PREFETCHED = 4
"""Batches that each worker has ready."""

_GROUP = 4
"""Neighbours in a batch that are degraded together on the device."""

_Sent = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, tuple[int, ...]]


class Batch(NamedTuple):
    """Pairs as the loader yields them; ``floats`` makes them what a network takes.

    Args:
        hr: (N, 3, H, W), uint8, RGB.
        lr: (N, 3, H / scale, W / scale), uint8; None where LR is made on the device by the training loop.
        seeds: one for each pair, of anything random that is done with it later. They depend on the seed of the
            run and the number of the pair alone.
    """

    hr: Tensor
    lr: Tensor | None
    seeds: tuple[int, ...]


def floats(pictures: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Pictures uint8 as float32 in 0..1 on a device; a quarter of the bytes travel there."""
    return sent(pictures, torch.device(device)).float().div_(255)


def degraded(hr: Tensor, degrade: Degrade, scale: int, seeds: Sequence[int]) -> Tensor:
    """LR pictures made on the device.

    Args:
        hr: (N, 3, H, W), 0..1.
        degrade: how.
        scale: HR pixels per LR pixel.
        seeds: of the batch. Every four pairs share one draw of the degradation's sizes, so a batch that is shared
            among processes in multiples of four comes out as in one process.
    """
    # Drawn on the CPU: the sizes of tensors depend on it, and asking a GPU for them would make it wait.
    parts = zip(torch.split(hr, _GROUP), seeds[::_GROUP], strict=True)
    return torch.cat([degrade(part, scale, Generator().manual_seed(seed)) for part, seed in parts])


@dataclass(frozen=True)
class Growth:
    """A patch size that changes during training.

    Args:
        sizes: (first step, HR pixels), by step; the first one from step 0.
    """

    sizes: tuple[tuple[int, int], ...]

    def __call__(self, step: int) -> int:
        """The edge of the patches of a step."""
        place = bisect_right(self.sizes, step, key=lambda size: size[0])
        return self.sizes[max(place - 1, 0)][1]


class Pairs(Dataset[Batch]):
    """The batches of a run by step, from 0.

    A picture is drawn with a probability that grows with its area, a patch in it evenly, then one of the
    eight ways to lay it. Pictures smaller than the patch are left out.

    Args:
        pictures: of ``PreparedSet.pictures``.
        scale: HR pixels per LR pixel.
        batch: pairs in each step, of all ranks together.
        patch: edge of the HR patches in pixels, a multiple of ``scale``.
        steps: how many batches there are.
        lr: where LR comes from: "stored" beside HR, a ``Degrade`` on the CPU for every patch, or None:
            it is left to the training loop.
        seed: of everything random.
        rank, world: this process and their number under ``torchrun``; each gets ``batch / world`` pairs.
        flips: flip and turn the pairs.
        noise: standard deviation of Gaussian noise on LR, drawn evenly from 0 to this, in levels of 255.
        shuffle_channels: lay the three colours in random order, HR and LR alike.

    Raises:
        UserError: no picture is large enough, a patch is no multiple of the scale, LR pictures of this
            scale are not stored, or the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        scale: int,
        batch: int,
        patch: int | Growth,
        steps: int,
        lr: Literal["stored"] | Degrade | None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        flips: bool = True,
        noise: float = 0.0,
        shuffle_channels: bool = False,
    ) -> None:
        self._pictures, self._scale, self._batch, self._steps, self._lr = pictures, scale, batch, steps, lr
        self._patch = Growth(((0, patch),)) if isinstance(patch, int) else patch
        self._seed, self._rank, self._world = seed, rank, world
        self._flips, self._noise, self._shuffle_channels = flips, noise, shuffle_channels
        if batch % world:
            raise UserError(f"a batch of {batch} cannot be shared evenly by {world} processes")
        self._weights: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        if lr == "stored" and pictures.scale != scale:
            others = f" but for x{pictures.scale}" if pictures.scale else ""
            raise UserError(
                f"this training set holds no LR pictures for x{scale}{others}; "
                f"store some with 'srup prepare-data --scale {scale}' and --degradation or --lr"
            )
        if lr is None and noise:
            raise ValueError("noise belongs on LR, which is not made here; add it where LR is made")
        for _, edge in self._patch.sizes:
            self.left_out(edge)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        share = self._batch // self._world
        first = step * self._batch + self._rank * share
        numbers = range(first, first + share)
        make = partial(self._sample, self._patch(step))
        pairs = [make(number) for number in numbers]
        hr = _stacked([hr for hr, _ in pairs])
        low = [lr for _, lr in pairs if lr is not None]
        seeds = tuple(_number(self._random(number, 1)) for number in numbers)
        return Batch(hr, _stacked(low) if low else None, seeds)

    def left_out(self, patch: int) -> int:
        """How many pictures are smaller than a patch.

        Raises:
            UserError: all of them are, or the patch is no multiple of the scale.
        """
        if patch < self._scale or patch % self._scale:
            raise UserError(f"an HR patch of {patch} pixels is no multiple of the scale, {self._scale}")
        return len(self._pictures) - len(self._choices(patch)[0])

    def _choices(self, patch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pictures that are large enough, and the sum of the areas up to each."""
        if patch not in self._weights:
            sizes = self._pictures.sizes
            large = np.flatnonzero(sizes.min(axis=1) >= patch)
            if not len(large):
                least = max(int(sizes.min()) // self._scale, 1) * self._scale
                raise UserError(
                    f"no picture of this training set has {patch} x {patch} pixels; take a smaller patch, as with "
                    f"--set data.patch={least}, or make a set of larger crops"
                )
            self._weights[patch] = large, np.cumsum(sizes[large].prod(axis=1))
        return self._weights[patch]

    def _random(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, number, stream))

    def _sample(self, patch: int, number: int) -> tuple[Picture, Picture | None]:
        """Pair k, HR and LR, (H, W, 3)."""
        random, scale = self._random(number, 0), self._scale
        indices, areas = self._choices(patch)
        index = int(indices[np.searchsorted(areas, random.integers(areas[-1]), side="right")])
        grid = scale if self._lr == "stored" else 1
        top, left = (
            int(random.integers((int(edge) - patch) // grid + 1)) * grid for edge in self._pictures.sizes[index]
        )
        view = int(random.integers(8)) if self._flips else 0
        colours = random.permutation(3) if self._shuffle_channels else np.arange(3)
        picture = self._pictures.hr(index)
        lr: Picture | None = None
        if self._lr == "stored":
            hr = _laid(picture[top : top + patch, left : left + patch], view)
            edge = patch // scale
            lr = _laid(self._pictures.lr(index)[top // scale :, left // scale :][:edge, :edge], view)
        elif self._lr is None:
            hr = _laid(picture[top : top + patch, left : left + patch], view)
        else:
            margin = MARGIN * scale
            around = _laid(_window(picture, top, left, patch, margin), view)
            hr = around[margin:-margin, margin:-margin]
            lr = self._degraded(self._lr, around, random)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        if lr is not None and self._noise > 0:
            sigma = random.uniform(0, self._noise)
            noisy = lr + random.standard_normal(lr.shape, np.float32) * np.float32(sigma)
            lr = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return hr[..., colours], None if lr is None else lr[..., colours]

    def _degraded(self, degrade: Degrade, hr: Picture, random: np.random.Generator) -> Picture:
        x = torch.from_numpy(np.ascontiguousarray(hr)).permute(2, 0, 1)[None].float().div_(255)
        lr = degrade(x, self._scale, Generator().manual_seed(_number(random)))
        picture: Picture = lr[0].mul(255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
        return picture


def load(pairs: Pairs, *, start: int = 0, workers: int = 1) -> Iterator[Batch]:
    """The batches from a step on, made ahead of time.

    Args:
        pairs: the run.
        start: the first step, such as that of the checkpoint a run is resumed from.
        workers: processes; 0 makes batches in this one when they are asked for. Does not change them.
    """
    if not workers:
        yield from (pairs[step] for step in range(start, len(pairs)))
        return
    # A process with threads, as any with PyTorch is, cannot be forked safely; a server without any can.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    if method == "forkserver":
        _start_server()
    with warnings.catch_warnings():
        # More workers than cores are not wrong: they wait most of the time.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[_Sent] = DataLoader(
            _Arrays(pairs),
            batch_size=None,
            sampler=range(start, len(pairs)),
            num_workers=workers,
            prefetch_factor=_PREFETCHED,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            multiprocessing_context=context,
            generator=torch.Generator(),  # the loader would draw from the global one otherwise
        )
        batches = iter(loader)
    for hr, lr, seeds in batches:
        yield Batch(torch.from_numpy(hr), None if lr is None else torch.from_numpy(lr), seeds)


@dataclass(frozen=True)
class _Arrays(Dataset[_Sent]):
    """Batches as they travel between processes.

    As tensors they would travel through shared memory, which containers have little of, and a worker
    that is stopped while it sends one aborts.
    """

    pairs: Pairs

    def __getitem__(self, step: int) -> _Sent:
        hr, lr, seeds = self.pairs[step]
        return hr.numpy(), None if lr is None else lr.numpy(), seeds


def _start_server() -> None:
    """Start what workers are forked from, deaf to Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker(_: int) -> None:
    """Ctrl-C goes to every process of a terminal; what it means is for the one that trains to say.

    PyTorch's workers watch the process they were forked from, a server that lives as long as they do, and would outlive
    a training that is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_end_after, args=(trainer.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _as_it_is(sent: Any) -> Any:
    return sent


def _number(random: np.random.Generator) -> int:
    return int(random.integers(2**63 - 1))


def _window(picture: Picture, top: int, left: int, patch: int, margin: int) -> Picture:
    """A patch with a margin; beyond the picture it is mirrored, the edge pixel included, as ``resize`` does."""
    height, width = picture.shape[:2]
    first, last = (top - margin, left - margin), (top + patch + margin, left + patch + margin)
    inside = picture[max(first[0], 0) : last[0], max(first[1], 0) : last[1]]
    before = [max(-edge, 0) for edge in first]
    after = [max(edge - length, 0) for edge, length in zip(last, (height, width), strict=True)]
    if not any(before + after):
        return inside
    return np.pad(inside, [*zip(before, after, strict=True), (0, 0)], mode="symmetric")


def _laid(picture: Picture, view: int) -> Picture:
    """A square picture in one of eight ways: flipped across, flipped down, and rows with columns exchanged."""
    if view & 1:
        picture = picture[:, ::-1]
    if view & 2:
        picture = picture[::-1]
    return picture.swapaxes(0, 1) if view & 4 else picture


def _stacked(pictures: list[Picture]) -> Tensor:
    """(N, 3, H, W)."""
    out = np.empty((len(pictures), 3, *pictures[0].shape[:2]), np.uint8)
    for place, picture in zip(out, pictures, strict=True):
        place[...] = picture.transpose(2, 0, 1)
    return torch.from_numpy(out)
