from __future__ import annotations

import json
import sys
import time

import pytest

from upscaler.cli import console
from upscaler.cli.console import Console


def test_results_and_notices_go_to_their_streams(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result("result")
    console.notice("notice")
    console.warning("careful")
    console.error("two\nlines")
    console.event("nothing")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert err == "notice\nwarning: careful\nerror: two lines\n"


def test_what_others_wrote_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result("stage:\n\tgan \x1b[2K\x1b]0;title\x07 \x9b1A\r")
    console.error("cannot read caf\udce9.png, naïve 日本")
    out, err = capsys.readouterr()
    assert out == "stage:\n\tgan \\x1b[2K\\x1b]0;title\\x07 \\x9b1A\\r\n"
    assert err == "error: cannot read caf\\udce9.png, naïve 日本\n"


def test_json_has_stdout_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json=True)
    console.result("result")
    console.warning("careful", input="a.png")
    console.event("done", number=1)
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"event": "warning", "message": "careful", "input": "a.png"},
        {"event": "done", "number": 1},
    ]
    assert err == "result\nwarning: careful\n"


def test_progress_without_a_terminal_is_now_and_then_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 10)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Console().progress("fetching", 4_000_000, bytes_=True) as progress:
        now += 60  # of preparations, which are not work
        for step in range(5):
            progress.update(1_000_000 * step)
            now += 6
    assert capsys.readouterr().err == "fetching: 50%, 0.167 MB/s, 12.0 s left\n"


def test_progress_on_a_terminal_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Console().progress("working", 2) as progress:
        progress.update(1, "a.png", "3 MP/s")
        progress.update(2, "b.png")
    assert capsys.readouterr().out == ""
