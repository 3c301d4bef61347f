"""Many pictures through one Upscaler: decoding, computing and encoding at the same time.

One thread opens the next picture, the caller's thread computes, one thread encodes and finishes what
was computed before. What happens is told as events; nothing is printed here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.images.files import PictureFile, PictureWriter, check_output, open_picture, read_provenance
from upscaler.images.jobs import Job
from upscaler.images.metadata import Metadata
from upscaler.model.handover import Bands
from upscaler.model.sources import PixelSource, Source
from upscaler.model.upscaler import Estimate, Size, Upscaler

Existing = Literal["refuse", "overwrite", "skip"]

# A picture that is no larger than this when decoded is read ahead while the one before is computed.
_READ_AHEAD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Started:
    """Computation of a picture begins."""

    job: Job
    estimate: Estimate
    memory: int
    """Predicted peak of all that this process will hold, in bytes."""


@dataclass(frozen=True)
class Warned:
    """The result will lack something that the picture has."""

    job: Job
    message: str


@dataclass(frozen=True)
class Finished:
    """A result is complete and in its place."""

    job: Job
    width: int
    height: int
    seconds: float
    """From the start of its computation to the finished file."""


@dataclass(frozen=True)
class Skipped:
    """The result is there already, made by the same model and settings from the same input."""

    job: Job


@dataclass(frozen=True)
class Failed:
    """A picture was passed over; what was at the output is as it was."""

    job: Job
    message: str


Event = Started | Warned | Finished | Skipped | Failed


@dataclass(frozen=True)
class Settings:
    """What is asked of every picture of a batch."""

    size: Size
    provenance: Mapping[str, Any]
    """Written into every result, and decides whether it can be skipped; precision and the input's digest are added."""
    existing: Existing = "refuse"
    keep_going: bool = False
    format: str | None = None
    quality: int | None = None
    first_frame: bool = False


@dataclass(frozen=True)
class Wanted:
    """A picture whose result is to be made."""

    picture: PictureFile
    warnings: list[str]
    """What the result will lack."""


@dataclass(frozen=True)
class _Opened:
    source: Source
    metadata: Metadata
    warnings: list[str]
    provenance: dict[str, Any]


def check_existing(jobs: Sequence[Job], existing: Existing) -> None:
    """Refuse to begin where results would replace files and nobody has asked for that.

    Raises:
        UserError: an output that is there, or is the input itself.
    """
    if existing == "overwrite":
        return
    for job in jobs:
        if job.output.exists() and job.output.samefile(job.input):
            raise UserError(f"{job.output} is the picture itself; use another -o, or --overwrite to replace it")
    there = [job.output for job in jobs if job.output.exists()]
    if there and existing == "refuse":
        which = f"{there[0]} and {len(there) - 1} more exist" if len(there) > 1 else f"{there[0]} exists"
        raise UserError(f"{which}; use --overwrite, --skip-existing or another -o")


