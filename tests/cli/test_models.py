"""`srup models` as it is typed, but for the network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

from upscaler.cli.models import app
from upscaler.errors import UserError
from upscaler.model import catalogue, hub
from upscaler.model.catalogue import Entry
from upscaler.model.compact import Compact
from upscaler.model.hub import HubFile
from upscaler.model.weights import load_weights, save_weights


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
    assert (event["architecture"], event["place"], event["pair"]) == ("residual", "bundled", "photo-psnr")
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


@pytest.mark.parametrize(
    ("to", "suffixes", "runtime"),
    [("onnx", [".onnx"], "onnxruntime"), ("ncnn", [".param", ".bin"], "ncnn"), ("pth", [".pth"], "torch")],
)
def test_export_writes_files_and_runs_them(tmp_path: Path, to: str, suffixes: list[str], runtime: str) -> None:
    path, _ = _own_file(tmp_path)
    result = _run("export", str(path), "--to", to, "-o", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0
    (event,) = _events(result)
    files = [tmp_path / "out" / f"own-x2{suffix}" for suffix in suffixes]
    assert event["files"] == [str(file) for file in files]
    assert (event["event"], event["to"], event["runtime"]) == ("exported", to, runtime)
    assert 0 <= event["difference"] < 1e-5
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    assert f"{runtime} gives the same pictures" in result.stderr


def test_export_tells_in_onnx_where_a_model_is_from(tmp_path: Path) -> None:
    path, digest = _own_file(tmp_path)
    assert _run("export", str(path), "--to", "onnx", "-o", str(tmp_path)).exit_code == 0
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "own-x2.onnx").metadata_props}
    assert (told["architecture"], told["scale"], told["licence"]) == ("compact", "2", "CC0-1.0")
    assert (told["digest"], told["name"]) == (digest, "own.safetensors")
    assert json.loads(told["settings"])["features"] == 4


def test_export_of_the_bundled_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("export", "PHOTO", "--to", "onnx")
    assert result.stdout == "photo-x4.onnx\n"
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "photo-x4.onnx").metadata_props}
    assert (told["architecture"], told["scale"], told["name"]) == ("residual", "4", "photo")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a-x2", "a-x2"), ("2x_a", "2x_a"), ("RealX2Plus", "RealX2Plus"), ("a-x4", "a-x4-x2"), ("a-32x24", "a-32x24-x2")],
)
def test_export_names_the_scale_once(tmp_path: Path, name: str, stem: str) -> None:
    path = _own_file(tmp_path)[0].rename(tmp_path / f"{name}.safetensors")
    assert _run("export", str(path), "--to", "pth", "-o", str(tmp_path)).stdout == f"{tmp_path / stem}.pth\n"


def test_export_in_16_bits_is_half_as_large(tmp_path: Path) -> None:
    path, _ = _own_file(tmp_path)
    for folder, more in (("whole", []), ("half", ["--fp16"])):
        assert _run("export", str(path), "--to", "ncnn", "-o", str(tmp_path / folder), *more).exit_code == 0
    whole, half = ((tmp_path / folder / "own-x2.bin").stat().st_size for folder in ("whole", "half"))
    weights = sum(tensor.numel() for tensor in load_weights(path).tensors.values() if tensor.dim() == 4)
    assert whole - half == 2 * weights


def test_export_without_a_runtime_says_that_nothing_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = _own_file(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ncnn" else find_spec(name))
    result = _run("export", str(path), "--to", "ncnn", "-o", str(tmp_path), "--json")
    assert result.exit_code == 0
    assert _events(result)[0]["runtime"] is None
    assert "not checked" in result.stderr
    assert "pip install ncnn" in result.stderr


def test_export_replaces_nothing_unless_asked(tmp_path: Path) -> None:
    path, _ = _own_file(tmp_path)
    there = tmp_path / "own-x2.bin"
    there.write_bytes(b"before")
    arguments = ("export", str(path), "--to", "ncnn", "-o", str(tmp_path))
    result = _run(*arguments)
    assert isinstance(result.exception, UserError)
    assert "use --overwrite" in str(result.exception)
    assert there.read_bytes() == b"before"
    assert not there.with_suffix(".param").exists()
    assert _run(*arguments, "--overwrite").exit_code == 0
    assert load_weights(there).settings == load_weights(path).settings


def test_export_never_replaces_the_model_itself(tmp_path: Path) -> None:
    path, _ = _own_file(tmp_path)
    assert _run("export", str(path), "--to", "ncnn", "-o", str(tmp_path)).exit_code == 0
    pair = tmp_path / "own-x2.bin"
    before = pair.read_bytes()
    result = _run("export", str(pair), "--to", "ncnn", "--fp16", "-o", str(tmp_path), "--overwrite")
    assert isinstance(result.exception, UserError)
    assert "is the model itself" in str(result.exception)
    assert pair.read_bytes() == before


@pytest.mark.parametrize("arguments", [("--to", "onnx", "--fp16"), ("--to", "tflite"), ()])
def test_export_of_what_there_is_not_is_a_wrong_command_line(arguments: tuple[str, ...]) -> None:
    assert _run("export", "photo", *arguments).exit_code == 2
