from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upscaler.errors import UserError
from upscaler.images.partners import find_cases
from upscaler.images.resize import resize
from upscaler.images.sheets import most_detailed
from upscaler.model.compact import Compact
from upscaler.model.evaluation import Measured, Scores, average, evaluate, measure
from upscaler.model.upscaler import Upscaler
from upscaler.training import validation
from upscaler.training.degradation import PRESETS
from upscaler.training.shards import Pictures, shard_header, write_file
from upscaler.training.validation import ValidationSet

Save = Callable[[Path, Any], Path]
Scene = Callable[..., Any]

BICUBIC = PRESETS["bicubic"]


def nearest(scale: int = 4) -> Upscaler:
    network = Compact(features=2, convolutions=0, scale=scale)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return Upscaler(network.eval().requires_grad_(False), device="cpu", precision="fp32")


def prepared(folder: Path, tensors: dict[str, Any]) -> Pictures:
    header = shard_header([(name, array.shape[:2]) for name, array in tensors.items()], {})
    write_file(folder / "shard.safetensors", [header, *(np.ascontiguousarray(each).data for each in tensors.values())])
    return Pictures([folder / "shard.safetensors"])


def test_scores_are_those_of_evaluate(tmp_path: Path, scene: Scene, save: Save) -> None:
    for seed, shape in enumerate([(203, 209), (60, 49), (100, 200)]):
        save(tmp_path / f"{seed}.png", scene(seed, *shape))
    scores, bicubic, _ = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10).measure(nearest())
    events = evaluate(find_cases(tmp_path, scale=4, border=4).cases, {"model": nearest()}, scale=4, border=4)
    measured = [event for event in events if isinstance(event, Measured)]
    for found, name in ((scores, "model"), (bicubic, "bicubic")):
        wanted = average([each.scores[name] for each in measured])
        assert (found.psnr_y, found.ssim_y, found.psnr_rgb) == (wanted.psnr_y, wanted.ssim_y, wanted.psnr_rgb)
        assert (found.niqe, found.drift, found.shift_lr) == (wanted.niqe, wanted.drift, wanted.shift_lr)
    assert scores.psnr_y < bicubic.psnr_y


def test_bicubic_is_measured_once(tmp_path: Path, scene: Scene, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        save(tmp_path / f"{seed}.png", scene(seed, 48, 48))
    pictures = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10)
    calls = []

    def counted(*given: Any) -> Scores:
        calls.append(given)
        return measure(*given)

    monkeypatch.setattr(validation, "measure", counted)
    first = pictures.measure(nearest())
    assert len(calls) == 6
    second = pictures.measure(nearest())
    assert len(calls) == 9
    assert first[:2] == second[:2]


