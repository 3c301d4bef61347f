from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from math import exp, inf, nan
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.files import open_picture
from upscaler.model.evaluation import Scores
from upscaler.training import plots
from upscaler.training.curves import Line, Panel, draw, smoothed
from upscaler.training.history import History
from upscaler.training.readings import Alarm, Event, Reading, RolledBack, Sample, Started, Validated
from upscaler.training.recording import Recorder
from upscaler.training.reports import write_report
from upscaler.training.runs import RunFolder

BICUBIC = Scores(26.0, 0.7, 25.0, 0.69, 6.5, 0.25, 0.2, (0.25, 0.0, -0.1), (0.2, 0.0, 0.0))
EDGE = 32


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run 1")


def plain(level: int) -> Any:
    return np.full((EDGE, EDGE, 3), level, np.uint8)


def validated(stage: str, step: int, psnr: float, best: bool, samples: tuple[str, ...] = ("a.png",)) -> Validated:
    """Its result is a grey of ``step / 10``."""
    shown = [Sample(name, plain(100), plain(step // 10), plain(200)) for name in samples]
    return Validated(stage, step, replace(BICUBIC, psnr_y=psnr, niqe=None), BICUBIC, shown, best)


def record(folder: RunFolder, *events: Event) -> None:
    with closing(Recorder(folder, resumed_at=None)) as recorder:
        for event in events:
            recorder.record(event)


def report(folder: RunFolder, why: str = "complete") -> str:
    path = write_report(folder, why)
    assert path == folder.report
    text = path.read_text()
    for link in re.findall(r"\]\(([^)]*)\)", text):
        assert " " not in link
        assert (folder.path / unquote(link)).is_file(), link
    return text


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(report/([^)]*)\)", text))


def gan_run() -> list[Event]:
    random = np.random.default_rng(0)
    events: list[Event] = [Started(Path("x"), 0, 400, {"generator": 1234567, "discriminator": 7654321})]
    for step in range(10, 401, 10):
        gan = step > 200
        values = {"loss/pixel": exp(-step / 50), "loss/generator": 1.0, "rate/generator": 1e-4, "colour/red": 0.3}
        values |= {"gradient/generator": 0.5, "gradient/generator_first": 0.01, "weight/generator": 0.1}
        values |= {"picture_gradient/pixel": 1.0, "speed/steps_per_second": 4.0, "memory/bytes": 2e9}
        if gan:
            values |= {"loss/adversarial": 0.2, "loss/discriminator": 0.7, "output/real": 1.0, "output/fake": -1.0}
            values |= {"picture_gradient/adversarial": 3.0, "gradient/discriminator": 0.0, "noise/instance": 2.0}
        real = random.standard_normal(50).astype(np.float32)
        events.append(Reading("gan" if gan else "psnr", step, values, {"output/real": real} if gan else {}))
        if step % 50 == 0:
            events.append(validated("gan" if gan else "psnr", step, 27 + step / 1000, best=step in (50, 150, 300)))
        if step in (250, 260, 310):
            events.append(Alarm("gan", step, "tint", f"red is up at {step}", "less feature loss", severe=step == 310))
    return events


def test_a_whole_run(folder: RunFolder) -> None:
    record(folder, *gan_run())
    folder.config.write_text('preset = "esrgan"\n')
    folder.weights("last").parent.mkdir()
    folder.weights("last").write_bytes(b"")
    text = report(folder)
    assert text.startswith("# Training run run 1\n")
    assert "It is complete. 400 of 400 steps in " in text
    for row in (
        "| stage psnr | steps 0 to 200 |",
        "| stage gan | steps 200 to 400 |",
        "| generator | 1,234,567 parameters |",
        "| alarms | 3, of which 1 severe |",
        "| weights | [last](weights/last.safetensors) |",
        "| mean over the pictures | bicubic | first, step 50 | best, step 150 | last, step 200 |",
        "| PSNR-Y, dB | 26.00 | 27.05 | 27.15 | 27.20 |",
        "| mean over the pictures | bicubic | first, step 250 | best, step 300 | last, step 400 |",
        "| NIQE | 6.50 | - | - | - |",
    ):
        assert row in text
    assert (
        "- **tint** (gan, 3 times, steps 250 to 310, severe): red is up at 310.\n  To try: less feature loss." in text
    )
    assert text.endswith('## Configuration\n\n```toml\npreset = "esrgan"\n```\n')
    topics = ("validation", "losses", "outputs", "balance", "gradients", "weights", "colour", "rates", "speed")
    assert links(text) == {f"{topic}.png" for topic in topics} | {"samples.png", "animation.webp"}
    for topic in topics:
        with Image.open(folder.path / "report" / f"{topic}.png") as image:
            assert image.format == "PNG"
            assert image.width > 900


def test_the_sheet_and_the_animation(folder: RunFolder) -> None:
    events = [
        validated("main", step, 27.0, best=step == 400, samples=("b.png", "a.png")) for step in range(100, 700, 100)
    ]
    record(folder, *events)
    report(folder)
    sheet = open_picture(folder.path / "report" / "samples.png").read().pixels
    columns = [100, 10, 40, 60, 200]  # bicubic, first, best, last, reference
    for row in (1, 2):
        line = sheet[row * len(sheet) // 2 - EDGE // 2].astype(int)
        found = [int(level) for level in line[:, 0] if level != 24]
        assert list(dict.fromkeys(found)) == columns
    with Image.open(folder.path / "report" / "animation.webp") as film:
        assert getattr(film, "n_frames", 1) == 6
        levels = []
        for number in range(6):
            film.seek(number)
            levels.append(round(float(np.asarray(film.convert("RGB"))[-2 * EDGE :, : 2 * EDGE].mean())))
        assert film.width >= 2 * EDGE
        assert levels == pytest.approx([10, 20, 30, 40, 50, 60], abs=2)


def test_a_long_animation_is_thinned_out_evenly(folder: RunFolder) -> None:
    record(folder, *(validated("main", step, 27.0, best=False) for step in range(10, 701, 10)))
    report(folder)
    with Image.open(folder.path / "report" / "animation.webp") as film:
        assert getattr(film, "n_frames", 1) == 50
        film.seek(49)
        assert np.asarray(film.convert("RGB"))[-EDGE:, : 2 * EDGE].mean() == pytest.approx(70, abs=2)


def test_samples_that_a_rollback_has_undone_are_not_shown(folder: RunFolder) -> None:
    record(
        folder, validated("main", 100, 27.0, True), validated("main", 200, 20.0, False), RolledBack(200, 100, 1, 0.5)
    )
    text = report(folder)
    assert (folder.samples / "a.png" / "00000200.png").is_file()
    assert "| mean over the pictures | bicubic | first and best and last, step 100 |" in text
    assert "| rollbacks | 200 to 100 |" in text
    sheet = open_picture(folder.path / "report" / "samples.png").read().pixels
    assert not (sheet == 20).all(axis=2).any()
    assert (sheet == 10).all(axis=2).any()


def test_a_run_that_begins_with_given_weights_is_shown_from_there(folder: RunFolder) -> None:
    started = Started(folder.path, 6000, 8000, {})
    readings = [Reading("gan", step, {"loss/pixel": 0.5}) for step in range(6100, 7001, 100)]
    record(folder, started, *readings)
    with closing(Recorder(folder, resumed_at=7000)) as recorder:
        recorder.record(replace(started, step=7000))
    assert "| stage gan | steps 6,000 to 7,000 |" in report(folder)
    (axes,) = axes_of(draw([panel(a=[1.0, 2.0])], History.read(folder.metrics)))
    assert axes.get_xlim() == (6000, 7015)


def test_it_says_of_how_many_pictures_the_scores_are(folder: RunFolder) -> None:
    record(folder, validated("main", 100, 27.0, True))
    text = write_report(folder, "complete", (5, 45)).read_text()
    assert "| mean over 5 of 45 pictures | bicubic |" in text


def test_learning_rates_that_fade_out_keep_their_range_in_view() -> None:
    rates = [1e-4 * (1 + np.cos(np.pi * step / 100)) / 2 + 1e-9 for step in range(101)]
    history = History(readings=[Reading("main", step, {"rate/generator": rate}) for step, rate in enumerate(rates)])
    (topic,) = [topic for topic in plots._topics(history) if topic.file == "rates"]
    (axes,) = axes_of(draw(topic.panels, history))
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == pytest.approx((0, 1.06e-4), rel=0.01)


def test_a_run_of_which_there_is_nothing(folder: RunFolder) -> None:
    folder.path.mkdir()
    text = report(folder, "signal")
    assert "It stopped because it was told to. 0 steps in 0 s." in text
    assert "There was no validation." in text
    assert links(text) == set()


def test_a_run_that_was_killed(folder: RunFolder) -> None:
    record(folder, Started(folder.path, 0, 100, {"generator": 5}), Reading("main", 10, {"loss/pixel": 0.5}))
    with folder.metrics.open("a") as file:
        file.write('{"kind": "rea')
    text = report(folder, "The machine was switched off.")
    assert "The machine was switched off. 10 of 100 steps" in text
    assert links(text) == {"losses.png"}


def test_numbers_that_are_not_finite(folder: RunFolder) -> None:
    wild = {"loss/pixel": nan, "output/real": inf, "output/fake": nan, "gradient/generator": -inf, "colour/red": nan}
    record(folder, *(Reading("main", step, wild) for step in range(1, 300)), validated("main", 300, inf, True))
    text = report(folder, "alarm")
    assert {"losses.png", "outputs.png", "gradients.png", "colour.png", "validation.png"} <= links(text)
    assert "| PSNR-Y, dB | 26.00 | inf |" in text


def test_a_report_is_made_again_in_its_place(folder: RunFolder) -> None:
    record(folder, Reading("main", 10, {"loss/pixel": 0.5}))
    report(folder)
    before = sorted(path.name for path in folder.path.rglob("*"))
    report(folder)
    assert sorted(path.name for path in folder.path.rglob("*")) == before


def test_what_cannot_be_written_is_one_line(folder: RunFolder) -> None:
    record(folder, Reading("main", 10, {"loss/pixel": 0.5}))
    (folder.path / "report").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_report(folder, "complete")


def axes_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def panel(**lines: list[float]) -> Panel:
    made = [Line(name, np.arange(1, len(values) + 1), np.array(values, float)) for name, values in lines.items()]
    return Panel("title", made)


@pytest.mark.parametrize("end", [1.0, 2.0, 3.0])
def test_lines_are_labelled_at_their_ends_and_apart(end: float) -> None:
    (axes,) = axes_of(
        draw([panel(pixel=[3, 2, end], feature=[3, 2, end + 0.001], texture=[1, 1, end - 0.001])], History())
    )
    assert sorted(words(axes)) == sorted([f"feature {end + 0.001:g}", f"pixel {end:g}", f"texture {end - 0.001:g}"])
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(np.diff(heights)) > 0.07
    assert heights[0] >= 0
    assert heights[-1] <= 1
    assert axes.texts[0].get_color() != axes.texts[1].get_color()


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([5.0, 4.0, 3.0], "linear"),
        ([100.0, 1.0, 0.1], "log"),
        ([-1.0, 1.0, 1.0, 1000.0], "symlog"),
        ([-1.0, 2.0, nan], "linear"),
        ([nan, inf], "linear"),
        ([0.0, 0.0], "linear"),
    ],
)
def test_the_axis_is_logarithmic_where_values_span_decades(values: list[float], scale: str) -> None:
    (axes,) = axes_of(draw([panel(a=values)], History()))
    assert axes.get_yscale() == scale


def test_a_gradient_of_zero_is_seen_beside_others() -> None:
    (axes,) = axes_of(draw([replace(panel(first=[1e-3, 0, 0], last=[1, 1, 1.0]), log=True)], History()))
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] == 0


