import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from upscaler.errors import UserError
from upscaler.images.files import (
    Metadata,
    Picture,
    PictureWriter,
    check_output,
    open_picture,
    read_provenance,
    write_picture,
)

LOSSLESS = [("png", 8), ("png", 16), ("tiff", 8), ("tiff", 16)]
FORMATS = ("png", "jpeg", "webp", "tiff", "avif", "bmp", "gif")


def smooth(height: int = 40, width: int = 56, channels: int = 3, depth: int = 8) -> np.ndarray[Any, Any]:
    """Gradients that differ between channels, everywhere opaque enough to survive every format."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [x, y, (x + y) / 2][: 1 if channels < 3 else 3]
    if channels in (2, 4):
        planes.append(0.25 + 0.75 * (1 - x))
    top = 2**depth - 1
    values: np.ndarray[Any, Any] = np.rint(np.stack(planes, axis=2) * top)
    return values.astype(np.uint8 if depth == 8 else np.uint16)


def noise(height: int, width: int, channels: int, depth: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(7)
    values: np.ndarray[Any, Any] = generator.integers(0, 2**depth, (height, width, channels), np.uint16)
    return values.astype(np.uint8 if depth == 8 else np.uint16)


def write(path: Path, pixels: np.ndarray[Any, Any], metadata: Metadata = Metadata(), **options: Any) -> Path:  # noqa: B008
    write_picture(path, Picture(pixels, metadata), **options)
    return path


def vips_image(pixels: np.ndarray[Any, Any], interpretation: str) -> Any:
    return pyvips.Image.new_from_array(pixels).copy(interpretation=interpretation)


def refusal(path: Path) -> str:
    """The message for a file that cannot be opened, or opened but not read."""
    with pytest.raises(UserError) as caught:
        open_picture(path).read()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


# Round trips


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("format", "depth"), LOSSLESS)
def test_lossless_formats_keep_every_bit(tmp_path: Path, format: str, depth: int, channels: int) -> None:
    pixels = noise(33, 47, channels, depth)
    file = open_picture(write(tmp_path / f"a.{format}", pixels))
    assert (file.format, file.width, file.height, file.channels, file.depth) == (format, 47, 33, channels, depth)
    back = file.read().pixels
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    ("format", "tolerance", "channels_back"),
    [
        ("jpeg", 6, {1: 1, 2: 1, 3: 3, 4: 3}),
        ("webp", 8, {1: 3, 2: 4, 3: 3, 4: 4}),
        ("avif", 6, {1: 3, 2: 4, 3: 3, 4: 4}),
        ("bmp", 0, {1: 1, 2: 1, 3: 3, 4: 3}),
        ("gif", 40, {1: 4, 2: 4, 3: 3, 4: 4}),
    ],
)
def test_other_formats_come_close(
    tmp_path: Path, format: str, tolerance: int, channels_back: dict[int, int], depth: int, channels: int
) -> None:
    file = open_picture(write(tmp_path / f"a.{format}", smooth(channels=channels, depth=depth)))
    assert file.format == format
    assert file.channels == channels_back[channels]
    assert file.depth == (16 if format == "avif" and depth == 16 else 8)
    expected = smooth(channels=channels).astype(float)
    if format in ("jpeg", "bmp") and channels in (2, 4):
        opacity = expected[..., -1:] / 255
        expected = expected[..., :-1] * opacity + 255 * (1 - opacity)
    elif format == "gif" and channels in (2, 4):
        expected[..., -1] = np.where(expected[..., -1] >= 128, 255, 0)
    if file.channels > 2 and channels < 3:
        expected = np.concatenate([np.repeat(expected[..., :1], 3, axis=2), expected[..., 1:]], axis=2)
    if file.channels > expected.shape[2]:
        expected = np.concatenate([expected, np.full((40, 56, 1), 255)], axis=2)
    back = file.read().pixels / (257 if file.depth == 16 else 1)
    visible = back[..., -1] > 0 if file.channels == 4 else np.ones(back.shape[:2], bool)
    error = np.abs(back - expected)[visible]
    assert error.mean() <= tolerance / 2 + 0.5
    assert np.quantile(error, 0.95) <= tolerance + 0.51


def test_quality_100_webp_is_lossless_under_transparency_too(tmp_path: Path) -> None:
    pixels = noise(20, 30, 4, 8)
    pixels[:10, :, 3] = 0
    np.testing.assert_array_equal(open_picture(write(tmp_path / "a.webp", pixels, quality=100)).read().pixels, pixels)


def test_avif_keeps_more_than_8_bits(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(20000, 22000, 64).astype(np.uint16)[None, :, None], 64, axis=0).repeat(3, axis=2)
    back = open_picture(write(tmp_path / "a.avif", ramp, quality=95)).read().pixels
    assert np.abs(back.astype(int) - ramp).max() < 128


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality_changes_the_size(tmp_path: Path, format: str) -> None:
    sizes = [
        write(tmp_path / f"{quality}.{format}", noise(64, 64, 3, 8), quality=quality).stat().st_size
        for quality in (10, 90)
    ]
    assert sizes[0] < sizes[1]


def test_jpeg_keeps_colour_at_full_resolution(tmp_path: Path) -> None:
    with Image.open(write(tmp_path / "a.jpg", smooth())) as image:
        layers: list[tuple[int, int, int, int]] = image.layer  # type: ignore[attr-defined]
        assert [layer[1:3] for layer in layers] == [(1, 1)] * 3


@pytest.mark.parametrize("rows", [1, 7, 16, 100, 1000])
@pytest.mark.parametrize("format", FORMATS)
def test_bands_are_the_whole_and_start_again(tmp_path: Path, format: str, rows: int) -> None:
    file = open_picture(write(tmp_path / f"a.{format}", smooth(100, 60)))
    whole = file.read().pixels
    for _ in range(2):
        bands = list(file.bands(rows))
        assert [len(band) for band in bands[:-1]] == [rows] * (len(bands) - 1)
        np.testing.assert_array_equal(np.concatenate(bands), whole)


def test_tiles_are_read_in_bands(tmp_path: Path) -> None:
    pixels = noise(300, 200, 3, 16)
    vips_image(pixels, "rgb16").tiffsave(tmp_path / "a.tif", tile=True, tile_width=64, tile_height=64)
    np.testing.assert_array_equal(np.concatenate(list(open_picture(tmp_path / "a.tif").bands(50))), pixels)


def test_threads_may_take_turns_and_leave_the_rest(tmp_path: Path) -> None:
    """A generator that is in a cycle dies in whatever thread collects garbage; libvips must not mind."""
    file = open_picture(write(tmp_path / "a.tif", noise(600, 200, 3, 8)))
    whole = file.read().pixels
    for _ in range(20):
        bands = file.bands(50)
        taken = [next(bands)]
        for _ in range(5):
            thread = Thread(target=taken.extend, args=(islice(bands, 1),))
            thread.start()
            thread.join()
        np.testing.assert_array_equal(np.concatenate(taken), whole[:300])
        left = [bands]
        del bands
        last = Thread(target=left.clear)
        last.start()
        last.join()


def test_files_do_not_stay_open(tmp_path: Path) -> None:
    file = open_picture(write(tmp_path / "a.png", noise(300, 20, 3, 8)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        for _ in range(200):
            next(file.bands(10))
            write(tmp_path / "b.png", smooth())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("step", [1, 13, 1000])
def test_rows_may_come_in_any_portions(tmp_path: Path, step: int) -> None:
    pixels = noise(50, 31, 4, 16)
    with PictureWriter(
        tmp_path / "a.tif", width=31, height=50, channels=4, depth=16, metadata=Metadata(), format="png"
    ) as writer:
        writer.write(pixels[:0])
        for top in range(0, 50, step):
            writer.write(pixels[top : top + step])
    file = open_picture(tmp_path / "a.tif")
    assert file.format == "png"
    np.testing.assert_array_equal(file.read().pixels, pixels)


def test_rows_that_are_no_contiguous_memory(tmp_path: Path) -> None:
    pixels = noise(60, 40, 3, 16)[::2, ::-1]
    np.testing.assert_array_equal(open_picture(write(tmp_path / "a.png", pixels)).read().pixels, pixels)


def test_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    pixels = np.array([[0, 128, 129, 257, 65406, 65407, 65535]], np.uint16)[..., None]
    back = open_picture(write(tmp_path / "a.bmp", pixels)).read().pixels
    np.testing.assert_array_equal(back[0, :, 0], [0, 0, 1, 1, 254, 255, 255])


# Kinds of pixels


@pytest.mark.parametrize("format", ["png", "tiff", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_palette_and_bilevel(tmp_path: Path, format: str, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    image.save(tmp_path / "a", format)
    file = open_picture(tmp_path / "a")
    assert file.depth == 8
    assert file.channels == (1 if mode != "P" and format != "gif" else 3)
    expected = np.asarray(image.convert("RGB" if file.channels == 3 else "L")).reshape(40, 56, -1)
    np.testing.assert_array_equal(file.read().pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey_are_spread_to_8(tmp_path: Path, bits: int) -> None:
    levels = np.arange(2**bits, dtype=np.uint8)
    row = np.packbits((levels[:, None] >> np.arange(bits)[::-1]) & 1)
    header = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row.tobytes()))))
    pixels = open_picture(tmp_path / "a.png").read().pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, :, 0], levels * (255 // (2**bits - 1)))


def test_transparent_palette_has_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(4)
    image.info["transparency"] = 0
    image.save(tmp_path / "a.png")
    pixels = open_picture(tmp_path / "a.png").read().pixels
    np.testing.assert_array_equal(pixels[..., 3] == 0, np.asarray(image) == 0)


def test_alpha_is_not_multiplied_in(tmp_path: Path) -> None:
    pixels = smooth(channels=4)
    vips_image(pixels, "srgb").tiffsave(tmp_path / "a.tif", premultiply=True)
    back = open_picture(tmp_path / "a.tif").read().pixels
    assert np.abs(back.astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("format", ["jpeg", "tiff"])
def test_cmyk_becomes_srgb(tmp_path: Path, format: str) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a", format)
    file = open_picture(tmp_path / "a")
    assert (file.channels, file.depth, file.metadata.icc) == (3, 8, None)
    pixels = file.read().pixels.astype(int)
    assert pixels[0, 0].max() < 80
    assert pixels[-1, -1].min() > 180
    assert (np.diff(pixels[0, :, 0]) >= -2).all()


def test_embedded_cmyk_profile_is_used_and_goes(tmp_path: Path) -> None:
    cmyk = vips_image(smooth(), "srgb").icc_transform("cmyk", input_profile="srgb")
    assert cmyk.get_typeof("icc-profile-data")
    cmyk.tiffsave(tmp_path / "a.tif")
    file = open_picture(tmp_path / "a.tif")
    assert file.metadata.icc is None
    middle = file.read().pixels[15:25, 15:40].astype(int)
    assert np.abs(middle - smooth()[15:25, 15:40]).mean() < 12


def test_16_bit_cmyk_with_alpha_becomes_16_bit_rgba(tmp_path: Path) -> None:
    pixels = noise(8, 9, 5, 16)
    vips_image(pixels, "cmyk").tiffsave(tmp_path / "a.tif")
    file = open_picture(tmp_path / "a.tif")
    assert (file.channels, file.depth) == (4, 16)
    np.testing.assert_array_equal(file.read().pixels[..., 3], pixels[..., 4])


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    vips_image(smooth(), "srgb").colourspace("labs").tiffsave(tmp_path / "a.tif")
    file = open_picture(tmp_path / "a.tif")
    assert (file.channels, file.depth) == (3, 16)
    assert np.abs(file.read().pixels / 257 - smooth()).mean() < 3


@pytest.mark.parametrize(("kind", "words"), [("float", "32-bit floating-point"), ("uint", "32-bit"), ("short", "16")])
def test_numbers_that_cannot_be_kept(tmp_path: Path, kind: str, words: str) -> None:
    vips_image(smooth(), "srgb").cast(kind).tiffsave(tmp_path / "a.tif")
    assert words in refusal(tmp_path / "a.tif")


def test_extra_channels(tmp_path: Path) -> None:
    vips_image(noise(8, 9, 6, 8), "srgb").tiffsave(tmp_path / "a.tif")
    assert "3 channels beside its colours" in refusal(tmp_path / "a.tif")


# Orientation


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, format: str, orientation: int) -> None:
    upright = smooth(48, 64)
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0110] = "camera"
    exif[0x0112] = orientation
    quality = {"quality": 100} if format in ("jpeg", "webp") else {}
    Image.fromarray(np.ascontiguousarray(undo(upright))).save(tmp_path / "a", format, exif=exif, **quality)
    file = open_picture(tmp_path / "a")
    assert (file.width, file.height) == (64, 48)
    bands = np.concatenate(list(file.bands(10)))
    assert np.abs(bands.astype(int) - upright).max() < 20
    again = open_picture(write(tmp_path / f"b.{format}", bands, file.metadata))
    assert (again.width, again.height) == (64, 48)
    assert file.metadata.exif is not None
    block = Image.Exif()
    block.load(file.metadata.exif)
    assert block[0x0112] == 1


# Bad input


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.png")


def test_folder(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert "empty" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [b"This is a text.\n", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", b"RIFF\0\0\0\0WAVE", b"BM", b"BMW is a car"],
)
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "cannot read" in refusal(tmp_path / "a.png")


def test_unknown_content_names_the_formats(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"This is a text.\n")
    assert "not a PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF" in refusal(tmp_path / "a.png")


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png", "jpeg")
    assert open_picture(tmp_path / "a.png").format == "jpeg"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str, share: float) -> None:
    content = write(tmp_path / f"whole.{format}", noise(100, 100, 3, 8)).read_bytes()
    (tmp_path / f"a.{format}").write_bytes(content[: int(len(content) * share)])
    refusal(tmp_path / f"a.{format}")
    assert capfd.readouterr() == ("", "")


def test_zero_size(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 0, 10, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(b""))))
    assert "cannot read" in refusal(tmp_path / "a.png")


def bomb(path: Path) -> Path:
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    path.write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000)))))
    return path


def test_decompression_bomb(tmp_path: Path) -> None:
    assert "400 megapixels" in refusal(bomb(tmp_path / "a.png"))


def test_bmp_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 8, 1, 100, 2835, 2835, 256, 256)
    content = b"BM" + struct.pack("<IHHI", 1178, 0, 0, 1078) + header + bytes(1024) + bytes(100)
    (tmp_path / "a.bmp").write_bytes(content)
    started = time.perf_counter()
    assert "bomb" in refusal(tmp_path / "a.bmp")
    assert time.perf_counter() - started < 1


def test_large_picture_that_is_no_bomb(tmp_path: Path) -> None:
    pyvips.Image.black(11000, 10000).copy(interpretation="b-w").tiffsave(tmp_path / "a.tif")
    assert open_picture(tmp_path / "a.tif").width == 11000


@pytest.mark.parametrize("format", ["gif", "webp", "png", "avif", "tiff"])
def test_several_frames(tmp_path: Path, format: str) -> None:
    first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
    first.save(tmp_path / "a", format, save_all=True, append_images=[second])
    assert "--first-frame" in refusal(tmp_path / "a")
    pixels = open_picture(tmp_path / "a", first_frame=True).read().pixels
    assert np.abs(pixels[..., :3].astype(int) - smooth()).mean() < 12


@pytest.mark.parametrize("format", ["gif", "webp", "png", "avif", "tiff"])
def test_one_frame_is_no_animation(tmp_path: Path, format: str) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a", format)
    assert open_picture(tmp_path / "a").height == 40


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_ycbcr_is_not_taken_for_rgb(tmp_path: Path, compression: str | None) -> None:
    Image.fromarray(smooth()).convert("YCbCr").save(tmp_path / "a.tif", compression=compression)
    assert "its colours are YCbCr; convert it to RGB first" in refusal(tmp_path / "a.tif")


def test_ycbcr_in_a_jpeg_within_a_tiff(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("YCbCr").save(tmp_path / "a.tif", compression="jpeg")
    assert np.abs(open_picture(tmp_path / "a.tif").read().pixels - smooth().astype(int)).mean() < 3


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "it is no regular file" in refusal(tmp_path / "a.png")


def test_file_that_changed(tmp_path: Path) -> None:
    file = open_picture(write(tmp_path / "a.png", smooth()))
    write(tmp_path / "a.png", smooth(20, 20))
    with pytest.raises(UserError, match="changed"):
        file.read()


# Where results go


@pytest.mark.parametrize(
    ("name", "format", "words"),
    [("a", None, "no suffix"), ("a.xyz", None, r"\.png, \.jpg.*--format"), ("a.png", "heic", "png, jpeg, webp")],
)
def test_unknown_output_format(tmp_path: Path, name: str, format: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_output(tmp_path / name, width=1, height=1, channels=3, depth=8, format=format)


@pytest.mark.parametrize(("suffix", "side"), [("jpg", 65_500), ("webp", 16_383), ("gif", 65_535), ("avif", 16_384)])
def test_limits_are_those_of_the_encoders(tmp_path: Path, suffix: str, side: int) -> None:
    path = tmp_path / f"a.{suffix}"
    check_output(path, width=side, height=1, channels=1, depth=8)
    with pytest.raises(UserError, match=str(side)):
        check_output(path, width=1, height=side + 1, channels=1, depth=8)
    assert open_picture(write(path, np.zeros((1, side, 1), np.uint8))).width == side


def test_bmp_counts_bytes(tmp_path: Path) -> None:
    check_output(tmp_path / "a.bmp", width=40_000, height=35_000, channels=3, depth=8)
    with pytest.raises(UserError, match="BMP"):
        check_output(tmp_path / "a.bmp", width=40_000, height=36_000, channels=3, depth=8)


def test_output_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="folder"):
        check_output(tmp_path / "a.png", width=1, height=1, channels=3, depth=8)


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        check_output(tmp_path / "file" / "a.png", width=1, height=1, channels=3, depth=8)


def test_write_protected_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="write-protected"):
        check_output(tmp_path / "a.png", width=1, height=1, channels=3, depth=8)


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    assert check_output(path, width=1, height=1, channels=3, depth=8) == []
    assert not path.parent.exists()
    write(path, smooth())
    assert path.is_file()


def test_a_folder_that_has_become_a_file(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path / "new" / "a.png", width=1, height=1, channels=3, depth=8, metadata=Metadata())
    (tmp_path / "new").touch()
    with pytest.raises(UserError, match=r"cannot write .*a\.png: File exists"), writer:
        pass


@pytest.mark.parametrize(
    ("suffix", "channels", "depth", "words"),
    [
        ("png", 4, 16, []),
        ("jpg", 3, 8, []),
        ("jpg", 4, 16, ["8 bits", "white"]),
        ("bmp", 2, 8, ["white"]),
        ("avif", 3, 16, ["12 bits"]),
        ("webp", 4, 16, ["8 bits"]),
        ("gif", 3, 8, ["256 colours"]),
    ],
)
def test_warnings(tmp_path: Path, suffix: str, channels: int, depth: int, words: list[str]) -> None:
    warnings = check_output(tmp_path / f"a.{suffix}", width=9, height=9, channels=channels, depth=depth)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_out_of_range(tmp_path: Path, quality: int) -> None:
    with pytest.raises(UserError, match="1 to 100"):
        write(tmp_path / "a.jpg", smooth(), quality=quality)


# All or nothing


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [0, 20, 40])
@pytest.mark.parametrize("older", [True, False])
def test_interruption_leaves_what_was_there(tmp_path: Path, format: str, rows: int, older: bool) -> None:
    path = tmp_path / f"a.{format}"
    if older:
        path.write_bytes(b"older")

    def interrupted() -> None:
        with PictureWriter(path, width=56, height=40, channels=3, depth=8, metadata=Metadata()) as writer:
            writer.write(smooth()[:rows])
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == ([(path.name, b"older")] if older else [])


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
        import numpy as np
        from upscaler.images.files import Metadata, PictureWriter
        with PictureWriter({str(tmp_path / "a.tif")!r}, width=4000, height=10**6, channels=3, depth=8,
                           metadata=Metadata()) as writer:
            rows = np.zeros((16, 4000, 3), np.uint8)
            writer.write(rows)
            print("writing", flush=True)
            while True:
                writer.write(rows)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().splitlines()[-1] == "KeyboardInterrupt"
    assert list(tmp_path.iterdir()) == []


def test_missing_rows_are_a_bug_and_leave_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="20 rows"),
        PictureWriter(tmp_path / "a.png", width=56, height=40, channels=3, depth=8, metadata=Metadata()) as writer,
    ):
        writer.write(smooth()[:20])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [smooth(41), smooth(5, 55), smooth(5, 56, 4), smooth(5, 56, 3, 16)])
def test_wrong_rows_are_a_bug(tmp_path: Path, rows: np.ndarray[Any, Any]) -> None:
    with (
        pytest.raises(ValueError, match="rows"),
        PictureWriter(tmp_path / "a.png", width=56, height=40, channels=3, depth=8, metadata=Metadata()) as writer,
    ):
        writer.write(rows)


@pytest.mark.parametrize("format", FORMATS)
def test_full_disk(tmp_path: Path, format: str) -> None:
    """A limit on the size of files stands in for a full disk: writing beyond it fails just as late."""
    path = tmp_path / f"a.{format}"
    path.write_bytes(b"older")
    script = f"""
        import resource, signal
        import numpy as np
        from upscaler.errors import UserError
        from upscaler.images.files import Metadata, PictureWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        rows = np.random.default_rng(0).integers(0, 256, (50, 400, 3)).astype(np.uint8)
        try:
            with PictureWriter({str(path)!r}, width=400, height=400, channels=3, depth=8,
                               metadata=Metadata()) as writer:
                for _ in range(8):
                    writer.write(rows)
        except UserError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"cannot write {path}: File too large; make room or choose another place\n"
    assert done.stderr == ""
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [(path.name, b"older")]


