from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from upscaler.errors import UserError
from upscaler.images.files import open_picture
from upscaler.images.resize import resize
from upscaler.training.building import Storage
from upscaler.training.inspection import Rules, read_rgb
from upscaler.training.journal import JOURNAL
from upscaler.training.preparation import Advanced, Dropped, Event, Outcome, Settings, prepare
from upscaler.training.selection import Crops
from upscaler.training.shards import PreparedSet, write_file
from upscaler.training.sources import Source, find_sources, with_partners

CROPS = Settings(Rules(Crops(64)), Storage(shard_bytes=60_000), validation=1)


@pytest.fixture
def photos(tmp_path: Path, scene: Any, save: Any) -> Path:
    for seed in range(5):
        save(tmp_path / f"photos/{seed}.png", scene(seed))
    return tmp_path / "photos"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    pass


def run(
    sources: Path | Sequence[Source], folder: Path, settings: Settings = CROPS, **options: Any
) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    found = find_sources([str(sources)]) if isinstance(sources, Path) else sources
    return prepare(found, folder, settings, events.append, **options), events


def dropped(events: list[Event]) -> dict[str, str]:
    return {event.name: event.because for event in events if isinstance(event, Dropped)}


def test_crops_of_photographs(photos: Path, tmp_path: Path, scene: Any) -> None:
    outcome, events = run(photos, tmp_path / "set")
    prepared = PreparedSet(tmp_path / "set")
    assert prepared.manifest == outcome.manifest | {"format": 1, "shards": prepared.manifest["shards"]}
    train, validation = prepared.pictures(), prepared.pictures("validation")
    assert (len(train), len(validation)) == (4 * 9, 9)
    assert {shard.split for shard in prepared.shards} == {"train", "validation"}
    assert all(shard.pictures <= 4 for shard in prepared.shards)
    for pictures in (train, validation):
        for index, name in enumerate(pictures.names):
            source, _, place = name.partition("@")
            top, left = map(int, place.split(","))
            assert np.array_equal(pictures.hr(index), scene(int(source[0]))[top : top + 64, left : left + 64])
    assert not {name.partition("@")[0] for name in train.names} & {name.partition("@")[0] for name in validation.names}
    assert dropped(events) == {}
    assert open_picture(tmp_path / "set/samples.png").width == 8 * (64 + 8) - 8


def test_statistics_are_those_of_the_pixels(photos: Path, tmp_path: Path) -> None:
    outcome, _ = run(photos, tmp_path / "set")
    pictures = PreparedSet(tmp_path / "set").pictures()
    pixels = np.concatenate([pictures.hr(index).reshape(-1, 3) for index in range(len(pictures))]) / 255
    train = outcome.manifest["statistics"]["train"]
    assert train["mean"] == pytest.approx(pixels.mean(axis=0).tolist(), abs=1e-6)
    assert train["std"] == pytest.approx(pixels.std(axis=0).tolist(), abs=1e-6)
    assert (train["sources"], train["pictures"]) == (4, 36)
    assert train["megapixels"] == pytest.approx(36 * 64 * 64 / 1e6)