def run(upscaler: Upscaler, jobs: Sequence[Job], settings: Settings, notify: Callable[[Event], None]) -> bool:
    """Upscale every picture; True if all of it was done.

    Args:
        upscaler: used for one picture after another, in the caller's thread.
        jobs: in the order in which they are done.
        settings: for all of them.
        notify: told of every event, in the caller's thread.

    Raises:
        UserError: the first failure, unless ``settings.keep_going``. Files finished before it stay.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        return _Batch(upscaler, settings, notify, reader, writer).run(jobs)


class _Batch:
    def __init__(
        self,
        upscaler: Upscaler,
        settings: Settings,
        notify: Callable[[Event], None],
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
    ) -> None:
        self.upscaler, self.settings, self.notify = upscaler, settings, notify
        self.reader, self.writer = reader, writer
        self.complete = True
        self.unfinished: deque[_Writing] = deque()

    def run(self, jobs: Sequence[Job]) -> bool:
        opened = deque(self._submit_open(job) for job in jobs[:1])
        try:
            for index, job in enumerate(jobs):
                opened.extend(self._submit_open(following) for following in jobs[index + 1 : index + 2])
                self._settle(job, partial(self._compute, job, opened.popleft()))
                while len(self.unfinished) > 1:
                    self._finish()
            while self.unfinished:
                self._finish()
        except BaseException:
            # What was computed before a failure or a signal is told all the same.
            self.settings = replace(self.settings, keep_going=True)
            while self.unfinished:
                self._finish()
            raise
        return self.complete

    def _submit_open(self, job: Job) -> Future[_Opened | None]:
        return self.reader.submit(_open, job, self.upscaler, self.settings)

    def _settle(self, job: Job, work: Callable[[], None]) -> None:
        """Do part of a job; a failure is an event, or the end."""
        try:
            work()
        except UserError as error:
            if not self.settings.keep_going:
                raise
            self.complete = False
            self.notify(Failed(job, str(error)))

    def _compute(self, job: Job, opened: Future[_Opened | None]) -> None:
        picture = opened.result()
        if picture is None:
            self.notify(Skipped(job))
            return
        for message in picture.warnings:
            self.notify(Warned(job, message))
        estimate = estimated(self.upscaler, job, picture.source, self.settings.size)
        start = time.perf_counter()
        self.notify(Started(job, estimate, self.upscaler.in_all(estimate)))
        bands = Bands()
        try:
            written = self.writer.submit(_write, job, picture, estimate, self.settings, bands)
            for band in self.upscaler.bands(picture.source, self.settings.size, estimate):
                bands.put(band, written)
            bands.put(None, written)
        finally:
            bands.stop()
        self.unfinished.append(_Writing(job, start, estimate, written))

    def _finish(self) -> None:
        writing = self.unfinished[0]
        wait([writing.written])  # a signal meanwhile leaves it among the unfinished
        self.unfinished.popleft()

        def work() -> None:
            writing.written.result()
            seconds = time.perf_counter() - writing.start
            self.notify(Finished(writing.job, writing.estimate.width, writing.estimate.height, seconds))

        self._settle(writing.job, work)


@dataclass(frozen=True)
class _Writing:
    job: Job
    start: float
    estimate: Estimate
    written: Future[None]


def look(job: Job, upscaler: Upscaler, settings: Settings) -> Wanted | None:
    """What a job is about, before its pixels are read; None where its result is there and to be skipped.

    Raises:
        UserError: the picture cannot be read or its result not written, or nobody knows how that was made.
    """
    picture = open_picture(job.input, first_frame=settings.first_frame)
    if settings.existing == "skip" and job.output.exists():
        made = read_provenance(job.output)
        if made is None:
            raise UserError(f"{job.output} exists and does not say that srup made it; use --overwrite to replace it")
        if _same(made, _provenance(job, picture, upscaler, settings)):
            return None
    height, width = settings.size.of(picture.height, picture.width, upscaler.network.scale)
    warnings = check_output(
        job.output, width=width, height=height, channels=picture.channels, depth=picture.depth, format=settings.format
    )
    return Wanted(picture, warnings)


def _open(job: Job, upscaler: Upscaler, settings: Settings) -> _Opened | None:
    wanted = look(job, upscaler, settings)
    if wanted is None:
        return None
    picture = wanted.picture
    decoded = picture.height * picture.width * picture.channels * picture.depth // 8
    source: Source = PixelSource(picture.read().pixels) if decoded <= _READ_AHEAD_BYTES else picture
    return _Opened(source, picture.metadata, wanted.warnings, _provenance(job, picture, upscaler, settings))


def _provenance(job: Job, picture: PictureFile, upscaler: Upscaler, settings: Settings) -> dict[str, Any]:
    precision = str(upscaler.dtype_for(picture)).removeprefix("torch.")
    return dict(settings.provenance) | {"precision": precision, "input_sha256": _digest(job.input)}


def estimated(upscaler: Upscaler, job: Job, source: Source, size: Size) -> Estimate:
    """What a job will take.

    Raises:
        UserError: more than there is, with the name of its picture.
    """
    try:
        return upscaler.estimate(source, size)
    except UserError as error:
        raise UserError(f"{job.input}: {error}") from error


def _same(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a result was made so; by which version of srup does not matter."""
    return all(made.get(key) == value for key, value in wanted.items() if key != "software")


def _digest(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _write(
    job: Job,
    picture: _Opened,
    estimate: Estimate,
    settings: Settings,
    bands: Bands,
) -> None:
    with PictureWriter(
        job.output,
        width=estimate.width,
        height=estimate.height,
        channels=picture.source.channels,
        depth=picture.source.depth,
        metadata=picture.metadata,
        format=settings.format,
        quality=settings.quality,
        provenance=picture.provenance,
    ) as file:
        for band in bands:
            file.write(band)