def test_failure_is_told_while_rows_are_still_coming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("upscaler.images.writing.encode", full)
    writer = PictureWriter(tmp_path / "a.png", width=56, height=10**6, channels=3, depth=8, metadata=Metadata())

    def write_all() -> None:
        with writer:
            for _ in range(25_000):
                writer.write(smooth())

    with pytest.raises(UserError, match="No space left on device; make room"):
        write_all()
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_kept_and_else_the_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    path = write(tmp_path / "a.png", smooth())
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    path.chmod(0o640)
    write(path, smooth(20))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("real.png")
    write(tmp_path / "link.png", smooth())
    assert (tmp_path / "link.png").is_symlink()
    assert open_picture(tmp_path / "real.png").width == 56


@pytest.mark.parametrize("name", ["a[b=1].png", "ä ü.png", "-.png", "x" * 251 + ".png", "%d.png"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(open_picture(write(tmp_path / name, smooth())).read().pixels, smooth())


def test_import_is_quick() -> None:
    script = "import sys, upscaler.images.files; print([m for m in ('pyvips', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("layout", [{}, {"tile": True}])
def test_memory_does_not_grow_with_the_picture(tmp_path: Path, layout: dict[str, bool]) -> None:
    pyvips.Image.black(6000, 12_000, bands=3).copy(interpretation="srgb").tiffsave(tmp_path / "a.tif", **layout)
    script = f"""
        import resource
        from upscaler.images.files import Metadata, PictureWriter, open_picture
        file = open_picture({str(tmp_path / "a.tif")!r})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with PictureWriter({str(tmp_path / "b.tif")!r}, width=6000, height=12_000, channels=3, depth=8,
                           metadata=Metadata()) as writer:
            for band in file.bands(64):
                writer.write(band)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 120e6 < 6000 * 12_000 * 3


def test_provenance_of_a_bomb_is_not_looked_for_in_its_pixels(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.png")
    started = time.perf_counter()
    assert read_provenance(path) is None
    assert time.perf_counter() - started < 1
