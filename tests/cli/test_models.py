"""`srup models` as it is typed, but for the network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from upscaler.cli.models import app
from upscaler.errors import UserError
from upscaler.model import catalogue, hub
from upscaler.model.catalogue import Entry
from upscaler.model.compact import Compact
from upscaler.model.hub import HubFile
from upscaler.model.weights import save_weights


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(catalogue, "_PACKAGE", "a_package_that_nobody_has")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def _own_file(folder: Path) -> tuple[Path, str]:
    torch.manual_seed(0)
    network = Compact(features=4, convolutions=1, scale=2)
    path = folder / "own.safetensors"
    return path, save_weights(path, "compact", network.settings(), network.state_dict(), {"licence": "CC0-1.0"})


def test_list_names_every_model_within_80_columns() -> None:
    result = _run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * len(catalogue.CATALOGUE)
    assert all(len(line) <= 80 for line in lines)
    for entry in catalogue.CATALOGUE:
        assert f"\n{entry.name} " in f"\n{result.stdout}"
    assert "the default" in lines[1]
    assert lines[0].split()[1:] == ["x4", "bundled", "Apache-2.0"]


def test_list_as_json() -> None:
    result = _run("list", "--json")
    events = _events(result)
    assert [event["name"] for event in events] == [entry.name for entry in catalogue.CATALOGUE]
    assert {event["event"] for event in events} == {"model"}
    assert (events[2]["place"], events[2]["pair"], events[2]["bytes"]) == ("download", "esrgan-psnr", 66_929_193)
    assert "the original ESRGAN" in result.stderr


def test_list_imports_no_torch() -> None:
    program = (
        "import sys; from upscaler.cli.models import app; app(['list'], standalone_mode=False); print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "huggingface_hub", "numpy"} & set(modules)


def test_show_of_a_bundled_model_tells_what_is_in_it() -> None:
    (event,) = _events(_run("show", "photo", "--json"))
    assert (event["architecture"], event["place"], event["pair"]) == ("compact", "bundled", "photo-psnr")
    assert event["parameters"] > 0
    assert event["settings"]["scale"] == event["scale"] == 4
    assert event["digest"] == hashlib.sha256(Path(event["path"]).read_bytes()).hexdigest()


def test_show_of_a_file(tmp_path: Path) -> None:
    path, digest = _own_file(tmp_path)
    result = _run("show", str(path))
    assert result.exit_code == 0
    for line in ("architecture: compact", "scale: 2", "    features: 4", "    licence: CC0-1.0", f"digest: {digest}"):
        assert line in result.stdout.splitlines()


def test_show_of_a_model_that_is_elsewhere_downloads_nothing() -> None:
    result = _run("show", "realesrgan-ANIME")
    assert result.exit_code == 0
    assert "bytes: 17,938,799" in result.stdout
    assert "place: download" in result.stdout
    assert "settings" not in result.stdout


def test_show_of_an_unknown_model_is_for_main_to_tell() -> None:
    result = _run("show", "esrgen")
    assert isinstance(result.exception, UserError)
    assert "did you mean esrgan" in str(result.exception)


def test_fetch_goes_on_after_a_failure_and_says_so() -> None:
    result = _run("fetch", "esrgan", "photo", "--json")
    assert result.exit_code == 1
    failed, fetched = _events(result)
    assert (failed["event"], failed["name"]) == ("error", "esrgan")
    assert "not in the cache" in failed["message"]
    assert (fetched["event"], fetched["name"], fetched["place"]) == ("fetched", "photo", "bundled")


@pytest.mark.parametrize("name", ["own", "hf:a/b/own.safetensors"])
def test_fetch_shows_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, digest = _own_file(tmp_path)
    size = path.stat().st_size

    def fetch(target: Path, *_: object, progress: Any, **__: object) -> str:
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
        progress(size, size)
        return digest

    source = HubFile("a/b", "own.safetensors")
    entry = Entry("own", "", "compact", 2, "CC0-1.0", "own.safetensors", size, digest, sources=(source,))
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    monkeypatch.setattr(hub, "fetch", fetch)
    result = _run("fetch", name)
    assert result.exit_code == 0
    assert result.stdout == f"{name}: {catalogue.resolve(name).path}\n"
    assert ("not pinned" in result.stderr) == name.startswith("hf:")


def test_fetch_without_names_is_a_wrong_command_line() -> None:
    assert _run("fetch").exit_code == 2
