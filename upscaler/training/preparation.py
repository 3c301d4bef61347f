"""Pictures become a training set: identify, inspect, decide, write.

Every step is a pure function of the files and the settings, and what is finished is kept: the findings
on each picture in a journal, each shard under a name that says what it is made from. So a run that was
cut off goes on where it was, and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.training.benchmarks import BenchmarkPicture, Benchmarks, benchmark_picture
from upscaler.training.building import Piece, Storage, ahead, build
from upscaler.training.differences import differences
from upscaler.training.fingerprints import SMALLEST, luma
from upscaler.training.inspection import FAILURES, Inspection, Rules, TransparentError, inspect, read_rgb
from upscaler.training.journal import JOURNAL, Journal
from upscaler.training.samples import write_samples
from upscaler.training.selection import validation_split
from upscaler.training.shards import FORMAT, MANIFEST, Pictures, PreparedSet, write_manifest
from upscaler.training.sources import Source
from upscaler.training.verdicts import decided, entry, groups, statistics
from upscaler.training.workplace import workplace

SAMPLES = "samples.png"


@dataclass(frozen=True)
class Settings:
    """What is asked of a training set.

    Args:
        rules: of what to keep; their ``multiple`` is the stored scale where there is one.
        storage: how it is stored.
        duplicates: drop pictures that show the same as a larger one.
        validation: share (float) or count (int) of source pictures to set apart.
    """

    rules: Rules = field(default_factory=Rules)
    storage: Storage = field(default_factory=Storage)
    duplicates: bool = True
    validation: float | int = 0

    def as_json(self) -> dict[str, Any]:
        """As the manifest holds it: lists for tuples."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return settings


@dataclass(frozen=True)
class Advanced:
    """Part of a step is done; ``done`` and ``total`` are bytes when checking or writing, else pictures."""

    step: str
    done: int
    total: int


@dataclass(frozen=True)
class Dropped:
    """Nothing of a source is used."""

    name: str
    reason: str
    because: str

    @property
    def failed(self) -> bool:
        """Whether somebody should mend it; else it is what the settings ask for."""
        return self.reason in FAILURES


Event = Advanced | Dropped
Notify = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """A set that is there.

    Args:
        manifest: what its ``manifest.json`` says.
        unchanged: the same pictures and settings had made it before.
    """

    manifest: dict[str, Any]
    unchanged: bool


def prepare(
    sources: Sequence[Source],
    folder: Path,
    settings: Settings,
    notify: Notify,
    *,
    benchmarks: Sequence[Source] = (),
    overwrite: bool = False,
    threads: int | None = None,
) -> Outcome:
    """Make a training set.

    Args:
        sources: from ``find_sources``, with LR pictures if such are given.
        folder: where it goes; an existing set is replaced in the moment when the new one is complete.
        settings: of the set.
        notify: told of every event, in the caller's thread.
        benchmarks: pictures that must not leak into it.
        overwrite: replace a set made from other pictures or with other settings.
        threads: that decode and inspect; None is one for each processor. Does not change the result.

    Raises:
        UserError: the folder holds something else or is in use, nothing is left to train on, a source
            changes or cannot be read any more, the disk is full. What is finished stays for the next run;
            a folder that was made for it and has nothing goes.
    """
    with workplace(folder), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return _Run(folder, settings, notify, pool).prepare(sources, benchmarks, overwrite)


