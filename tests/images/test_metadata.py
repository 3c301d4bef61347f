import json
import subprocess
import sys
import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.dom.minidom import Element, parseString

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.ImageCms import ImageCmsProfile, createProfile

from upscaler.errors import UserError
from upscaler.images.containers import add_tiff_exif, tiff_exif
from upscaler.images.files import Metadata, Picture, open_picture, read_provenance, write_picture
from upscaler.images.metadata import dots_per_inch, upright_exif
from upscaler.images.xmp import PROVENANCE, provenance_in, updated

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SRGB = ImageCmsProfile(createProfile("sRGB")).tobytes()
PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
     xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6" tiff:ImageWidth="7" exif:PixelXDimension="7">
    <exif:PixelYDimension>9</exif:PixelYDimension>
    <dc:creator><rdf:Seq><rdf:li>Zoë &amp; Co</rdf:li></rdf:Seq></dc:creator>
  </rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()
RECORD = {"model": "realesrgan-x4", "scale": 4.0, "input_sha256": "0" * 64, "text": "ä <&\"'> \n ]]> \u0001"}


def pixels(channels: int = 3) -> np.ndarray[Any, Any]:
    return np.full((24, 32, channels), 120, np.uint8)


def write(path: Path, metadata: Metadata = Metadata(), channels: int = 3, **options: Any) -> Path:  # noqa: B008
    write_picture(path, Picture(pixels(channels), metadata), **options)
    return path


