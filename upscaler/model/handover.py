"""Bands of pixels from the thread that computes them to the thread that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event
from typing import Any

from upscaler.model.sources import Pixels

_QUEUED = 2
# How often, in seconds, a thread that waits for the other looks whether that one has given up.
_POLL = 0.1


class Bands:
    """A result on its way from the computing to the writing thread; each learns when the other has given up."""

    def __init__(self) -> None:
        self._queue: Queue[Pixels | None] = Queue(_QUEUED)
        self._no_more = Event()

    def put(self, band: Pixels | None, written: Future[Any]) -> None:
        """Hand a band on, None after the last one; raises what has ended the writing."""
        while not written.done():
            with suppress(Full):
                self._queue.put(band, timeout=_POLL)
                return
        written.result()

    def stop(self) -> None:
        """Nothing more will be put."""
        self._no_more.set()

    def __iter__(self) -> Iterator[Pixels]:
        while True:
            stopped = self._no_more.is_set()
            try:
                band = self._queue.get(timeout=_POLL)
            except Empty:
                if stopped:
                    raise AbandonedError from None
                continue
            if band is None:
                return
            yield band


class AbandonedError(Exception):
    """The computing thread has failed, so the file is not to be finished."""