@dataclass(frozen=True)
class _Run:
    folder: Path
    settings: Settings
    notify: Notify
    pool: ThreadPoolExecutor

    def prepare(self, sources: Sequence[Source], benchmarks: Sequence[Source], overwrite: bool) -> Outcome:
        tests = self._identified(benchmarks, "reading benchmarks")
        sources = self._identified(sources, "reading")
        known = {"settings": self.settings.as_json(), "benchmarks": [[test.name, *test.digests] for test in tests]}
        identity = _digest([FORMAT, known, [[source.name, *source.digests] for source in sources]])
        asked = known | {"sources": [{"name": each.name, "sha256": list(each.digests)} for each in sources]}
        if (self.folder / MANIFEST).exists() and (there := self._existing(identity, asked, overwrite)):
            return self._told(Outcome(there, unchanged=True))

        found = decided(self._inspected(sources, tests), duplicates=self.settings.duplicates)
        kept = [index for index, each in enumerate(found) if not each.reason]
        used = [found[index] for index in kept]
        together = range(len(used)) if self.settings.duplicates else groups(used)
        apart = validation_split([each.digests[0] for each in used], self.settings.validation if used else 0, together)
        splits = {index: "validation" if place in apart else "train" for place, index in enumerate(kept)}
        manifest = {
            "identity": identity,
            **known,
            "statistics": statistics(found, splits),
            "sources": [entry(each, splits.get(index)) for index, each in enumerate(found)],
        }
        outcome = self._told(Outcome(manifest, unchanged=False))
        if not kept:
            (self.folder / JOURNAL).unlink()
            raise UserError(f"none of {len(sources)} pictures can be used for training, for the reasons above")
        pieces = {
            split: [Piece(sources[i], box) for i in kept if splits[i] == split for box in found[i].boxes]
            for split in ("train", "validation")
        }
        shards = build(
            pieces,
            self.folder,
            self.settings.storage,
            identity,
            first_frame=self.settings.rules.first_frame,
            pool=self.pool,
            advance=lambda done, total: self.notify(Advanced("writing", done, total)),
        )
        training = [self.folder / shard.file for shard in shards if shard.split == "train"]
        write_samples(self.folder / SAMPLES, Pictures(training))
        write_manifest(self.folder, manifest, shards)
        self._clean({shard.file for shard in shards})
        return outcome

    def _told(self, outcome: Outcome) -> Outcome:
        for source in outcome.manifest["sources"]:
            if "reason" in source:
                self.notify(Dropped(source["name"], source["reason"], source["because"]))
        return outcome

    def _existing(self, identity: str, asked: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
        """The manifest of the set that is there, if it is the one asked for and intact; None to make it anew."""
        what = ""
        try:
            there = PreparedSet(self.folder)
            if there.manifest.get("identity") == identity:
                self._verify(there)
                if not (self.folder / SAMPLES).exists():
                    write_samples(self.folder / SAMPLES, there.pictures())
                self._clean({shard.file for shard in there.shards})
                return there.manifest
            what = differences(there.manifest, asked)
        except UserError:
            if not overwrite:
                raise
            # A damaged shard has the name and size of a sound one: it must not be taken for finished work.
            self._clean(set())
        if not overwrite:
            otherwise = f"otherwise ({what})" if what else "otherwise"
            raise UserError(f"{self.folder} holds a set made {otherwise}; use --overwrite or another -o")
        return None

    def _verify(self, there: PreparedSet) -> None:
        total, done = sum(shard.bytes for shard in there.shards), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.notify(Advanced("checking", done, total))

        there.verify(advance)

    def _clean(self, keep: set[str]) -> None:
        """Remove what earlier runs left: shards of other sets, half-written files, the journal."""
        for pattern in (
            "train-?????-????????.safetensors",
            "validation-?????-????????.safetensors",
            ".*.part",
            JOURNAL,
        ):
            for path in self.folder.glob(pattern):
                if path.name not in keep:
                    path.unlink()

    def _identified(self, sources: Sequence[Source], step: str) -> list[Source]:
        """The sources with the digests of their files."""
        found: list[Source] = []
        for source in ahead(self.pool, _identify, sources):
            found.append(source)
            self.notify(Advanced(step, len(found), len(sources)))
        return found

    def _inspected(self, sources: Sequence[Source], benchmarks: Sequence[Source]) -> list[Inspection]:
        rules, scale = self.settings.rules, self.settings.storage.scale
        # Without a degradation to make them by, LR pictures are given, and a source without one is left out.
        known = [
            FORMAT,
            asdict(rules),
            scale,
            self.settings.storage.degradation,
            [[test.name, *test.digests] for test in benchmarks],
        ]
        with Journal(self.folder / JOURNAL, _digest(known)) as journal:
            missing = [source for source in sources if journal.find(source) is None]
            if missing:
                guard = self._guard(benchmarks)
                work = partial(inspect, rules=rules, benchmarks=guard, scale=scale)
                for done, inspection in enumerate(ahead(self.pool, work, missing), start=1):
                    journal.add(inspection)
                    self.notify(Advanced("inspecting", done, len(missing)))
            return [found for source in sources if (found := journal.find(source)) is not None]

    def _guard(self, tests: Sequence[Source]) -> Benchmarks:
        look = partial(_benchmark_picture, first_frame=self.settings.rules.first_frame)
        found: list[BenchmarkPicture] = []
        for picture in ahead(self.pool, look, tests):
            found.append(picture)
            self.notify(Advanced("inspecting benchmarks", len(found), len(tests)))
        return Benchmarks(found)


def _benchmark_picture(test: Source, first_frame: bool) -> BenchmarkPicture:
    try:
        grey = luma(read_rgb(test.path, first_frame=first_frame))
    except TransparentError as error:
        raise UserError(f"cannot use {test.path} as a benchmark: {error}") from error
    if min(grey.shape) < SMALLEST:
        raise UserError(f"{test.path} is too small for a benchmark; its edges must have {SMALLEST} pixels")
    return benchmark_picture(test.name, grey)


def _identify(source: Source) -> Source:
    digests: list[str] = []
    try:
        digests.extend(digest_of(path) for path in (source.path, source.lr) if path is not None)
    except OSError as error:
        return replace(source, problem=error.strerror or str(error), digests=())
    return replace(source, digests=tuple(digests))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