def test_samples_are_the_same_crop_of_everything_and_keep_nothing_else(
    tmp_path: Path, scene: Scene, save: Save
) -> None:
    for seed in range(5):
        picture = scene(seed, 250, 290)
        picture[:, :60] = 128  # so that the best crop is not at the left
        save(tmp_path / f"{seed}.png", picture)
    _, _, samples = ValidationSet.from_folder(tmp_path, 3, BICUBIC, 0, 10).measure(nearest(3))
    assert [sample.name for sample in samples] == ["0", "1", "2", "3"]
    for seed, sample in enumerate(samples):
        hr = scene(seed, 250, 290)[:249, :288]
        hr[:, :60] = 128
        lr = resize(hr, 83, 96)
        top, left = (edge // 3 * 3 for edge in most_detailed(hr, 192, 192))
        assert left > 0
        crop = (slice(top, top + 192), slice(left, left + 192))
        np.testing.assert_array_equal(sample.reference, hr[crop])
        np.testing.assert_array_equal(sample.bicubic, resize(lr, 249, 288)[crop])
        np.testing.assert_array_equal(sample.result, lr.repeat(3, 0).repeat(3, 1)[crop])
        assert all(each.base is None for each in (sample.reference, sample.bicubic, sample.result))


def test_any_kind_of_picture_is_taken_as_rgb(tmp_path: Path, scene: Scene, save: Save) -> None:
    rgb = scene(0, 48, 60)
    opaque = np.concatenate([rgb, np.full((48, 60, 1), 255, np.uint8)], axis=2)
    save(tmp_path / "a grey.png", rgb[..., :1])
    save(tmp_path / "b deep.png", rgb.astype(np.uint16) * 257)
    save(tmp_path / "c opaque.png", opaque)
    save(tmp_path / "d.webp", rgb)
    _, _, samples = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10).measure(nearest())
    np.testing.assert_array_equal(samples[0].reference, rgb[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(samples[1].reference, rgb)
    np.testing.assert_array_equal(samples[2].reference, rgb)
    assert samples[3].reference.shape == rgb.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_is_measured_as_evaluate_measures_its_file(
    tmp_path: Path, scene: Scene, save: Save, channels: int
) -> None:
    grey = scene(0, 48, 60)[..., :1].repeat(channels, axis=2)
    save(tmp_path / "picture.png", grey)
    lr = resize(grey, 12, 15)
    expected = measure(resize(lr, 48, 60), grey, lr, 4)
    _, bicubic, _ = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10).measure(nearest())
    assert bicubic.psnr_y == pytest.approx(expected.psnr_y)
    assert bicubic.ssim_y == pytest.approx(expected.ssim_y)


def test_what_cannot_be_used_is_left_out_by_name(tmp_path: Path, scene: Scene, save: Save) -> None:
    save(tmp_path / "good.png", scene(0, 48, 48))
    save(tmp_path / "least.png", scene(1, 21, 23))  # 20 pixels are enough for 11 + 2 * 4
    save(tmp_path / "small.png", scene(1, 48, 19))
    save(tmp_path / "glass.png", np.full((48, 48, 4), 100, np.uint8))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    pictures = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10)
    assert pictures.names == ["good", "least"]
    assert pictures.available == len(pictures) == 2
    assert len(pictures.left_out) == 3
    for name in ("small.png: 19 x 48", "glass.png has transparency", "torn.png"):
        assert any(name in line for line in pictures.left_out)
    pictures.measure(nearest())


def test_a_folder_without_a_usable_picture(tmp_path: Path, scene: Scene, save: Save) -> None:
    with pytest.raises(UserError, match="is not there"):
        ValidationSet.from_folder(tmp_path / "x", 4, BICUBIC, 0, 10)
    with pytest.raises(UserError, match="no picture in the folder"):
        ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10)
    save(tmp_path / "small.png", scene(0, 8, 8))
    with pytest.raises(UserError, match=r"no picture to validate with: .*small\.png: 8 x 8 pixels are too few"):
        ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 10)


def test_most_are_spread_evenly(tmp_path: Path, scene: Scene, save: Save) -> None:
    for number in range(9):
        save(tmp_path / f"{number}.png", scene(number, 32, 32))
    save(tmp_path / "4.png", scene(4, 8, 8))
    found = {most: ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, most) for most in (1, 3, 8, 50)}
    assert found[1].names == ["0"]
    assert found[3].names == ["0", "5", "8"]
    assert found[8].names == found[50].names == list("01235678")
    assert {each.available for each in found.values()} == {8}


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_another_takes_the_place_of_one_that_turns_out_damaged(tmp_path: Path, scene: Scene, save: Save) -> None:
    for number in range(9):
        save(tmp_path / f"{number}.png", scene(number, 32, 32))
    for number in (4, 5, 8):
        cut_off(tmp_path / f"{number}.png")
    found = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 3)
    assert found.names == ["0", "3", "7"]
    assert [Path(line.split(":")[0].split()[-1]).name for line in found.left_out] == ["4.png", "8.png"]
    assert (len(found), found.available) == (3, 7), "nobody has looked into 5.png"
    every = ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 9)
    assert every.names == list("012367")
    assert (len(every.left_out), every.available) == (3, 6)
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(save(tmp_path / "x/x.png", scene(1, 32, 32)).read_bytes()[:-1000])
    with pytest.raises(UserError, match="no picture to validate with: "):
        ValidationSet.from_folder(tmp_path, 4, BICUBIC, 0, 3)


@pytest.mark.parametrize(
    ("most", "chosen"),
    [
        (1, ["a-0-0"]),
        (3, ["a-0-0", "c-0-0", "e-0-0"]),
        (5, ["a-0-0", "b-0-0", "c-0-0", "d-0-0", "e-0-0"]),
        (7, ["a-0-0", "b-0-0", "c-0-0", "d-0-0", "e-0-0", "a-0-3", "c-0-1"]),
        (9, ["a-0-0", "b-0-0", "c-0-0", "d-0-0", "e-0-0", "a-0-1", "c-0-1", "a-0-2", "a-0-3"]),
    ],
)
def test_crops_are_of_as_many_sources_as_there_are(tmp_path: Path, scene: Scene, most: int, chosen: list[str]) -> None:
    crops = {"a": 4, "b": 1, "c": 2, "d": 1, "e": 1}
    names = [f"{source}.jpg@0,{place}" for source, count in crops.items() for place in range(count)]
    pictures = prepared(tmp_path, {f"{name}/hr": scene(0, 32, 32) for name in names})
    found = ValidationSet.from_prepared(pictures, 4, BICUBIC, 0, most)
    assert found.names == chosen
    assert found.available == 9


