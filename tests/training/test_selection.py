from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaler.errors import UserError
from upscaler.training.selection import Crops, detail, parse_sizes, parse_validation, validation_split


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 120),
    step=st.none() | st.integers(1, 150),
    least=st.none() | st.integers(1, 150),
)
def test_crops_lie_inside_and_cover_what_they_should(
    height: int, width: int, size: int, step: int | None, least: int | None
) -> None:
    boxes = Crops(size, step, least).boxes(height, width)
    assert len(set(boxes)) == len(boxes)
    assert bool(boxes) == (min(height, width) >= size)
    for top, left, box_height, box_width in boxes:
        assert box_height == box_width == size
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
    if boxes:
        uncovered = height - max(top for top, *_ in boxes) - size
        assert uncovered < max(1, size // 4 if least is None else least)
        regular = {top for top, *_ in boxes if top % (step or size) == 0}
        assert regular >= set(range(0, height - size + 1, step or size))


def test_crops_of_a_known_picture() -> None:
    assert [left for _, left, *_ in Crops(100).boxes(100, 224)] == [0, 100]
    assert [left for _, left, *_ in Crops(100).boxes(100, 225)] == [0, 100, 125]
    assert [left for _, left, *_ in Crops(100, step=60).boxes(100, 225)] == [0, 60, 120]
    assert [left for _, left, *_ in Crops(100, step=60, least=5).boxes(100, 225)] == [0, 60, 120, 125]
    assert Crops().boxes(7, 9) == [(0, 0, 7, 9)]


def test_detail_is_the_gradient() -> None:
    ramp = np.tile(np.arange(0, 100, 2, dtype=np.uint8), (20, 1))
    assert detail(ramp) == 2
    assert detail(ramp.T) == 2
    assert detail(np.full((5, 5), 200, np.uint8)) == 0


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("20", 20), ("0.05", 0.05), ("5%", 0.05), ("12.5%", 0.125), (".5", 0.5)]
)
def test_a_validation_split_is_a_share_or_a_count(text: str, value: float) -> None:
    assert parse_validation(text) == value
    assert type(parse_validation(text)) is type(value)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "100%", "half", "5 %"])
def test_no_validation_split(text: str) -> None:
    with pytest.raises(UserError, match="no validation split"):
        parse_validation(text)


@pytest.mark.parametrize(("text", "sizes"), [("1", (1,)), ("1,0.7,0.5", (1, 0.7, 0.5)), ("0.1, 1.0", (0.1, 1))])
def test_sizes(text: str, sizes: tuple[float, ...]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0.05", "2", "1,", "1,1.0", "half", "nan", "-1", "1;0.5", "0.7,0.7000001"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UserError, match="are no sizes"):
        parse_sizes(text)


def test_the_split_follows_the_digests_not_the_order() -> None:
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(50)]
    chosen = {digests[index] for index in validation_split(digests, 0.1, range(50))}
    assert len(chosen) == 5
    backwards = digests[::-1]
    assert {backwards[index] for index in validation_split(backwards, 5, range(50))} == chosen
    more = [*digests, *(hashlib.sha256(bytes([number])).hexdigest() for number in range(50, 60))]
    assert len({more[index] for index in validation_split(more, 5, range(60))} & chosen) >= 3


def test_a_share_takes_at_least_one_and_leaves_at_least_one() -> None:
    assert len(validation_split(["b", "a"], 0.01, range(2))) == 1
    assert validation_split(["b", "a"], 0, range(2)) == frozenset()
    assert validation_split([], 0, []) == frozenset()
    with pytest.raises(UserError, match="would leave none of 2"):
        validation_split(["b", "a"], 2, range(2))


def test_groups_stay_together() -> None:
    digests, groups = ["a", "d", "b", "c", "e"], [0, 0, 1, 1, 2]
    assert validation_split(digests, 1, groups) == {4}
    assert validation_split(digests, 2, groups) == {0, 1}
    assert validation_split(digests, 3, groups) == {0, 1, 4}
    assert validation_split(digests, 4, groups) == {0, 1, 2, 3}
    with pytest.raises(UserError, match="every picture has so many copies that 1 for validation would part them"):
        validation_split(digests[:4], 1, groups[:4])
