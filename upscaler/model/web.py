"""One file over https, going on where an earlier try stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upscaler import __version__

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse

Progress = Callable[[int, int], None]
"""Told of (bytes done, bytes in all); the latter is 0 while unknown."""

_ATTEMPTS = 3
_TIMEOUT = 30.0
_CHUNK = 2**18
_LOCAL = ("localhost", "127.0.0.1", "::1")


class RefusedError(Exception):
    """Why one source did not give a file, as half a sentence."""


def download(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Download to ``part``, behind the bytes that it has already.

    Args:
        url: https; http only of this machine.
        part: grows while bytes come in, and stays when they stop.
        size: bytes that the file must have; None takes any number.
        progress: called now and then.

    Raises:
        RefusedError: the server did not give a file of this size.
        OSError: the disk did not take it.
    """
    from http.client import HTTPException
    from ssl import SSLError
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
        except (URLError, HTTPException, SSLError, ConnectionError, TimeoutError) as error:
            problem = broken(error)
            continue
        received = part.stat().st_size
        if not total or received == total:
            return
        problem = f"the connection broke after {received} of {total} bytes; run it again to go on from there"
    raise RefusedError(problem)


def _receive(response: HTTPResponse, part: Path, done: int, size: int | None, progress: Progress) -> int:
    """Write an answer behind the ``done`` bytes that are there; return the bytes in all, 0 where not told."""
    resumed = response.status == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        part.unlink()
        raise RefusedError("it sent another piece of the file than asked for; try again")
    done = done if resumed else 0
    length = int(response.headers.get("Content-Length") or 0)
    total = done + length if length else size or 0
    if response.headers.get_content_type() == "text/html":
        raise RefusedError("it sent a web page instead of the file")
    if size is not None and total != size:
        part.unlink(missing_ok=True)
        raise RefusedError(f"its file has {total} bytes instead of {size}")
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if total and done > total:
                raise RefusedError(f"it sends more than {total} bytes")
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
            raise RefusedError(reason) from None
    return response


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise RefusedError(f"{parts.scheme}://{parts.hostname or ''} is not safe; only https is used")


def broken(error: Exception) -> str:
    """Half a sentence on an error of the network."""
    reason = str(getattr(error, "reason", error)).strip() or type(error).__name__
    return f"the connection failed, {reason.splitlines()[0]}; check the network and try again"