def test_the_same_again_is_left_alone(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir() if path.name != ".lock"}
    outcome, events = run(photos, tmp_path / "set")
    assert outcome.unchanged
    assert outcome.manifest == PreparedSet(tmp_path / "set").manifest
    assert {event.step for event in events if isinstance(event, Advanced)} == {"reading", "checking"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_pictures_make_the_same_bytes_anywhere(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set", threads=1)
    shutil.copytree(photos, tmp_path / "elsewhere/photos")
    run(tmp_path / "elsewhere/photos", tmp_path / "other", threads=3)
    assert files(tmp_path / "set") == files(tmp_path / "other")
    assert str(tmp_path) not in (tmp_path / "set/manifest.json").read_text()


@pytest.mark.parametrize(("step", "done"), [("reading", 2), ("inspecting", 1), ("inspecting", 4), ("writing", 1)])
def test_a_run_that_was_cut_off_goes_on(photos: Path, tmp_path: Path, step: str, done: int) -> None:
    run(photos, tmp_path / "whole")
    count = 0

    def kill(event: Event) -> None:
        nonlocal count
        if isinstance(event, Advanced) and event.step == step:
            count += 1
            if count > done:
                raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, kill)
    assert not (tmp_path / "set/manifest.json").exists()
    _, events = run(photos, tmp_path / "set")
    inspected = [event for event in events if isinstance(event, Advanced) and event.step == "inspecting"]
    assert len(inspected) == {"reading": 5, "inspecting": 4 - done, "writing": 0}[step]
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_a_finished_shard_is_not_written_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "writing" and event.done > event.total / 2:
            raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, kill)
    finished = set(files(tmp_path / "set")) - {JOURNAL, ".lock"}
    assert finished
    written: list[str] = []

    def write(path: Path, parts: Any) -> Any:
        written.append(path.name)
        return write_file(path, parts)

    monkeypatch.setattr("upscaler.training.building.write_file", write)
    run(photos, tmp_path / "set")
    assert written
    assert not finished & set(written)


