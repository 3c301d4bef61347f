"""Weights from the Hugging Face hub and from the web, checked before they get their names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upscaler import __version__
from upscaler.errors import UserError

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse

Progress = Callable[[int, int], None]
"""Told of (bytes done, bytes in all); the latter is 0 while unknown."""

_ATTEMPTS = 3
_TIMEOUT = 30.0
_CHUNK = 2**18
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub; the revision is a branch, a tag, or a commit's whole or short hash."""

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.file}" + ("" if self.revision == "main" else f"@{self.revision}")


@dataclass(frozen=True)
class WebFile:
    """A file at an https address, such as one of a GitHub release."""

    url: str

    def __str__(self) -> str:
        return self.url


Source = HubFile | WebFile


class _RefusedError(Exception):
    """Why one source did not give the file."""


def cache_folder() -> Path:
    """The folder of downloads: srup's own, shared with no other program."""
    from platformdirs import user_cache_path

    return user_cache_path("srup")


def is_offline() -> bool:
    """Whether the environment forbids the network, in the hub's own words (``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def digest_of(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    refusals = []
    progress = progress or _nobody
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists() and (found := digest_of(target)) == (sha256 or found):
                return found
            for source in sources:
                try:
                    return _fetch_from(source, target, sha256, size, progress)
                except _RefusedError as error:
                    refusals.append(f"{source} ({error})")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    raise UserError(f"could not fetch {target.name} from {'; nor from '.join(refusals)}")


def _nobody(done: int, total: int) -> None:
    """Where nobody asked for progress."""


def _fetch_from(source: Source, target: Path, sha256: str | None, size: int | None, progress: Progress) -> str:
    staging = target.with_name(target.name + ".hub")
    part = target.with_name(target.name + ".part")
    try:
        if isinstance(source, HubFile):
            part = _from_hub(source, staging, size, progress)
        else:
            _from_web(source.url, part, size, progress)
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
    raise _RefusedError(f"{problem}; it was removed")


def _from_hub(source: HubFile, folder: Path, size: int | None, progress: Progress) -> Path:
    """Download into an empty folder of its own, past the cache that the hub's programs share."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # Which HTTP library it is has changed twice; the base class of its errors has it.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        revision = _whole_revision(source, endpoint)
        address = hf_hub_url(source.repo, source.file, revision=revision, endpoint=endpoint)
        found = get_hf_file_metadata(address, endpoint=endpoint)
        if size is not None and found.size not in (None, size):
            raise _RefusedError(f"its file has {found.size} bytes instead of {size}")
        path = hf_hub_download(
            source.repo,
            source.file,
            revision=found.commit_hash or revision,
            cache_dir=folder / "cache",
            local_dir=folder,
            endpoint=endpoint,
            tqdm_class=_reporting_bar(progress, found.size or 0),
        )
    except GatedRepoError:
        raise _RefusedError("accept its terms on its hub page, then log in with 'hf auth login'") from None
    except RepositoryNotFoundError:
        raise _RefusedError("no such repository, or a private one: then log in with 'hf auth login'") from None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise _RefusedError(_hub_reason(error)) from error
    except (network_error, ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise _RefusedError(_broken(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the disk, not of the network
            raise
        raise _RefusedError(_broken(error)) from error
    return Path(path)


def _hub_reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None:
        return "the hub cannot be reached; check the network and try again"
    if response.status_code == 404:
        return "no such file or revision"
    return f"the hub answered {response.status_code}; try again later"


def _whole_revision(source: HubFile, endpoint: str | None) -> str:
    """The hub takes branches, tags and whole commit hashes; a short one is looked up in the history."""
    if not re.fullmatch(r"[0-9a-f]{7,39}", source.revision):
        return source.revision
    from huggingface_hub import HfApi

    commits = (commit.commit_id for commit in HfApi(endpoint=endpoint).list_repo_commits(source.repo))
    return next((commit for commit in commits if commit.startswith(source.revision)), source.revision)


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


def _from_web(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Download to ``part``, going on where an earlier try stopped."""
    from http.client import HTTPException
    from urllib.error import URLError

    problem = ""
    for _ in range(_ATTEMPTS):
        done = part.stat().st_size if part.exists() else 0
        if done and done == size:
            return
        if size is not None and done > size:
            part.unlink()
            done = 0
        try:
            with _opened(url, done) as response:
                total = _receive(response, part, done, size, progress)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            problem = _broken(error)
            continue
        received = part.stat().st_size
        if not total or received == total:
            return
        problem = f"the connection broke after {received} of {total} bytes; run it again to go on from there"
    raise _RefusedError(problem)


def _receive(response: HTTPResponse, part: Path, done: int, size: int | None, progress: Progress) -> int:
    """Write an answer behind the ``done`` bytes that are there; return the bytes in all, 0 where not told."""
    resumed = response.status == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        part.unlink()
        raise _RefusedError("it sent another piece of the file than asked for; try again")
    done = done if resumed else 0
    length = int(response.headers.get("Content-Length") or 0)
    total = done + length if length else size or 0
    if response.headers.get_content_type() == "text/html":
        raise _RefusedError("it sent a web page instead of the file")
    if size is not None and total != size:
        part.unlink(missing_ok=True)
        raise _RefusedError(f"its file has {total} bytes instead of {size}")
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if total and done > total:
                raise _RefusedError(f"it sends more than {total} bytes")
            file.write(chunk)
            progress(done, total)
    return total


def _opened(url: str, start: int) -> HTTPResponse:
    """The answer of a web server, from byte ``start`` on where it can."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class SafeRedirects(HTTPRedirectHandler):
        def redirect_request(
            self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> Request | None:
            _check_address(newurl)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    _check_address(url)
    request = Request(url, headers={"User-Agent": f"srup/{__version__}"})  # noqa: S310 - checked above
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: HTTPResponse = build_opener(SafeRedirects).open(request, timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            reason = "no such file" if error.code == 404 else f"the server answered {error.code}; try again later"
            raise _RefusedError(reason) from None
    return response


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise _RefusedError(f"{parts.scheme}://{parts.hostname or ''} is not safe; only https is used")


def _broken(error: Exception) -> str:
    reason = str(getattr(error, "reason", error)).strip() or type(error).__name__
    return f"the connection failed, {reason.splitlines()[0]}; check the network and try again"