def camera(orientation: int = 1, thumbnail: bool = False) -> bytes:
    """What a camera writes: texts, the sizes of its own picture, a position, and perhaps a thumbnail."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x8298] = "someone"
    details = exif.get_ifd(0x8769)
    details.update({0x829A: (1, 125), 0x9003: "2020:01:02 03:04:05", 0xA002: 4000, 0xA003: 3000, 0x927C: b"note\0\1"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.5)})
    block = exif.tobytes()
    if not thumbnail:
        return block
    # The second directory, which no library here writes: an offset and a length, behind everything else.
    body = bytearray(block[6:])
    count = int.from_bytes(body[8:10], "big")
    end = 10 + 12 * count
    body[end : end + 4] = len(body).to_bytes(4, "big")
    start = len(body) + 2 + 24 + 4
    for tag, value in ((0x0201, start), (0x0202, 500)):
        body += b"" if tag != 0x0201 else (2).to_bytes(2, "big")
        body += tag.to_bytes(2, "big") + (4).to_bytes(2, "big") + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
    return b"Exif\0\0" + bytes(body) + bytes(4) + b"\xff\xd8" + bytes(496) + b"\xff\xd9"


def loaded(block: bytes | None) -> Image.Exif:
    assert block is not None
    exif = Image.Exif()
    exif.load(block)
    return exif


def descriptions(packet: bytes | None) -> list[Element]:
    assert packet is not None
    return list(parseString(packet).getElementsByTagNameNS(RDF, "Description"))  # noqa: S318 - written by the test


# What goes in comes out


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_everything_is_kept(tmp_path: Path, suffix: str) -> None:
    given_ = Metadata(icc=SRGB, exif=camera(), xmp=PACKET, dpi=(300.0, 150.0))
    file = open_picture(write(tmp_path / f"a.{suffix}", given_))
    kept = file.metadata
    assert kept.icc == SRGB
    assert kept.dpi == (300.0, 150.0)
    exif = loaded(kept.exif)
    assert (exif[0x010F], exif[0x8298], exif[0x0112]) == ("Maker", "someone", 1)
    details = exif.get_ifd(0x8769)
    assert details[0x829A] == (1, 125)
    assert details[0x9003] == "2020:01:02 03:04:05"
    assert details[0x927C] == b"note\0\1"
    assert (details[0xA002], details[0xA003]) == (32, 24)
    assert exif.get_ifd(0x8825)[2] == (48.0, 51.0, 29.5)
    (description,) = descriptions(kept.xmp)
    assert "Zoë & Co" in [each.firstChild.data for each in description.getElementsByTagName("rdf:li")]  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_nothing_is_made_up(tmp_path: Path, suffix: str) -> None:
    kept = open_picture(write(tmp_path / f"a.{suffix}")).metadata
    assert (kept.icc, kept.exif, kept.xmp) == (None, None, None)
    assert kept.dpi in (None, (72.0, 72.0), (72.009, 72.009))


@pytest.mark.parametrize("suffix", ["bmp", "gif"])
def test_formats_without_room_for_it_just_drop_it(tmp_path: Path, suffix: str) -> None:
    given_ = Metadata(icc=SRGB, exif=camera(), xmp=PACKET, dpi=(300.0, 300.0))
    kept = open_picture(write(tmp_path / f"a.{suffix}", given_)).metadata
    assert kept.exif is None
    assert kept.dpi == ((300.0, 300.0) if suffix == "bmp" else None)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "bmp"])
@pytest.mark.parametrize("dpi", [72.0, 96.0, 300.0, 2400.0])
def test_resolution_stays_the_number_it_was(tmp_path: Path, suffix: str, dpi: float) -> None:
    metadata = Metadata(dpi=(dpi, dpi))
    for generation in range(3):
        metadata = open_picture(write(tmp_path / f"{generation}.{suffix}", metadata)).metadata
    assert metadata.dpi == (dpi, dpi)


def test_resolution_that_is_none() -> None:
    assert dots_per_inch((0.0, 11.8)) is None
    assert dots_per_inch((float("nan"), 11.8)) is None
    assert dots_per_inch((float("inf"), 11.8)) is None


def test_resolution_of_a_jpeg_without_exif(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", dpi=(300, 300))
    assert open_picture(tmp_path / "a.jpg").metadata.dpi == (300.0, 300.0)
    Image.fromarray(pixels()).save(tmp_path / "a.jpg")
    assert open_picture(tmp_path / "a.jpg").metadata.dpi is None


def test_resolution_in_exif_counts_where_the_file_has_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 100.0, 50.0, 3
    Image.fromarray(pixels()).save(tmp_path / "a.webp", exif=exif)
    assert open_picture(tmp_path / "a.webp").metadata.dpi == (254.0, 127.0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("space", ["grey", "rgb", "lab"])
def test_profile_stays_only_with_its_colours(tmp_path: Path, channels: int, space: str) -> None:
    icc = {"grey": SRGB.replace(b"RGB ", b"GRAY", 1), "rgb": SRGB, "lab": SRGB.replace(b"RGB ", b"Lab ", 1)}[space]
    write(tmp_path / "a.png", Metadata(icc=icc), channels)
    with pyvips_image(tmp_path / "a.png") as image:
        kept = image.get_typeof("icc-profile-data") != 0
    assert kept == (space == ("grey" if channels < 3 else "rgb"))


class pyvips_image:  # noqa: N801 - reads as a function
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        return pyvips.Image.new_from_file(str(self._path))

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
@pytest.mark.parametrize("profile", [b"no profile", SRGB[:-1], SRGB[:100], bytes(4) + SRGB[4:]])
def test_broken_profile_goes(tmp_path: Path, suffix: str, profile: bytes) -> None:
    assert open_picture(write(tmp_path / f"a.{suffix}", Metadata(icc=profile))).metadata.icc is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_what_stands_behind_a_profile_goes(tmp_path: Path, suffix: str) -> None:
    assert open_picture(write(tmp_path / f"a.{suffix}", Metadata(icc=SRGB + b"\0"))).metadata.icc == SRGB


def test_tiff_of_a_foreign_program(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.load(camera(orientation=6))
    Image.fromarray(pixels()).save(tmp_path / "a.tif", exif=exif)
    kept = loaded(open_picture(tmp_path / "a.tif").metadata.exif)
    assert (kept[0x010F], kept[0x0112]) == ("Maker", 1)
    assert kept.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert 0x0111 not in kept


@pytest.mark.parametrize("big", [False, True])
def test_tiff_is_still_sound_with_exif_in_it(tmp_path: Path, big: bool) -> None:
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3)).astype(np.uint8)
    pyvips.Image.new_from_array(noise).copy(interpretation="srgb").tiffsave(path, bigtiff=big, xres=10, yres=10)
    with path.open("r+b") as file:
        add_tiff_exif(file, camera())
        exif = loaded(tiff_exif(file, 200, 300))
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[1] == "N"
    np.testing.assert_array_equal(open_picture(path).read().pixels, noise)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), noise)
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["dpi"] == pytest.approx((254, 254))


# EXIF


def test_thumbnail_goes(tmp_path: Path) -> None:
    block = camera(orientation=6, thumbnail=True)
    assert loaded(block).get_ifd(ExifTags.IFD.IFD1)[0x0202] == 500
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=block)
    file = open_picture(tmp_path / "a.jpg")
    assert (file.width, file.height) == (24, 32)
    assert loaded(file.metadata.exif).get_ifd(ExifTags.IFD.IFD1) == {}
    write_picture(tmp_path / "b.jpg", file.read())
    content = (tmp_path / "b.jpg").read_bytes()
    assert content.count(b"\xff\xd8") == 1
    with Image.open(BytesIO(content)) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1) == {}
        assert image.getexif().get_ifd(0x8769)[0xA002] == 24


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"no exif at all", camera()[:30], b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_broken_exif_is_dropped(tmp_path: Path, block: bytes, suffix: str) -> None:
    assert open_picture(write(tmp_path / f"a.{suffix}", Metadata(exif=block))).width == 32


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(6, len(camera()) - 1), st.integers(0, 255)), max_size=12), st.integers(0, 400))
def test_hostile_exif_never_raises(changes: list[tuple[int, int]], length: int) -> None:
    block = bytearray(camera())
    for place, value in changes:
        block[place] = value
    cleaned = upright_exif(bytes(block[: length or None]), 5, 6)
    assert cleaned is None or loaded(cleaned)[0x0112] == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
@pytest.mark.parametrize(("note", "kept"), [(65_000, 65_000), (65_345, 0), (65_400, 0), (100_000, 0)])
def test_exif_too_large_loses_the_note_of_the_maker_alone(tmp_path: Path, suffix: str, note: int, kept: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x927C] = bytes(note)
    path = write(tmp_path / f"a.{suffix}", Metadata(exif=exif.tobytes()))
    with Image.open(path) as image:
        found = image.getexif()
        assert found[0x010F] == "Maker"
        assert len(found.get_ifd(0x8769).get(0x927C, b"")) == kept


def test_exif_too_large_for_jpeg_does_not_stop_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker" * 20_000
    assert open_picture(write(tmp_path / "a.jpg", Metadata(exif=exif.tobytes()))).width == 32


# XMP and provenance


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "gif"])
@pytest.mark.parametrize("packet", [None, PACKET])
def test_provenance_comes_back(tmp_path: Path, suffix: str, packet: bytes | None) -> None:
    path = write(tmp_path / f"a.{suffix}", Metadata(xmp=packet), provenance=RECORD)
    assert read_provenance(path) == RECORD
    assert open_picture(path).width == 32
    with Image.open(path) as image:
        image.load()


def test_provenance_in_a_jpeg_wins_over_a_packet_too_long_for_it(tmp_path: Path) -> None:
    packet = PACKET.replace(b"Zo", b"Zo" + b"o" * 70_000)
    assert read_provenance(write(tmp_path / "a.jpg", Metadata(xmp=packet), provenance=RECORD)) == RECORD
    assert open_picture(write(tmp_path / "a.jpg", Metadata(xmp=packet))).metadata.xmp is None
    kept = open_picture(write(tmp_path / "a.png", Metadata(xmp=packet), provenance=RECORD)).metadata.xmp
    assert kept is not None
    assert len(kept) > 70_000


def test_bmp_has_no_place_for_provenance(tmp_path: Path) -> None:
    assert read_provenance(write(tmp_path / "a.bmp", provenance=RECORD)) is None


def test_xmp_of_a_gif_is_where_other_programs_look(tmp_path: Path) -> None:
    """XMP Specification, part 3, section 1.1.2: an application extension, then 258 bytes of trailer."""
    content = write(tmp_path / "a.gif", provenance=RECORD).read_bytes()
    start = content.index(b"\x21\xff\x0bXMP DataXMP") + 14
    packet = content[start : content.index(b'<?xpacket end="w"?>') + 19]
    assert provenance_in(packet) == RECORD
    trailer = content[start + len(packet) :][:258]
    assert trailer == b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def test_xmp_of_a_gif_behind_other_extensions(tmp_path: Path) -> None:
    content = write(tmp_path / "a.gif", provenance=RECORD).read_bytes()
    start = content.index(b"\x21\xff\x0bXMP")
    comment = b"\x21\xfe\x05hello\x03you\0"
    (tmp_path / "b.gif").write_bytes(content[:start] + comment + content[start:])
    assert read_provenance(tmp_path / "b.gif") == RECORD


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "gif", "bmp"])
def test_no_provenance(tmp_path: Path, suffix: str) -> None:
    assert read_provenance(write(tmp_path / f"a.{suffix}", Metadata(xmp=PACKET))) is None


def test_provenance_of_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "empty.png", "missing.png", "."):
        assert read_provenance(tmp_path / name) is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "gif"])
def test_provenance_of_damaged_files(tmp_path: Path, suffix: str) -> None:
    content = write(tmp_path / f"a.{suffix}", provenance=RECORD).read_bytes()
    for length in range(0, len(content), max(len(content) // 60, 1)):
        (tmp_path / "b").write_bytes(content[:length])
        assert read_provenance(tmp_path / "b") in (None, RECORD)


def test_merging_damages_nothing_and_replaces_the_older_record() -> None:
    once = updated(PACKET, 32, 24, {"old": True})
    twice = updated(once, 64, 48, RECORD)
    assert twice is not None
    assert provenance_in(twice) == RECORD
    first, own = descriptions(twice)
    assert own.getAttributeNS(PROVENANCE, "provenance") == json.dumps(RECORD)
    assert own.getAttributeNS(RDF, "about") == ""
    assert first.getAttribute("tiff:Orientation") == "1"
    assert first.getAttribute("tiff:ImageWidth") == "64"
    assert first.getAttribute("exif:PixelXDimension") == "64"
    assert "<exif:PixelYDimension>48</exif:PixelYDimension>" in twice.decode()
    assert "<dc:creator><rdf:Seq><rdf:li>Zo&#235; &amp; Co</rdf:li></rdf:Seq></dc:creator>" in twice.decode()
    assert twice.startswith(b"<?xpacket begin=")
    assert twice.endswith(b'<?xpacket end="w"?>')


def test_record_beside_foreign_words_is_taken_out_of_them() -> None:
    packet = (
        f'<r:RDF xmlns:r="{RDF}">'
        f'<r:Description xmlns:s="{PROVENANCE}" s:provenance="{{}}" xmlns:o="o:" o:other="kept"/>'
        "</r:RDF>"
    )
    foreign, own = descriptions(updated(packet.encode(), 1, 1, {"a": 1}))
    assert foreign.getAttribute("o:other") == "kept"
    assert not foreign.hasAttributeNS(PROVENANCE, "provenance")
    assert own.tagName == "r:Description"


def test_packet_without_provenance_keeps_everything_else() -> None:
    assert updated(None, 1, 1, None) is None
    (description,) = descriptions(updated(PACKET, 32, 24, None))
    assert not description.hasAttributeNS(PROVENANCE, "provenance")


_ENTITIES = "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True))
LAUGHS = f'<!DOCTYPE x [<!ENTITY a "ha">{_ENTITIES}]><r:RDF xmlns:r="{RDF}">&j;</r:RDF>'


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no xml",
        PACKET[:-60],
        b"\xff\xfe" + PACKET,
        b"<other/>",
        LAUGHS.encode(),
        LAUGHS.encode("utf-16"),
        b"<a>" * 50_000 + b"</a>" * 50_000,
        *(f'{"<a>" * depth}<r:RDF xmlns:r="{RDF}"/>{"</a>" * depth}'.encode() for depth in (100, 970, 980, 990)),
        f'<r:RDF xmlns:r="{RDF}">{"<a/>" * 300_000}</r:RDF>'.encode(),
        f'<r:RDF xmlns:r="{RDF}">{" " * 2**23}</r:RDF>'.encode(),
    ],
)
def test_broken_or_hostile_packet_is_replaced(packet: bytes) -> None:
    assert updated(packet, 1, 1, None) is None
    assert provenance_in(packet) is None
    assert provenance_in(updated(packet, 1, 1, RECORD)) == RECORD


@pytest.mark.parametrize("value", ["", "no json", "[1]", "null", "[" * 100_000])
def test_record_that_is_no_record(value: str) -> None:
    packet = f'<r:RDF xmlns:r="{RDF}"><r:Description xmlns:s="{PROVENANCE}" s:provenance="{value}"/></r:RDF>'
    assert provenance_in(packet.encode()) is None


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3)),
    )
)
def test_any_record_survives(record: dict[str, Any]) -> None:
    once = updated(PACKET, 1, 1, record)
    assert provenance_in(once) == record
    assert provenance_in(updated(once, 2, 2, None)) == record


def test_nothing_is_printed(tmp_path: Path) -> None:
    """libtiff, libjpeg and libxml like to talk to the terminal."""
    path = write(tmp_path / "a.jpg", Metadata(exif=camera(), xmp=PACKET))
    (tmp_path / "b.jpg").write_bytes(path.read_bytes()[:-300])
    script = f"""
        from upscaler.errors import UserError
        from upscaler.images.files import open_picture
        try:
            open_picture({str(tmp_path / "b.jpg")!r}).read()
        except UserError:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_quality_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quality"):
        write(tmp_path / "a.png", quality=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "webp"])
def test_names_in_xmp_keep_their_letters(tmp_path: Path, format: str) -> None:
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:creator>Jürgen 猫</dc:creator></rdf:Description></rdf:RDF>'
        '</x:xmpmeta><?xpacket end="w"?>'
    ).encode()
    picture = Picture(np.zeros((8, 8, 3), np.uint8), Metadata(xmp=packet))
    write_picture(tmp_path / f"a.{format}", picture, provenance={"model": "m"})
    found = open_picture(tmp_path / f"a.{format}").metadata.xmp
    assert found is not None
    document = parseString(found)  # noqa: S318 - our own text
    creators = document.getElementsByTagName("dc:creator")
    assert creators[0].firstChild is not None
    assert creators[0].firstChild.nodeValue == "Jürgen 猫"
