from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.images.resize import resize
from upscaler.training.degradation import PRESETS
from upscaler.training.pairs import Batch, Growth, Pairs, degraded, floats, load
from upscaler.training.shards import Pictures, shard_header, write_file

BICUBIC = PRESETS["bicubic"]


def shard(path: Path, pictures: dict[str, Any]) -> Pictures:
    header = shard_header([(name, array.shape[:2]) for name, array in pictures.items()], {})
    write_file(path, [header, *(array.data for array in pictures.values())])
    return Pictures([path])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, scene: Any) -> Pictures:
    """Three pictures of different sizes with bicubic LR."""
    tensors = {}
    for seed, (height, width) in enumerate([(64, 64), (128, 192), (64, 96)]):
        hr = scene(seed, height, width)
        tensors[f"{seed}@0,0/hr"] = hr
        tensors[f"{seed}@0,0/lr"] = resize(hr, height // 4, width // 4)
    return shard(tmp_path_factory.mktemp("set") / "one.safetensors", tensors)


def pairs(pictures: Pictures, **options: Any) -> Pairs:
    usual: dict[str, Any] = {"scale": 4, "batch": 4, "patch": 32, "steps": 6, "lr": BICUBIC}
    return Pairs(pictures, **(usual | options))


def same(a: Batch, b: Batch) -> bool:
    assert a.lr is not None
    assert b.lr is not None
    return torch.equal(a.hr, b.hr) and torch.equal(a.lr, b.lr) and a.seeds == b.seeds


def array(tensor: Any) -> Any:
    return tensor.permute(1, 2, 0).numpy()


def places_of(patch: Any, pictures: Pictures) -> list[tuple[int, int, int]]:
    """Where a patch that was not turned comes from: (picture, top, left)."""
    found = []
    for index in np.flatnonzero(pictures.sizes.min(axis=1) >= len(patch)).tolist():
        windows = np.lib.stride_tricks.sliding_window_view(pictures.hr(index), patch.shape)[:, :, 0]
        corner = np.argwhere((windows[..., 0, 0, :] == patch[0, 0]).all(axis=-1))
        found += [(index, top, left) for top, left in corner.tolist() if np.array_equal(windows[top, left], patch)]
    return found


def test_what_a_batch_is(pictures: Pictures) -> None:
    batch = pairs(pictures)[0]
    assert batch.lr is not None
    assert (batch.hr.shape, batch.lr.shape) == ((4, 3, 32, 32), (4, 3, 8, 8))
    assert batch.hr.dtype == batch.lr.dtype == torch.uint8
    values = floats(batch.hr)
    assert values.dtype == torch.float32
    assert 0 <= float(values.min()) <= float(values.max()) <= 1
    assert torch.equal((values * 255).round().to(torch.uint8), batch.hr)


def test_the_same_step_is_the_same_batch(pictures: Pictures) -> None:
    first, second = pairs(pictures, noise=10.0), pairs(pictures, noise=10.0)
    assert same(first[3], second[3])
    assert not torch.equal(first[3].hr, first[4].hr)
    assert not torch.equal(first[3].hr, pairs(pictures, seed=1)[3].hr)
    assert first[3].seeds != first[4].seeds


def test_a_run_has_an_end(pictures: Pictures) -> None:
    run = pairs(pictures)
    assert len(run) == 6
    for step in (-1, 6):
        with pytest.raises(IndexError):
            run[step]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch_that_one_would_train_on(pictures: Pictures, world: int) -> None:
    whole = pairs(pictures, batch=8, noise=5.0)
    ranks = [pairs(pictures, batch=8, noise=5.0, rank=rank, world=world) for rank in range(world)]
    for step in range(6):
        together, parts = whole[step], [run[step] for run in ranks]
        assert together.lr is not None
        assert torch.equal(torch.cat([part.hr for part in parts]), together.hr)
        assert torch.equal(torch.cat([part.lr for part in parts if part.lr is not None]), together.lr)
        assert tuple(seed for part in parts for seed in part.seeds) == together.seeds
        assert len(set(together.seeds)) == 8


def test_ranks_that_cannot_share_a_batch_are_refused(pictures: Pictures) -> None:
    with pytest.raises(UserError, match="a batch of 4 cannot be shared evenly by 3 processes"):
        pairs(pictures, batch=4, world=3)


def test_a_degradation_that_is_random_is_a_function_of_the_sample_too(pictures: Pictures) -> None:
    whole = pairs(pictures, batch=4, lr=PRESETS["noise"])[1]
    part = pairs(pictures, batch=4, lr=PRESETS["noise"], rank=1, world=2)[1]
    assert whole.lr is not None
    assert part.lr is not None
    assert torch.equal(part.lr, whole.lr[2:])


def test_degradation_on_the_device_does_not_depend_on_the_ranks(pictures: Pictures) -> None:
    def made(rank: int, world: int) -> torch.Tensor:
        batch = pairs(pictures, batch=8, lr=None, rank=rank, world=world)[2]
        return degraded(floats(batch.hr), PRESETS["realesrgan"], 4, batch.seeds)

    whole = made(0, 1)
    assert whole.shape == (8, 3, 8, 8)
    assert torch.equal(torch.cat([made(0, 2), made(1, 2)]), whole)


@pytest.mark.parametrize("start", [0, 4])
def test_workers_do_not_change_the_run(pictures: Pictures, start: int) -> None:
    run = pairs(pictures, noise=10.0, shuffle_channels=True, patch=Growth(((0, 16), (3, 32))))
    expected = [run[step] for step in range(start, 6)]
    for workers in (0, 1, 2) if start else (0, 2):
        batches = list(load(run, start=start, workers=workers))
        assert len(batches) == len(expected)
        assert all(same(a, b) for a, b in zip(batches, expected, strict=True))


def test_workers_can_be_stopped(pictures: Pictures) -> None:
    batches = load(pairs(pictures, lr=None, steps=100), workers=1)
    for batch in islice(batches, 3):
        assert batch.lr is None
    start = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("lr", ["stored", BICUBIC, None])
def test_patches_are_parts_of_the_pictures(pictures: Pictures, lr: Any) -> None:
    run = pairs(pictures, flips=False, lr=lr)
    for batch in (run[step] for step in range(6)):
        for patch in batch.hr:
            assert len(places_of(array(patch), pictures)) == 1


def test_stored_lr_belongs_to_hr(pictures: Pictures) -> None:
    run = pairs(pictures, flips=False, lr="stored")
    for batch in (run[step] for step in range(6)):
        assert batch.lr is not None
        for hr, lr in zip(batch.hr, batch.lr, strict=True):
            ((index, top, left),) = places_of(array(hr), pictures)
            assert (top % 4, left % 4) == (0, 0)
            assert np.array_equal(array(lr), pictures.lr(index)[top // 4 :, left // 4 :][:8, :8])


def test_lr_made_of_a_patch_is_that_of_the_whole_picture(pictures: Pictures) -> None:
    """Also at the picture's edge, and nowhere an edge of the patch."""
    run = pairs(pictures, flips=False, steps=100)
    compared = at_edge = 0
    for batch in (run[step] for step in range(100)):
        assert batch.lr is not None
        for hr, lr in zip(batch.hr, batch.lr, strict=True):
            ((index, top, left),) = places_of(array(hr), pictures)
            if top % 4 == left % 4 == 0:
                expected = pictures.lr(index)[top // 4 :, left // 4 :][:8, :8]
                assert np.abs(array(lr).astype(int) - expected).max() <= 1
                compared += 1
                at_edge += top == 0 or left == 0
    assert compared >= 10
    assert at_edge >= 2


@pytest.mark.parametrize("lr", ["stored", BICUBIC])
def test_hr_and_lr_are_turned_alike(pictures: Pictures, lr: Any) -> None:
    """LR is closer to its reduced HR than to any other way to lay it."""
    views = set()
    run, straight = pairs(pictures, lr=lr, steps=10), pairs(pictures, lr=lr, steps=10, flips=False)
    for step in range(10):
        batch = run[step]
        assert batch.lr is not None
        for hr, lr_patch, plain in zip(batch.hr, batch.lr, straight[step].hr, strict=True):
            reduced = resize(np.ascontiguousarray(array(hr)), 8, 8).astype(int)
            given = array(lr_patch).astype(int)
            laid = [np.rot90(side, turns) for side in (reduced, reduced[:, ::-1]) for turns in range(4)]
            assert np.argmin([np.abs(each - given).mean() for each in laid]) == 0
            ways = [np.rot90(side, turns) for side in (array(plain), array(plain)[:, ::-1]) for turns in range(4)]
            views |= {way for way, each in enumerate(ways) if np.array_equal(each, array(hr))}
    assert views == set(range(8))


def test_large_pictures_are_drawn_more_often(pictures: Pictures) -> None:
    run = pairs(pictures, flips=False, lr=None, batch=50, patch=32, steps=8)
    drawn: Counter[int] = Counter()
    for batch in (run[step] for step in range(8)):
        drawn.update(places_of(array(patch), pictures)[0][0] for patch in batch.hr)
    areas = pictures.sizes.prod(axis=1)
    for index, area in enumerate(areas.tolist()):
        share = area / areas.sum()
        assert abs(drawn[index] - 400 * share) < 4 * np.sqrt(400 * share * (1 - share))


def test_patches_grow(pictures: Pictures) -> None:
    run = pairs(pictures, patch=Growth(((0, 16), (2, 32), (4, 64))))
    assert [run[step].hr.shape[-1] for step in range(6)] == [16, 16, 32, 32, 64, 64]
    assert pairs(pictures, patch=Growth(((2, 24), (4, 64))))[0].hr.shape[-1] == 24


def test_pictures_smaller_than_the_patch_are_left_out(pictures: Pictures) -> None:
    run = pairs(pictures, patch=128, flips=False)
    assert (run.left_out(64), run.left_out(68), run.left_out(128)) == (0, 2, 2)
    assert {places_of(array(patch), pictures)[0][0] for patch in run[0].hr} == {1}


def test_noise_is_added_to_lr_alone(pictures: Pictures) -> None:
    clean, noisy = pairs(pictures, batch=64), pairs(pictures, batch=64, noise=20.0)
    assert torch.equal(clean[0].hr, noisy[0].hr)
    a, b = clean[0].lr, noisy[0].lr
    assert a is not None
    assert b is not None
    middle = (a > 70) & (a < 185)
    deviations = [float((y.float() - x)[keep].std()) for x, y, keep in zip(a, b, middle, strict=True)]
    assert max(deviations) < 24
    assert 7 < np.mean(deviations) < 13


def test_channels_are_shuffled_alike(pictures: Pictures) -> None:
    plain, shuffled = (
        pairs(pictures, batch=40, lr="stored"),
        pairs(pictures, batch=40, lr="stored", shuffle_channels=True),
    )
    orders = set()
    a, b = plain[0], shuffled[0]
    assert a.lr is not None
    assert b.lr is not None
    for hr, lr, mixed_hr, mixed_lr in zip(a.hr, a.lr, b.hr, b.lr, strict=True):
        order = [next(old for old in range(3) if torch.equal(hr[old], mixed_hr[new])) for new in range(3)]
        orders.add(tuple(order))
        assert torch.equal(lr[order], mixed_lr)
    assert len(orders) == 6


def test_what_cannot_be_made(pictures: Pictures, tmp_path: Path, scene: Any) -> None:
    with pytest.raises(UserError, match=r"no picture of this training set has 132 x 132 pixels"):
        pairs(pictures, patch=132)
    with pytest.raises(UserError, match="has 256 x 256"):
        pairs(pictures, patch=Growth(((0, 32), (5, 256))))
    with pytest.raises(UserError, match="an HR patch of 30 pixels is no multiple of the scale, 4"):
        pairs(pictures, patch=30)
    with pytest.raises(UserError, match="holds no LR pictures for x2 but for x4"):
        pairs(pictures, scale=2, lr="stored")
    plain = shard(tmp_path / "plain.safetensors", {"a@0,0/hr": scene(0)})
    with pytest.raises(UserError, match="holds no LR pictures for x4; store some with 'srup prepare-data --scale 4'"):
        pairs(plain, lr="stored")


@pytest.mark.parametrize("sizes", [((0, 32), (2, 34), (4, 48)), ((0, 32), (2, 4000), (4, 48))])
def test_every_size_of_a_growing_patch_is_checked_before_the_run(pictures: Pictures, sizes: Any) -> None:
    with pytest.raises(UserError):
        Pairs(pictures, scale=4, batch=2, patch=Growth(sizes), steps=9, lr=None)


def test_noise_needs_an_lr_to_be_on(pictures: Pictures) -> None:
    with pytest.raises(ValueError, match="noise belongs on LR"):
        Pairs(pictures, scale=4, batch=2, patch=32, steps=9, lr=None, noise=5)
