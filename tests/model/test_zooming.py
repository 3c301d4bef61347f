from __future__ import annotations

import weakref
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upscaler.errors import UserError
from upscaler.images.resize import resize
from upscaler.model.zooming import (
    SMALLEST,
    Course,
    Cut,
    Point,
    common_factor,
    deep,
    detailed_pixel,
    first_scores,
    plan_course,
    zoom,
)

TEN = 10


def repeated(crop: Any) -> Any:
    return crop.repeat(4, 0).repeat(4, 1)


def places(course: Course) -> list[tuple[Fraction, Fraction]]:
    """Where the point that each cut claims lies in the whole picture, followed through the cuts alone."""
    found = []
    left = top = Fraction(0)
    pixel = Fraction(1)
    for number, cut in enumerate(course.cuts):
        left, top = left + cut.left * pixel, top + cut.top * pixel
        pixel /= course.factor if number else 1
        found.append((left + cut.point.x * pixel, top + cut.point.y * pixel))
    return found


@settings(deadline=None)
@given(data=st.data())
def test_the_point_never_moves(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(SMALLEST, 900)), data.draw(st.integers(SMALLEST, 900))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    factor, edge = data.draw(st.sampled_from((2, 3, 4, 8))), data.draw(st.integers(64, 600))
    at = Point.of_pixel(x, y)
    course = plan_course(height, width, at, factor=factor, steps=TEN, edge=edge)
    assert len(course.cuts) == TEN + 1
    assert set(places(course)) == {(at.x, at.y)}
    first, *others = course.cuts
    assert 0 <= first.left <= width - first.edge
    assert 0 <= first.top <= height - first.edge
    assert first.edge == min(height, width, course.edge)
    length = first.edge
    for cut in others:
        assert cut.edge * factor == course.edge <= edge
        for start, place, share in (
            (cut.left, cut.point.x, first.point.x / first.edge),
            (cut.top, cut.point.y, first.point.y / first.edge),
        ):
            assert 0 <= start <= length - cut.edge
            assert 0 <= place <= course.edge
            # Half a pixel of the crop is what rounding to whole ones costs, however many steps; no more inside.
            if 2 / cut.edge < share < 1 - 2 / cut.edge:
                assert abs(place - share * course.edge) <= Fraction(factor, 2)
        length = course.edge


@pytest.mark.parametrize("place", [(0, 0), (200, 99), (100, 50), (3, 96), (150, 1)])
def test_after_ten_steps_nothing_but_the_pixel_is_left(place: tuple[int, int]) -> None:
    x, y = place
    pixels = np.full((100, 201, 3), 90, np.uint8)
    pixels[y, x] = (250, 10, 40)
    course = plan_course(100, 201, Point.of_pixel(x, y), factor=4, steps=TEN, edge=64)
    *_, last = zoom(course.cuts[0].of(pixels), course, repeated)
    assert last.number == TEN
    assert (last.picture == pixels[y, x]).all()


def test_the_middle_of_a_large_picture() -> None:
    course = plan_course(1000, 2000, Point.of_pixel(1200, 500), factor=4, steps=2, edge=512)
    assert course.edge == 512
    assert course.cuts[0] == Cut(944, 244, 512, Point(Fraction(513, 2), Fraction(513, 2)))
    assert course.cuts[1] == Cut(192, 192, 128, Point(Fraction(258), Fraction(258)))
    assert course.cuts[2].left == 194


@pytest.mark.parametrize(
    ("height", "width", "factor", "first", "crop"),
    [(300, 451, 4, 300, 128), (100, 90, 4, 90, 90), (300, 300, 3, 300, 170), (600, 600, 3, 510, 170)],
)
def test_squares_fit_the_picture(height: int, width: int, factor: int, first: int, crop: int) -> None:
    course = plan_course(height, width, Point.of_pixel(20, 20), factor=factor, steps=2, edge=512)
    assert [cut.edge for cut in course.cuts] == [first, crop, crop]
    assert course.edge == crop * factor


