from __future__ import annotations

import numpy as np
import pytest

from upscaler.images.colour import matched
from upscaler.images.resize import resize
from upscaler.images.rows import FloatArray, Rows

FACTORS = [4, 1.5, 0.5]
TINT = np.array([10 / 255, 0, -4 / 255], np.float32)


def photograph(height: int, width: int) -> FloatArray:
    """Smooth areas with some noise, well inside 0..1."""
    random = np.random.default_rng(height * 1000 + width)
    areas = resize(random.random((4, 5, 3), np.float32), height, width)
    return np.asarray(0.3 + 0.4 * areas + 0.05 * random.random((height, width, 3), np.float32), np.float32)


def enlarged(pixels: FloatArray, factor: float) -> FloatArray:
    height, width = (max(round(edge * factor), 1) for edge in pixels.shape[:2])
    return resize(pixels, height, width)


def in_bands(pixels: FloatArray, band: int) -> Rows:
    height, width, channels = pixels.shape
    return Rows(height, width, channels, (pixels[top : top + band] for top in range(0, height, band)))


def match(result: FloatArray, source: FloatArray, bands: tuple[int, int, int] = (64, 64, 64)) -> FloatArray:
    rows = matched(in_bands(result, bands[0]), in_bands(source, bands[1]))
    assert (rows.height, rows.width, rows.channels) == result.shape
    return np.concatenate(list(rows.bands(bands[2])))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (260, 40)])
def test_a_tint_is_removed(size: tuple[int, int], factor: float) -> None:
    source = photograph(*size)
    clean = enlarged(source, factor)
    drift = np.abs(match(clean + TINT, source) - match(clean, source))
    assert drift.max() < 1e-5


@pytest.mark.parametrize("factor", FACTORS)
def test_a_clean_result_hardly_changes(factor: float) -> None:
    source = photograph(200, 90)
    clean = enlarged(source, factor)
    assert np.abs(match(clean, source) - clean).max() < 1 / 255


def test_a_tint_that_varies_slowly_is_removed() -> None:
    source = photograph(300, 60)
    clean = enlarged(source, 2)
    wave = np.sin(np.linspace(0, 4 * np.pi, 600, dtype=np.float32))[:, None, None] * TINT
    left = np.abs(match(clean + wave, source) - match(clean, source))
    # A slope cannot be told from a level where there is nothing beyond the border.
    assert left[40:-40].max() < 0.1 * TINT.max()
    assert left.max() < 0.25 * TINT.max()


@pytest.mark.parametrize("factor", [4, 2, 1])
def test_detail_is_kept(factor: int) -> None:
    source = photograph(120, 50)
    clean = enlarged(source, factor)
    detail = np.zeros_like(clean)
    detail[::2, ::2] = detail[1::2, 1::2] = 0.1
    detail -= detail.mean()
    kept = match(clean + detail + TINT, source) - match(clean, source)
    # At the border the detail is mirrored, which gives it a mean.
    assert np.abs(kept - detail)[8:-8, 8:-8].max() < 1 / 255
    assert np.abs(kept - detail).max() < 2 / 255


@pytest.mark.parametrize("factor", FACTORS)
def test_bands_do_not_show(factor: float) -> None:
    source = photograph(330, 20)
    result = enlarged(source, factor) + TINT * np.float32(0.5)
    whole = match(result, source, (10_000, 10_000, 10_000))
    for bands in ((1, 7, 3), (50, 1, 1000), (97, 128, 128)):
        np.testing.assert_array_equal(match(result, source, bands), whole)


def test_bands_equal_a_picture_corrected_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = photograph(500, 20)
    result = photograph(1000, 40)
    in_parts = match(result, source)
    monkeypatch.setattr("upscaler.images.colour._BAND", 1000)
    np.testing.assert_allclose(in_parts, match(result, source), atol=2e-6)
