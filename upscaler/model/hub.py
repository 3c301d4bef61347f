"""Weights from the Hugging Face hub and from the web, checked before they get their names."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.model import web
from upscaler.model.web import Progress, RefusedError, broken

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""What a file of weights on the hub may end in."""


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub; the revision is a branch, a tag, or a commit's whole or short hash."""

    repo: str
    file: str
    revision: str = "main"

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit's whole hash, which never names other bytes."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    @property
    def cached(self) -> Path:
        """Where its download is kept."""
        return cache_folder() / "hub" / self.repo / quote(self.revision, safe="") / self.file

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.file}" + ("" if self.revision == "main" else f"@{self.revision}")


@dataclass(frozen=True)
class WebFile:
    """A file at an https address, such as one of a GitHub release."""

    url: str

    def __str__(self) -> str:
        return self.url


Source = HubFile | WebFile


def parse(name: str) -> HubFile:
    """The file that ``hf:OWNER/NAME/FILE[@REVISION]`` names, where FILE may be in folders.

    Raises:
        UserError: another form, anything that would leave the cache's folder, or no file of weights.
    """
    address, at, revision = name[len("hf:") :].partition("@")
    owner, *rest = address.split("/")
    safe = all(re.fullmatch(r"[\w.+ -]+", part) and part.strip(". ") for part in (owner, *rest))
    if len(rest) < 2 or not safe or (at and (not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision)):
        raise UserError(f"{name} names no file on the hub; write hf:OWNER/REPOSITORY/FILE, with @REVISION where wanted")
    if not rest[-1].lower().endswith(SUFFIXES):
        raise UserError(f"{name} is no file of weights; such a name ends in {', '.join(SUFFIXES)}")
    return HubFile(f"{owner}/{rest[0]}", "/".join(rest[1:]), revision or "main")


def cache_folder() -> Path:
    """The folder of downloads: srup's own, shared with no other program."""
    from platformdirs import user_cache_path

    return user_cache_path("srup")


def is_offline() -> bool:
    """Whether the environment forbids the network, in the hub's own words (``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def fetch(
    target: Path,
    sources: Sequence[Source],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Download a file from the first source that gives it, and return its SHA-256.

    ``target`` appears complete and checked, or not at all. A web download that was cut off goes on
    where it stopped, in this call or in a later one. Of several processes that want the same file, one
    downloads it and the others wait.

    Args:
        target: where to put it; another process's finished download found there is taken.
        sources: tried in their order.
        sha256: 64 hexadecimal digits; None takes what comes.
        size: bytes that the file has; None takes any number.
        progress: called now and then.

    Raises:
        UserError: offline, no source gave the file, what they gave was not it, or no place for it.
    """
    if is_offline():
        raise UserError(
            f"{target.name} is not in the cache and HF_HUB_OFFLINE forbids the network; "
            f"unset it, or bring the file from elsewhere and name it by its path; it is at {sources[0]}"
        )
    from filelock import FileLock

    refusals: dict[str, list[str]] = {}
    progress = progress or _nobody
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists() and (found := digest_of(target)) == (sha256 or found):
                return found
            for source in sources:
                try:
                    return _fetch_from(source, target, sha256, size, progress)
                except RefusedError as error:
                    refusals.setdefault(str(error), []).append(str(source))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    reasons = (f"{' or '.join(refusing)} ({reason})" for reason, refusing in refusals.items())
    raise UserError(f"could not fetch {target.name} from {'; nor from '.join(reasons)}")


def _nobody(done: int, total: int) -> None:
    """Where nobody asked for progress."""


def _fetch_from(source: Source, target: Path, sha256: str | None, size: int | None, progress: Progress) -> str:
    staging = target.with_name(target.name + ".hub")
    part = target.with_name(target.name + ".part")
    try:
        if isinstance(source, HubFile):
            part = _from_hub(source, staging, size, progress)
        else:
            web.download(source.url, part, size, progress)
        digest = _checked(part, sha256, size)
        part.replace(target)
        return digest
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _checked(part: Path, sha256: str | None, size: int | None) -> str:
    """The digest of a finished download; one that is not the wanted file is removed."""
    with part.open("rb") as file:
        start = file.read(64).lstrip()
    digest, length = digest_of(part), part.stat().st_size
    if start.startswith(b"<"):
        problem = "it sent a web page instead of the file"
    elif size is not None and length != size:
        problem = f"its file has {length} bytes instead of {size}"
    elif sha256 is not None and digest != sha256:
        problem = f"its file has the SHA-256 {digest[:12]}... instead of {sha256[:12]}..., so it is another one"
    else:
        return digest
    part.unlink()
    raise RefusedError(f"{problem}; it was removed")


def _from_hub(source: HubFile, folder: Path, size: int | None, progress: Progress) -> Path:
    """Download into an empty folder of its own, past the cache that the hub's programs share."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # Which HTTP library it is has changed twice; the base class of its errors has it.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        found = _looked_up(source, endpoint)
        if size is not None and found.size not in (None, size):
            raise RefusedError(f"its file has {found.size} bytes instead of {size}")
        path = hf_hub_download(
            source.repo,
            source.file,
            revision=found.commit_hash or source.revision,
            cache_dir=folder / "cache",
            local_dir=folder,
            endpoint=endpoint,
            tqdm_class=_reporting_bar(progress, found.size or 0),
        )
    except GatedRepoError:
        raise RefusedError("accept its terms on its hub page, then log in with 'hf auth login'") from None
    except RepositoryNotFoundError:
        raise RefusedError("no such repository, or a private one: then log in with 'hf auth login'") from None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise RefusedError(_hub_reason(error)) from error
    except (network_error, ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise RefusedError(broken(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the disk, not of the network
            raise
        raise RefusedError(broken(error)) from error
    return Path(path)


def _hub_reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None:
        return "the hub cannot be reached; check the network and try again"
    if response.status_code == 404:
        return "no such file or revision"
    return f"the hub answered {response.status_code}; try again later"


def _looked_up(source: HubFile, endpoint: str | None) -> HfFileMetadata:
    """What the hub says of a file; a short commit hash that it does not take is looked up in the history."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

    def look(revision: str) -> HfFileMetadata:
        address = hf_hub_url(source.repo, source.file, revision=revision, endpoint=endpoint)
        return get_hf_file_metadata(address, endpoint=endpoint)

    try:
        return look(source.revision)
    except (RevisionNotFoundError, RemoteEntryNotFoundError):
        if not re.fullmatch(r"[0-9a-f]{7,39}", source.revision):
            raise
        commits = (commit.commit_id for commit in HfApi(endpoint=endpoint).list_repo_commits(source.repo))
        whole = next((commit for commit in commits if commit.startswith(source.revision)), None)
        if whole is None:
            raise
        return look(whole)


def _reporting_bar(progress: Progress, total: int) -> type[Any]:
    """A progress bar for the hub's library that shows nothing and tells ``progress`` instead."""
    from huggingface_hub.utils.tqdm import tqdm

    class ReportingBar(tqdm):
        furthest = 0

        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            super().__init__(disable=True)  # type: ignore[no-untyped-call]
            self.done = initial

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            # The library may run two bars for one file, for what came in and for what is written.
            ReportingBar.furthest = max(ReportingBar.furthest, min(self.done, total or self.done))
            progress(ReportingBar.furthest, total)

    return ReportingBar
