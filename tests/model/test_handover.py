from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from upscaler.model.handover import AbandonedError, Bands


def band(value: int) -> Any:
    return np.full((1, 1, 3), value, np.uint8)


def total(bands: Bands) -> int:
    return sum(int(each[0, 0, 0]) for each in bands)


def test_everything_arrives_in_order() -> None:
    bands = Bands()
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(total, bands)
        for value in range(20):
            bands.put(band(value), written)
        bands.put(None, written)
        bands.stop()
        assert written.result(10) == sum(range(20))


def test_what_was_put_before_the_stop_still_arrives() -> None:
    bands, written = Bands(), Future[None]()
    bands.put(band(7), written)
    bands.put(None, written)
    bands.stop()
    assert total(bands) == 7


def test_a_stop_reaches_a_writer_that_waits() -> None:
    bands = Bands()
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(total, bands)
        bands.put(band(1), written)
        bands.stop()
        with pytest.raises(AbandonedError):
            written.result(10)


def test_a_stop_reaches_a_writer_that_has_not_begun_and_whose_queue_is_full() -> None:
    bands, written = Bands(), Future[None]()
    bands.put(band(1), written)
    bands.put(band(2), written)
    bands.stop()
    with pytest.raises(AbandonedError):
        total(bands)


def test_the_end_of_a_writer_reaches_whoever_puts() -> None:
    bands, written = Bands(), Future[None]()
    for value in range(2):
        bands.put(band(value), written)
    written.set_exception(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        bands.put(band(3), written)