def test_a_torn_journal_costs_only_what_was_torn(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "whole")

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "writing":
            raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, kill)
    journal = tmp_path / "set" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-40])
    _, events = run(photos, tmp_path / "set")
    assert sum(isinstance(event, Advanced) and event.step == "inspecting" for event in events) == 1
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_the_journal_of_other_rules_is_forgotten(photos: Path, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "writing":
            raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, kill)
    settings = replace(CROPS, rules=Rules(Crops(96)))
    run(photos, tmp_path / "set", settings)
    run(photos, tmp_path / "whole", settings)
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_a_sheet_that_was_deleted_comes_back(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    before = files(tmp_path / "set")
    (tmp_path / "set/samples.png").unlink()
    outcome, _ = run(photos, tmp_path / "set")
    assert outcome.unchanged
    assert files(tmp_path / "set") == before


def test_another_set_is_replaced_only_if_asked_for(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    before = files(tmp_path / "set")
    whole = replace(CROPS, rules=Rules())
    with pytest.raises(UserError, match=r"made otherwise \(crop: 64 then, none now\); use --overwrite"):
        run(photos, tmp_path / "set", whole)
    assert files(tmp_path / "set") == before
    run(photos, tmp_path / "set", whole, overwrite=True)
    run(photos, tmp_path / "fresh", whole)
    assert files(tmp_path / "set") == files(tmp_path / "fresh")


def test_a_replacement_that_fails_leaves_the_old_set(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "writing":
            raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "set", Settings(), kill, overwrite=True)
    PreparedSet(tmp_path / "set").verify()
    assert PreparedSet(tmp_path / "set").manifest["settings"]["rules"]["crops"]["size"] == 64


def test_a_damaged_set_is_found_and_made_anew(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    sound = files(tmp_path / "set")
    shard = min((tmp_path / "set").glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 255
    shard.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        run(photos, tmp_path / "set")
    run(photos, tmp_path / "set", overwrite=True)
    assert files(tmp_path / "set") == sound


def test_folders_with_other_files_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds files but no training set"):
        run(photos, photos)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        run(photos, tmp_path / "file")


def test_a_folder_that_cannot_be_made(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file/set: Not a directory"):
        run(photos, tmp_path / "file/set")


def test_what_differs_from_the_set_that_is_there_is_named(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    run(photos, tmp_path / "set")

    def difference(settings: Settings = CROPS, **options: Any) -> str:
        with pytest.raises(UserError) as raised:
            run(photos, tmp_path / "set", settings, **options)
        return str(raised.value).partition("(")[2].partition(")")[0]

    assert difference(replace(CROPS, duplicates=False, validation=0.2)) == (
        "dropping of duplicates: on then, off now; validation: 1 then, 0.2 now"
    )
    assert difference(replace(CROPS, storage=Storage(2, "blur", 0, 60_000), rules=Rules(Crops(64), multiple=2))) == (
        "scale: none then, 2 now; degradation: none then, blur now"
    )
    sizes = Rules(Crops(64), sizes=(1.0, 0.5))
    assert difference(replace(CROPS, rules=sizes)) == "sizes: 1.0 then, 1.0,0.5 now"
    save(tmp_path / "tests/x.png", scene(50))
    assert difference(benchmarks=find_sources([str(tmp_path / "tests")])) == "other benchmark pictures"
    (photos / "0.png").unlink()
    save(photos / "1.png", scene(9))
    save(photos / "new.png", scene(8))
    assert difference() == "other pictures: 1 new, 1 gone, 1 changed"


def test_a_set_with_an_unknown_difference(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    for damaged in (manifest | {"identity": "0"}, manifest | {"identity": "0", "settings": None, "sources": [1]}):
        (tmp_path / "set/manifest.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match="holds a set made otherwise; use --overwrite"):
            run(photos, tmp_path / "set")


def test_one_run_at_a_time(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with FileLock(tmp_path / "set/.lock"), pytest.raises(UserError, match="another srup prepare-data is writing"):
        run(photos, tmp_path / "set")


def test_what_cannot_be_used_is_named(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    random = np.random.default_rng(0)
    (photos / "broken.png").write_text("no picture")
    cut = (photos / "0.png").read_bytes()
    (photos / "cut.png").write_bytes(cut[: len(cut) // 2])
    alpha = np.concatenate([scene(10), random.integers(0, 256, (160, 192, 1), np.uint8)], axis=2)
    save(photos / "ghost.png", alpha)
    save(photos / "tiny.png", scene(11, 40, 40))
    save(photos / "flat.png", np.full((128, 128, 3), 77, np.uint8))
    ramp = np.tile(np.linspace(0, 250, 128).round().astype(np.uint8)[:, None], (128, 1, 3))
    save(photos / "soft.png", ramp.repeat(1, axis=1))
    outcome, events = run(photos, tmp_path / "set", replace(CROPS, rules=Rules(Crops(64), flat=1.5, blurred=8)))
    reasons = {event.name: event.reason for event in events if isinstance(event, Dropped)}
    assert reasons == {
        "broken.png": "unreadable", "cut.png": "unreadable", "ghost.png": "transparent", "tiny.png": "small",
        "flat.png": "flat", "soft.png": "blurred",
    }  # fmt: skip
    assert {event.name for event in events if isinstance(event, Dropped) and event.failed} == {
        "broken.png", "cut.png", "ghost.png",
    }  # fmt: skip
    assert dropped(events)["tiny.png"] == "40 x 40 pixels are too few for a crop of 64"
    assert dropped(events)["broken.png"].startswith("it is not a PNG")
    assert outcome.manifest["statistics"]["dropped_sources"] == {
        "blurred": 1, "flat": 1, "small": 1, "transparent": 1, "unreadable": 2,
    }  # fmt: skip
    again, events = run(photos, tmp_path / "set", replace(CROPS, rules=Rules(Crops(64), flat=1.5, blurred=8)))
    assert again.unchanged
    assert set(dropped(events)) == set(reasons)


def test_pictures_that_are_too_small_as_a_whole(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    save(photos / "tiny.png", scene(11, 30, 40))
    _, events = run(photos, tmp_path / "set", Settings())
    assert dropped(events) == {"tiny.png": "40 x 30 pixels are too few; both edges must have 32"}


def test_flat_and_blurred_crops_are_dropped_and_counted(tmp_path: Path, scene: Any, save: Any) -> None:
    pixels = scene(0, 64, 192).copy()
    pixels[:, 64:128] = 50
    pixels[:, 128:] = np.linspace(0, 250, 64).round().astype(np.uint8)[:, None]
    save(tmp_path / "photos/a.png", pixels)
    settings = Settings(Rules(Crops(64)))
    outcome, _ = run(tmp_path / "photos", tmp_path / "set", settings)
    assert PreparedSet(tmp_path / "set").pictures().names == ["a.png@0,0"]
    assert outcome.manifest["statistics"]["dropped_crops"] == {"blurred": 1, "flat": 1}
    run(tmp_path / "photos", tmp_path / "all", Settings(Rules(Crops(64), flat=0, blurred=0)))
    assert len(PreparedSet(tmp_path / "all").pictures()) == 3


def test_nothing_left(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "photos/a.png", np.zeros((64, 64, 3), np.uint8))
    events: list[Event] = []
    with pytest.raises(UserError, match="none of 1 pictures can be used"):
        prepare(find_sources([str(tmp_path / "photos")]), tmp_path / "set", Settings(), events.append)
    assert dropped(events) == {"a.png": "all of it is flat"}
    assert not (tmp_path / "set").exists()
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="none of 1 pictures can be used"):
        run(tmp_path / "photos", tmp_path / "set")
    assert set(files(tmp_path / "set")) <= {".lock"}


def test_a_run_that_found_out_nothing_leaves_no_folder(photos: Path, tmp_path: Path) -> None:
    def kill(_: Event) -> None:
        raise Killed

    with pytest.raises(Killed):
        prepare(find_sources([str(photos)]), tmp_path / "deep/er/set", CROPS, kill)
    assert not (tmp_path / "deep").exists()


def test_of_duplicates_the_largest_stays(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    original = scene(3)
    save(photos / "a copy.jpg", original)
    save(photos / "b small.png", resize(original, 100, 120))
    save(photos / "c mirrored.jpg", original[:, ::-1])
    save(photos / "d large.png", resize(original, 320, 384))
    settings = replace(CROPS, rules=Rules(Crops(64), blurred=0))
    _, events = run(photos, tmp_path / "set", settings)
    same = "it shows the same as d large.png"
    assert dropped(events) == {"3.png": same, "a copy.jpg": same, "b small.png": same, "c mirrored.jpg": same}
    outcome, events = run(photos, tmp_path / "all", replace(settings, duplicates=False))
    assert dropped(events) == {}
    assert outcome.manifest["statistics"]["train"]["sources"] == 8


def test_copies_that_are_kept_stay_on_one_side(tmp_path: Path, scene: Any, save: Any) -> None:
    for seed in range(4):
        save(tmp_path / f"photos/{seed}.png", scene(seed))
        save(tmp_path / f"photos/{seed} copy.png", scene(seed)[:, ::-1])
        save(tmp_path / f"photos/{seed} small.png", resize(scene(seed), 120, 144))
    settings = Settings(Rules(), duplicates=False, validation=6)
    run(tmp_path / "photos", tmp_path / "set", settings)
    names = PreparedSet(tmp_path / "set").pictures("validation").names
    assert len(names) == 6
    assert len({name[0] for name in names}) == 2


def test_benchmarks_do_not_leak(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    save(tmp_path / "tests/x.png", scene(50, 320, 320))
    save(photos / "whole.jpg", scene(50, 320, 320)[::-1])
    save(photos / "part.png", scene(50, 320, 320)[30:270, 50:290])
    _, events = run(photos, tmp_path / "set", benchmarks=find_sources([str(tmp_path / "tests")]))
    because = "it shares something with the benchmark picture x.png"
    assert dropped(events) == {"whole.jpg": because, "part.png": because}
    assert PreparedSet(tmp_path / "set").manifest["benchmarks"][0][0] == "x.png"


def test_a_benchmark_that_is_too_small(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    save(tmp_path / "tests/x.png", scene(50, 20, 320))
    with pytest.raises(UserError, match=r"x.png is too small for a benchmark"):
        run(photos, tmp_path / "set", benchmarks=find_sources([str(tmp_path / "tests")]))


def test_a_benchmark_that_is_transparent_is_named(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    clear = np.concatenate([scene(50), np.zeros((160, 192, 1), np.uint8)], axis=2)
    path = save(tmp_path / "tests/x.png", clear)
    with pytest.raises(UserError, match=f"cannot use {path} as a benchmark: it has transparent pixels"):
        run(photos, tmp_path / "set", benchmarks=find_sources([str(tmp_path / "tests")]))


def test_progress_on_benchmarks(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    for seed in range(3):
        save(tmp_path / f"tests/{seed}.png", scene(60 + seed))
    _, events = run(photos, tmp_path / "set", benchmarks=find_sources([str(tmp_path / "tests")]))
    assert [event for event in events if isinstance(event, Advanced) and "benchmarks" in event.step] == [
        Advanced(step, done, 3) for step in ("reading benchmarks", "inspecting benchmarks") for done in (1, 2, 3)
    ]


def test_the_split_does_not_depend_on_names(photos: Path, tmp_path: Path) -> None:
    settings = replace(CROPS, rules=Rules(), validation=2)
    run(photos, tmp_path / "set", settings)
    renamed = tmp_path / "renamed"
    shutil.copytree(photos, renamed)
    for path in list(renamed.iterdir()):
        path.rename(renamed / f"{9 - int(path.stem)}-new.png")
    run(renamed, tmp_path / "other", settings)
    chosen = [PreparedSet(tmp_path / name).pictures("validation") for name in ("set", "other")]
    first, second = ({pictures.hr(index).tobytes() for index in range(2)} for pictures in chosen)
    assert first == second


@pytest.fixture
def pairs(tmp_path: Path, scene: Any, save: Any) -> Path:
    for seed in range(5):
        save(tmp_path / f"low/{seed}x4.png", resize(scene(seed), 40, 48))
    return tmp_path / "low"


def paired(photos: Path, low: Path) -> list[Source]:
    return with_partners(find_sources([str(photos)]), find_sources([str(low)]), 4)


STORED = replace(CROPS, rules=Rules(Crops(64), multiple=4), storage=Storage(scale=4, shard_bytes=60_000))


def test_given_lr_pictures(photos: Path, pairs: Path, tmp_path: Path, scene: Any) -> None:
    run(paired(photos, pairs), tmp_path / "set", STORED)
    pictures = PreparedSet(tmp_path / "set").pictures()
    assert pictures.scale == 4
    for index, name in enumerate(pictures.names):
        top, left = (int(edge) // 4 for edge in name.partition("@")[2].split(","))
        lr = resize(scene(int(name[0])), 40, 48)
        assert np.array_equal(pictures.lr(index), lr[top : top + 16, left : left + 16])


def test_mismatched_pairs_are_named(photos: Path, pairs: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    save(pairs / "0x4.png", resize(scene(0), 39, 48))
    save(pairs / "1x4.png", np.roll(resize(scene(1), 40, 48), 2, axis=1))
    save(pairs / "2x4.png", resize(scene(9), 40, 48))
    (pairs / "3x4.png").unlink()
    save(pairs / "4_LR.png", resize(scene(4), 40, 48))
    save(photos / "5.png", scene(5))
    save(pairs / "5.png", resize(scene(5), 40, 48))
    save(photos / "6.png", scene(6))
    (pairs / "6.png").write_text("no picture")
    save(photos / "7.png", scene(7))
    save(pairs / "7.png", resize(scene(7), 40, 48))
    outcome, events = run(paired(photos, pairs), tmp_path / "set", replace(STORED, validation=0))
    named = dropped(events)
    assert named.pop("0.png").startswith("HR of 192 x 160 is not 4 times LR of 48 x 39")
    assert named.pop("6.png").startswith("LR: it is not a PNG")
    assert named == {
        "1.png": "LR is shifted by 0 down and 2 right LR pixels",
        "2.png": "LR does not show what HR shows",
        "3.png": "no LR picture fits it by name",
        "4.png": "several LR pictures fit it by name: 4_LR.png, 4x4.png",
    }
    assert outcome.manifest["statistics"]["train"]["sources"] == 2
    assert all(event.failed for event in events if isinstance(event, Dropped))


@pytest.mark.parametrize("first", ["given", "made"])
def test_what_was_found_of_given_lr_pictures_is_not_taken_for_those_made_now(
    photos: Path, pairs: Path, tmp_path: Path, first: str
) -> None:
    (pairs / "3x4.png").unlink()
    given = (paired(photos, pairs), replace(STORED, validation=0))
    made = (photos, replace(STORED, storage=replace(STORED.storage, degradation="bicubic"), validation=0))
    before, after = (given, made) if first == "given" else (made, given)
    with pytest.raises(UserError, match="would leave none"):
        run(before[0], tmp_path / "set", replace(before[1], validation=99))
    outcome, _ = run(after[0], tmp_path / "set", after[1])
    assert outcome.manifest["statistics"]["train"]["sources"] == (5 if first == "given" else 4)


def test_pictures_smaller_than_an_lr_pixel_are_left_out(photos: Path, tmp_path: Path) -> None:
    settings = Settings(Rules(multiple=500), Storage(500, "bicubic"))
    with pytest.raises(UserError):
        run(photos, tmp_path / "set", settings)


@pytest.mark.parametrize("preset", ["bicubic", "nearest", "noise"])
def test_lr_pictures_made_now(photos: Path, tmp_path: Path, scene: Any, preset: str) -> None:
    settings = replace(STORED, rules=Rules(multiple=3), storage=Storage(3, preset, seed=5))
    run(photos, tmp_path / "set", settings, threads=1)
    run(photos, tmp_path / "again", settings, threads=2)
    assert files(tmp_path / "set") == files(tmp_path / "again")
    pictures = PreparedSet(tmp_path / "set").pictures()
    hr = scene(int(pictures.names[0][0]))[:159]
    assert np.array_equal(pictures.hr(0), hr)
    if preset == "bicubic":
        assert np.abs(pictures.lr(0).astype(int) - resize(hr, 53, 64)).max() <= 1
    if preset == "nearest":
        assert np.array_equal(pictures.lr(0), hr[1::3, 1::3])
    run(photos, tmp_path / "seed", replace(settings, storage=replace(settings.storage, seed=6)))
    other = PreparedSet(tmp_path / "seed").pictures()
    assert np.array_equal(other.lr(0), pictures.lr(0)) == (preset != "noise")


def test_pictures_at_several_sizes(photos: Path, tmp_path: Path, scene: Any) -> None:
    """160 x 192 pixels give nine crops of 64, at 0.7 (112 x 135) four and at 0.5 (80 x 96) four."""
    rules = Rules(Crops(64), flat=0, blurred=0, sizes=(1.0, 0.7, 0.5))
    outcome, _ = run(photos, tmp_path / "set", replace(CROPS, rules=rules, validation=0))
    pictures = PreparedSet(tmp_path / "set").pictures()
    of_each = {"0.png": resize(scene(0), 112, 135, 0.7), "0.png half": resize(scene(0), 80, 96, 0.5)}
    names = [name for name in pictures.names if name.startswith("0.png")]
    assert names == [
        *(f"0.png@{top},{left}" for top in (0, 64, 96) for left in (0, 64, 128)),
        *(f"0.png@{top},{left}x0.7" for top in (0, 48) for left in (0, 64)),
        *(f"0.png@{top},{left}x0.5" for top in (0, 16) for left in (0, 32)),
    ]
    hr = {name: pictures.hr(index) for index, name in enumerate(pictures.names)}
    assert np.array_equal(hr["0.png@96,64"], scene(0)[96:160, 64:128])
    assert np.array_equal(hr["0.png@48,64x0.7"], of_each["0.png"][48:112, 64:128])
    assert np.array_equal(hr["0.png@16,32x0.5"], of_each["0.png half"][16:80, 32:96])
    everything = np.stack([pictures.hr(index) for index in range(len(pictures))]) / 255
    assert outcome.manifest["statistics"]["train"]["pictures"] == len(pictures) == 5 * 17
    assert outcome.manifest["statistics"]["train"]["mean"] == pytest.approx(everything.mean(axis=(0, 1, 2)), abs=1e-6)


def test_lr_of_smaller_pictures(photos: Path, tmp_path: Path, scene: Any) -> None:
    """With sizes that are no multiples of the scale, and the whole picture at each size."""
    settings = replace(CROPS, rules=Rules(multiple=3, sizes=(0.5, 1.0)), storage=Storage(3, "nearest"), validation=0)
    run(photos, tmp_path / "set", settings)
    pictures = PreparedSet(tmp_path / "set").pictures()
    assert pictures.names[:2] == ["0.png@0,0x0.5", "0.png@0,0"]
    half = resize(scene(0), 80, 96, 0.5)[:78]
    assert np.array_equal(pictures.hr(0), half)
    assert np.array_equal(pictures.lr(0), half[1::3, 1::3])


def test_a_picture_too_small_at_every_size(photos: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = replace(CROPS, rules=Rules(Crops(128), sizes=(0.7, 0.5)))
    with pytest.raises(UserError, match="none of 5 pictures"):
        prepare(find_sources([str(photos)]), tmp_path / "set", settings, events.append)
    assert set(dropped(events).values()) == {"192 x 160 pixels, taken at 0.7 of that, are too few for a crop of 128"}


def test_a_copy_that_would_be_tiny_is_left_out(photos: Path, tmp_path: Path) -> None:
    """0.15 of 160 x 192 pixels has 24 x 29, and hardly anything in it; 0.25 has 40 x 48."""
    settings = replace(CROPS, rules=Rules(flat=0, blurred=0, sizes=(1.0, 0.25, 0.15)), validation=0)
    run(photos, tmp_path / "set", settings)
    names = PreparedSet(tmp_path / "set").pictures().names
    assert names[:2] == ["0.png@0,0", "0.png@0,0x0.25"]
    assert len(names) == 10


def test_kinds_of_pixels(tmp_path: Path, scene: Any, save: Any) -> None:
    grey = scene(0)[..., :1]
    assert np.array_equal(read_rgb(save(tmp_path / "grey.png", grey)), grey.repeat(3, axis=2))
    deep = np.clip(scene(0).astype(np.int32) * 257 + 128, 0, 65535).astype(np.uint16)
    assert np.array_equal(read_rgb(save(tmp_path / "deep.png", deep - 1)), scene(0))
    assert np.array_equal(read_rgb(save(tmp_path / "deeper.png", deep + (deep < 65535))), scene(0) + (deep < 65535))
    opaque = np.concatenate([scene(0), np.full((160, 192, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(read_rgb(save(tmp_path / "opaque.png", opaque)), scene(0))


def test_a_source_that_changes_meanwhile(photos: Path, tmp_path: Path, scene: Any, save: Any) -> None:
    def change(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "inspecting" and event.done == event.total:
            save(photos / "2.png", scene(20))

    with pytest.raises(UserError, match=r"2.png has changed since it was inspected"):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, change)


def test_a_source_that_goes_meanwhile(photos: Path, tmp_path: Path) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, Advanced) and event.step == "inspecting" and event.done == event.total:
            (photos / "2.png").unlink()

    with pytest.raises(UserError, match=r"cannot read .*2.png: No such file"):
        prepare(find_sources([str(photos)]), tmp_path / "set", CROPS, remove)


def test_no_room(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"has room for 0.0 GB, and the pictures take 0.0 GB"):
        run(photos, tmp_path / "set")


def test_a_source_that_may_not_be_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    outcome, events = run(photos, tmp_path / "set")
    assert dropped(events) == {"1.png": "Permission denied"}
    entry = next(source for source in outcome.manifest["sources"] if source["name"] == "1.png")
    assert entry == {"name": "1.png", "sha256": [], "reason": "unreadable", "because": "Permission denied"}


def test_the_manifest_is_plain_json(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "set")
    text = (tmp_path / "set/manifest.json").read_text()
    manifest = json.loads(text)
    assert set(manifest) == {"format", "identity", "settings", "benchmarks", "statistics", "sources", "shards"}