def test_random_degradations_are_fixed_by_seed_and_place(tmp_path: Path, scene: Scene, save: Save) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", scene(0, 64, 64))

    def results(seed: int, most: int) -> list[Any]:
        return [
            sample.result
            for sample in ValidationSet.from_folder(tmp_path, 4, PRESETS["noise"], seed, most).measure(nearest())[2]
        ]

    first = results(1, 3)
    torch.manual_seed(99)
    again, few, other = results(1, 3), results(1, 2), results(2, 3)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    # The last picture keeps its noise when fewer are taken.
    assert np.array_equal(few[1], first[2])


def test_a_prepared_set_as_it_is_and_made_small_anew(tmp_path: Path, scene: Scene) -> None:
    a, b = scene(0, 64, 80), scene(1, 32, 32)
    tensors = {
        "sub/ä.png@0,0/hr": a,
        "sub/ä.png@0,0/lr": scene(5, 16, 20),
        "tiny/hr": scene(2, 16, 16),
        "tiny/lr": scene(6, 4, 4),
        "sub/ä.png@0,80/hr": b,
        "sub/ä.png@0,80/lr": scene(7, 8, 8),
    }
    pictures = prepared(tmp_path, tensors)
    stored = ValidationSet.from_prepared(pictures, 4, "stored", 0, 10)
    assert stored.names == ["sub_ä-0-0", "sub_ä-0-80"]
    assert stored.left_out == ("tiny: 16 x 16 pixels are too few for x4 with a border of 4",)
    for sample, hr, lr in zip(stored.measure(nearest())[2], (a, b), (scene(5, 16, 20), scene(7, 8, 8)), strict=True):
        np.testing.assert_array_equal(sample.reference, hr)
        np.testing.assert_array_equal(sample.result, lr.repeat(4, 0).repeat(4, 1))
    made = ValidationSet.from_prepared(pictures, 4, BICUBIC, 0, 1)
    assert len(made) == 1
    np.testing.assert_array_equal(made.measure(nearest())[2][0].result, resize(a, 16, 20).repeat(4, 0).repeat(4, 1))
    # Another scale than the stored one may be made, but is not there.
    assert len(ValidationSet.from_prepared(pictures, 3, BICUBIC, 0, 9)) == 2
    with pytest.raises(UserError, match="scale 2, and the set holds those of scale 4"):
        ValidationSet.from_prepared(pictures, 2, "stored", 0, 10)


def test_a_prepared_set_without_what_is_needed(tmp_path: Path, scene: Scene) -> None:
    with pytest.raises(UserError, match="no picture to validate with"):
        ValidationSet.from_prepared(Pictures([]), 4, BICUBIC, 0, 10)
    with pytest.raises(UserError, match="the set holds none"):
        ValidationSet.from_prepared(prepared(tmp_path, {"a/hr": scene(0, 32, 32)}), 4, "stored", 0, 10)


def test_names_are_plain_words_and_differ() -> None:
    picture, small = np.zeros((32, 32, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    expected = {
        "153077.jpg@0,0": "153077-0-0",
        "153077.jpg@65,0": "153077-65-0",
        "153077.jpg@65,0x0.7": "153077-65-0x0_7",
        "153077-65-0.png": "153077-65-0-2",
        "../a": "_a",
        "a/b": "a_b",
        "a:b": "a_b-2",
        "A_b": "A_b-3",
        "": "_",
        ".hidden": "hidden",
        "-rf": "rf",
        "v1.5 (2).TIFF": "v1.5_2_",
        "v1.5": "v1.5",
        "me@home.png": "me_home",
        "icon@2x.png@0,64": "icon_2x-0-64",
        ".png": "_-2",
    }
    found = ValidationSet([(name, picture, small) for name in expected], 4).names
    assert found == list(expected.values())
    assert all(shlex.quote(name) == name for name in found)
