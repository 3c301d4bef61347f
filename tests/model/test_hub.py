"""Downloads against a server on this machine: what is cut off, wrong, missing or forbidden."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from upscaler.errors import UserError
from upscaler.model import hub, web
from upscaler.model.hub import HubFile, WebFile, fetch

DATA = bytes(range(256)) * 4096  # 1 MiB, several chunks
DIGEST = hashlib.sha256(DATA).hexdigest()
COMMIT = "bc7c483" + "0" * 33
REPO = "someone/weights"


@dataclass
class Site:
    """What the server has and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    cuts: int = 0
    """Answers still to break off half-way."""
    ranges: bool = True
    shift: int = 0
    """How far partial answers are wrong."""
    status: int = 0
    """Answered instead of everything else."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of every request."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        site, asked = self.site, self.headers.get("Range", "")
        site.requests.append((self.command, self.path, asked))
        if self.path in site.redirects:
            self._headers(302, b"", {"Location": site.redirects[self.path]})
            return
        data = site.files.get(self.path)
        if site.status or data is None:
            missing = "RepoNotFound" if f"/{REPO}/" not in self.path else "EntryNotFound"
            self._headers(site.status or 404, b"", {"X-Error-Code": missing})
            return
        start = int(asked[len("bytes=") :].rstrip("-")) if asked and site.ranges else 0
        extra = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if start:
            extra["Content-Range"] = f"bytes {start + site.shift}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        self._headers(206 if start else 200, body, extra)
        if with_body and site.cuts:
            site.cuts -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        if with_body:
            with suppress(ConnectionError):  # the other side has read enough
                self.wfile.write(body)

    def _headers(self, status: int, body: bytes, extra: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": self.site.content_type, **extra}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The hub's library reads its environment once, whenever it was imported first.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "shared"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "net.pth"


def _left(target: Path) -> list[str]:
    """What lies in the folder apart from the lock."""
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def _refusal(target: Path, source: hub.Source, *, size: int | None = len(DATA), sha256: str | None = DIGEST) -> str:
    with pytest.raises(UserError) as caught:
        fetch(target, [source], sha256=sha256, size=size)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_web_download_reports_its_progress(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    seen: list[tuple[int, int]] = []
    digest = fetch(
        target,
        [WebFile(f"{site.url}/net.pth")],
        sha256=DIGEST,
        size=len(DATA),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert digest == DIGEST
    assert target.read_bytes() == DATA
    assert _left(target) == ["net.pth"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(DATA), len(DATA))


def test_web_download_goes_on_after_a_cut(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    site.cuts = 2
    fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA))
    assert target.read_bytes() == DATA
    half, rest = len(DATA) // 2, len(DATA) * 3 // 4
    assert [asked for _, _, asked in site.requests] == ["", f"bytes={half}-", f"bytes={rest}-"]


def test_web_download_goes_on_in_a_later_call(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    site.cuts = 3
    assert "run it again to go on" in _refusal(target, WebFile(f"{site.url}/net.pth"))
    assert _left(target) == ["net.pth.part"]
    fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA))
    assert site.requests[-1][2] == f"bytes={len(DATA) * 7 // 8}-"
    assert target.read_bytes() == DATA


def test_server_that_knows_no_ranges_sends_it_all_again(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    site.cuts, site.ranges = 1, False
    assert fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA)) == DIGEST


def test_part_that_is_whole_or_too_long_already(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    part = target.with_name("net.pth.part")
    target.parent.mkdir()
    part.write_bytes(DATA)
    assert fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA)) == DIGEST
    assert site.requests == []
    target.unlink()
    part.write_bytes(DATA + b"more")
    assert fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA)) == DIGEST


def test_wrong_piece_is_refused(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    site.cuts, site.shift = 1, 1
    assert "another piece" in _refusal(target, WebFile(f"{site.url}/net.pth"))
    assert _left(target) == []


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_another_file_of_the_same_size_is_refused_and_removed(site: Site, target: Path, kind: str) -> None:
    source = _put(site, kind, bytes(len(DATA)))
    message = _refusal(target, source)
    assert f"instead of {DIGEST[:12]}" in message
    assert "removed" in message
    assert _left(target) == []


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_another_size_is_refused_before_the_download(site: Site, target: Path, kind: str) -> None:
    source = _put(site, kind, DATA + b"more")
    assert f"{len(DATA) + 4} bytes instead of {len(DATA)}" in _refusal(target, source)
    assert _left(target) == []


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_web_page_is_refused(site: Site, target: Path, kind: str) -> None:
    source = _put(site, kind, b"<html>Please log in</html>")
    assert "web page" in _refusal(target, source, size=None, sha256=None)
    site.content_type = "text/html"
    assert "web page" in _refusal(target, source, size=None, sha256=None)
    assert _left(target) == []


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_file_that_is_not_there(site: Site, target: Path, kind: str) -> None:
    source = _put(site, kind, DATA)
    site.files.clear()
    assert "no such file" in _refusal(target, source)


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_server_in_trouble(site: Site, target: Path, kind: str) -> None:
    source = _put(site, kind, DATA)
    site.status = 403
    assert "answered 403; try again later" in _refusal(target, source)


def _put(site: Site, kind: str, data: bytes) -> hub.Source:
    if kind == "web":
        site.files["/net.pth"] = data
        return WebFile(f"{site.url}/net.pth")
    for revision in ("main", COMMIT):
        site.files[f"/{REPO}/resolve/{revision}/folder/net.pth"] = data
    return HubFile(REPO, "folder/net.pth")


def test_hub_download_uses_no_shared_cache(site: Site, target: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = _put(site, "hub", DATA)
    fetch(target, [source], sha256=DIGEST, size=len(DATA), progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == DATA
    assert _left(target) == ["net.pth"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert not (tmp_path / "shared").exists()


def test_hub_download_goes_on_after_a_cut(site: Site, target: Path) -> None:
    source = _put(site, "hub", DATA)
    site.cuts = 1
    assert fetch(target, [source], sha256=DIGEST, size=len(DATA)) == DIGEST
    assert [method for method, _, _ in site.requests].count("GET") == 2


def test_short_revision_is_looked_up(site: Site, target: Path) -> None:
    _put(site, "hub", DATA)
    del site.files[f"/{REPO}/resolve/main/folder/net.pth"]
    commit = '{"id": "%s", "title": "", "message": "", "date": "2024-01-01T00:00:00.000Z", "authors": []}'
    site.files[f"/api/models/{REPO}/commits/main"] = f"[{commit % ('f' * 40)}, {commit % COMMIT}]".encode()
    fetch(target, [HubFile(REPO, "folder/net.pth", "bc7c483")], sha256=DIGEST, size=len(DATA))
    assert target.read_bytes() == DATA
    target.unlink()
    assert "no such file or revision" in _refusal(target, HubFile(REPO, "folder/net.pth", "abcdef0"))


def test_repository_that_is_not_there(site: Site, target: Path) -> None:
    assert "no such repository" in _refusal(target, HubFile("nobody/nothing", "net.pth"))
    assert site.requests


def test_next_source_is_asked_when_the_first_has_another_file(site: Site, target: Path) -> None:
    wrong, right = _put(site, "hub", bytes(len(DATA))), _put(site, "web", DATA)
    assert fetch(target, [wrong, right], sha256=DIGEST, size=len(DATA)) == DIGEST


def test_all_sources_are_named_when_none_has_it(site: Site, target: Path) -> None:
    wrong, missing = _put(site, "hub", bytes(len(DATA))), WebFile(f"{site.url}/none.pth")
    with pytest.raises(UserError) as caught:
        fetch(target, [wrong, missing], sha256=DIGEST, size=len(DATA))
    assert f"from {wrong} (" in str(caught.value)
    assert f"nor from {missing} (no such file)" in str(caught.value)


def test_a_reason_of_all_sources_is_told_once(site: Site, target: Path) -> None:
    first, second = WebFile(f"{site.url}/none.pth"), WebFile(f"{site.url}/nowhere.pth")
    with pytest.raises(UserError) as caught:
        fetch(target, [first, second], sha256=DIGEST, size=len(DATA))
    assert str(caught.value) == f"could not fetch net.pth from {first} or {second} (no such file)"


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_says_what_to_do(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    message = _refusal(target, WebFile(f"{site.url}/net.pth"))
    assert "not in the cache" in message
    assert "HF_HUB_OFFLINE" in message
    assert site.requests == []


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_no_network(target: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    source = WebFile(f"{nowhere}/net.pth") if kind == "web" else HubFile(REPO, "net.pth")
    assert "check the network and try again" in _refusal(target, source)


@pytest.mark.parametrize("url", ["http://example.com/net.pth", "file:///etc/passwd", "ftp://127.0.0.1/net.pth"])
def test_only_https_is_used(site: Site, target: Path, url: str) -> None:
    assert "only https is used" in _refusal(target, WebFile(url))
    site.redirects["/net.pth"] = url
    _refusal(target, WebFile(f"{site.url}/net.pth"))
    assert len(site.requests) == 1


def test_redirects_are_followed(site: Site, target: Path) -> None:
    site.files["/elsewhere"] = DATA
    site.redirects["/net.pth"] = f"{site.url}/elsewhere"
    assert fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA)) == DIGEST


def test_of_several_that_want_a_file_one_downloads_it(site: Site, target: Path) -> None:
    site.files["/net.pth"] = DATA
    digests: list[str] = []

    def want() -> None:
        digests.append(fetch(target, [WebFile(f"{site.url}/net.pth")], sha256=DIGEST, size=len(DATA)))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [DIGEST] * 4
    assert len(site.requests) == 1


def test_place_that_cannot_be_written(site: Site, target: Path) -> None:
    target.parent.write_text("no folder")
    assert "cannot write" in _refusal(target, WebFile(f"{site.url}/net.pth"))


def test_disk_that_is_full(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/net.pth"] = DATA

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(web, "_receive", full)
    assert "No space left on device" in _refusal(target, WebFile(f"{site.url}/net.pth"))


def test_cache_is_this_programs_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "srup" in hub.cache_folder().parts


def test_sources_are_written_as_they_are_typed() -> None:
    assert str(HubFile("a/b", "c.pth")) == "hf:a/b/c.pth"
    assert str(HubFile("a/b", "c.pth", "v1")) == "hf:a/b/c.pth@v1"