def test_stages_alarms_and_rollbacks_are_marked() -> None:
    history = History(
        readings=[Reading("psnr", 10, {}), Reading("psnr", 20, {}), Reading("gan", 40, {})],
        alarms=[Alarm("gan", 33, "nan", "", "", True), Alarm("psnr", 12, "tint", "", "", False)],
        rollbacks=[RolledBack(38, 25, 1, 0.5)],
    )
    figure = draw([panel(a=[1.0, 2.0, nan])], history)
    (axes,) = axes_of(figure)
    assert {"psnr", "gan"} <= set(words(axes))
    drawn = [(line.get_marker(), np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]
    verticals = [x[0] for _, x, y in drawn if y.tolist() == [0, 1]]
    assert verticals == [20, 38]
    triangles = [x.tolist() for marker, x, _ in drawn if marker == "^"]
    assert triangles == [[12], [33]]
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {"alarm", "severe alarm", "rolled back, and trained anew", "NaN or infinite"}


def test_smoothing_keeps_to_the_stage_and_to_what_is_finite() -> None:
    steps = np.arange(1, 401)
    values = np.where(steps <= 200, 1.0, 5.0)
    values[50] = nan
    smooth = smoothed(steps, values, np.array([200]))
    known = np.isfinite(values)
    np.testing.assert_allclose(smooth[known], values[known])
    assert np.isnan(smooth[50])
    noisy = np.random.default_rng(0).standard_normal(400)
    assert smoothed(steps, noisy, np.array([], int)).std() < 0.5
    few = noisy[:50]
    assert smoothed(steps[:50], few, np.array([], int)) is few


def test_shares_of_the_gradients_sum_up() -> None:
    readings = [
        Reading("main", 10, {"picture_gradient/pixel": 1.0}),
        Reading("main", 20, {"picture_gradient/pixel": 1.0, "picture_gradient/adversarial": 3.0}),
        Reading("main", 30, {"picture_gradient/pixel": 0.0, "picture_gradient/adversarial": nan}),
    ]
    (topic,) = [topic for topic in plots._topics(History(readings=readings)) if topic.file == "balance"]
    shares = {line.label: line.values.tolist() for line in topic.panels[0].lines}
    assert shares == {"pixel": [100, 25, 0], "adversarial": [0, 75, 0]}
    only_pixel = History(readings=readings[:1])
    assert [topic.panels for topic in plots._topics(only_pixel) if topic.file == "balance"] == [[]]
