from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from upscaler.images.flights import Flight, Level

EDGE, FACTOR = 96, 4


def plain(levels: list[int]) -> Any:
    return lambda number: np.full((EDGE, EDGE, 3), levels[number], np.uint8)


def pattern(x: Any, y: Any) -> Any:
    """Something with detail at every magnification: rings and rays around a point, by the logarithm of the radius."""
    values = 128 + 50 * np.sin(2 * np.log(np.hypot(x, y) + 1e-12)) + 50 * np.sin(3 * np.arctan2(y, x))
    return np.repeat(values[..., None], 3, axis=2)


def drawn(level: Level, pixel: float) -> Any:
    """A level of the pattern, whose pixels have that size."""
    x, y = ((np.arange(level.edge) + 0.5 - at) * pixel for at in (level.x, level.y))
    return np.rint(pattern(x[None], y[:, None])).astype(np.uint8)


@pytest.mark.parametrize("share", [(0.5, 0.5), (0.3, 0.7), (0.02, 0.5)])
def test_the_camera_sees_what_is_there(share: tuple[float, float]) -> None:
    """The levels lie a little off, as rounding leaves them; the frames do not."""
    across, down = share
    levels = [Level(EDGE, across * EDGE, down * EDGE)]
    levels += [Level(EDGE, max(across * EDGE + off, 0), down * EDGE - off) for off in (1.5, -1.7, 0.4)]
    flight = Flight(levels, FACTOR, EDGE, lambda number: drawn(levels[number], FACTOR**-number))
    for time in np.linspace(flight.begin, flight.end, 23):
        seen = flight.frame(float(time)).astype(float)
        size = FACTOR**-time
        x, y = ((np.arange(EDGE) + 0.5 - part * EDGE) * size for part in share)
        radius = np.hypot(x[None], y[:, None]) / size
        # Around the point itself the pattern is finer than pixels.
        error = np.abs(seen - pattern(x[None], y[:, None])).max(axis=2)[radius > 12]
        assert np.quantile(error, 0.99) < 6, time


def test_it_begins_and_ends_with_whole_pictures() -> None:
    colours = [10, 90, 170, 250]
    flight = Flight([Level(EDGE, 40, 50)] * 4, FACTOR, 60, plain(colours))
    assert (flight.begin, 3 < flight.end < 3.5) == (0, True)
    assert (flight.frame(flight.begin) == 10).all()
    assert (flight.frame(flight.end) == 250).all()
    assert flight.frame(1.3).shape == (60, 60, 3)


@pytest.mark.parametrize(("factor", "at"), [(2, (48, 48)), (4, (30, 60)), (8, (90, 5))])
def test_nothing_jumps(factor: int, at: tuple[float, float]) -> None:
    """Pictures that do not agree at all pass into each other a little from frame to frame."""
    flight = Flight([Level(EDGE, *at)] * 4, factor, EDGE, plain([0, 200, 0, 200]))
    times = flight.times(36)
    frames = [flight.frame(float(time)).astype(int) for time in times]
    assert times[0] == flight.begin
    assert times[-1] == flight.end
    changes = [np.abs(after - before).max() for before, after in pairwise(frames)]
    assert max(changes) < 40


def test_a_smaller_first_picture_is_enlarged() -> None:
    flight = Flight(
        [Level(60, 30, 30), Level(96, 48, 48)], FACTOR, 96, lambda n: np.full(((60, 96)[n],) * 2 + (3,), 9, np.uint8)
    )
    assert flight.begin == pytest.approx(np.log(96 / 60) / np.log(4))
    assert (flight.frame(flight.begin) == 9).all()


def test_pictures_are_read_once_and_not_kept() -> None:
    read = []

    def picture(number: int) -> Any:
        read.append(number)
        return np.zeros((EDGE, EDGE, 3), np.uint8)

    flight = Flight([Level(EDGE, 48, 48)] * 9, FACTOR, 16, picture)
    for time in flight.times(3):
        flight.frame(float(time))
        assert len(flight._pictures) <= 3
    assert read == list(range(9))