def test_what_cannot_be_zoomed_into() -> None:
    with pytest.raises(UserError, match="15 x 40 pixels are too few"):
        plan_course(40, 15, Point.of_pixel(1, 1), factor=4, steps=1, edge=64)
    for x, y in ((40, 0), (0, 30)):
        with pytest.raises(UserError, match=f"nothing at {x},{y}: the picture has 40 x 30 pixels"):
            plan_course(30, 40, Point.of_pixel(x, y), factor=4, steps=1, edge=64)
    with pytest.raises(UserError, match="x65 makes 65 pixels of one; take a larger --size than 64"):
        plan_course(300, 300, Point.of_pixel(1, 1), factor=65, steps=1, edge=64)


def test_detail_is_found_where_it_is() -> None:
    """A patch of weak noise, and in it a strong spot."""
    generator = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), 128, np.uint8)
    pixels[100:148, 200:248] = generator.integers(118, 138, (48, 48, 3), np.uint8)
    pixels[110:114, 236:240] = generator.integers(0, 256, (4, 4, 3), np.uint8)
    x, y = detailed_pixel(pixels, 4, 256)
    assert abs(x - 238) <= 2
    assert abs(y - 112) <= 2


@pytest.mark.parametrize(("height", "width"), [(300, 400), (64, 90), (16, 16)])
def test_detail_at_the_border_is_left_alone(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[:4, :4] = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    x, y = detailed_pixel(pixels, 4, 256)
    first = plan_course(height, width, Point.of_pixel(x, y), factor=4, steps=1, edge=256).cuts[0]
    assert first.edge / 4 <= first.point.x <= first.edge * 3 / 4
    assert first.edge / 4 <= first.point.y <= first.edge * 3 / 4


def test_steps_are_measured() -> None:
    """A network that adds a level of green to what repeating pixels gives."""
    first = np.full((64, 64, 3), 100 * 257, np.uint16)
    course = plan_course(64, 64, Point.of_pixel(32, 32), factor=4, steps=3, edge=64)

    def greener(crop: Any) -> Any:
        made = repeated(crop)
        made[..., 1] += 257
        return made

    steps = list(zoom(first, course, greener))
    assert [step.number for step in steps] == [1, 2, 3]
    for number, step in enumerate(steps, start=1):
        assert step.scores.shift == pytest.approx((0, number, 0))
        assert step.scores.drift == pytest.approx(number)
        assert step.scores.agreement == pytest.approx(52.90, abs=0.01), "20 log10(255) + 10 log10(3)"
        assert step.scores.agreement_bicubic == pytest.approx(52.90, abs=0.01)
        assert (step.scores.sharpness, step.scores.high_frequencies) == (0, 0)
    assert (first == 100 * 257).all()


def test_bicubic_agrees_with_itself() -> None:
    first = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), np.uint16)
    course = plan_course(64, 64, Point.of_pixel(32, 32), factor=4, steps=2, edge=64)
    steps = list(zoom(first, course, lambda crop: resize(crop, 64, 64)))
    before = first_scores(first)
    assert before.agreement is None
    assert before.drift is None
    for step in steps:
        assert step.scores.agreement_bicubic == inf
        assert step.scores.sharpness < before.sharpness / 20
        assert step.scores.high_frequencies < before.high_frequencies / 20
    assert steps[0].scores.agreement is not None
    assert 15 < steps[0].scores.agreement < 60


def test_pictures_are_not_kept() -> None:
    first = np.zeros((64, 64, 3), np.uint16)
    course = plan_course(64, 64, Point.of_pixel(32, 32), factor=4, steps=TEN, edge=64)
    made: list[weakref.ref[Any]] = []

    def enlarge(crop: Any) -> Any:
        picture = repeated(crop)
        made.append(weakref.ref(picture))
        return picture

    for step in zoom(first, course, enlarge):
        assert sum(each() is not None for each in made) <= 2, step.number
        del step


def test_the_factor_is_the_largest_scale() -> None:
    assert common_factor([2, 4, 4]) == 4
    with pytest.raises(UserError, match="scale 1 does not enlarge"):
        common_factor([4, 1])


def test_sixteen_bits_without_transparency() -> None:
    grey = np.array([[[7], [255]]], np.uint8)
    assert deep(grey).tolist() == [[[7 * 257] * 3, [65535] * 3]]
    exact = np.array([[[1, 2, 3, 65535]]], np.uint16)
    assert deep(exact).tolist() == [[[1, 2, 3]]]
    half = np.array([[[255, 255, 255, 0]]], np.uint8)
    assert deep(half).tolist() == [[[128 * 257] * 3]]
