"""Files of weights: what is written comes back, and what is hostile or broken is refused in one line."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import build_network, load_weights, save_weights

Tensors = dict[str, Tensor]


def _tiny() -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(blocks=2, features=8, growth=4).eval()


def _torch_bytes(checkpoint: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(checkpoint, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def _refusal(path: Path) -> str:
    """The one line of a refusal, without the path."""
    with pytest.raises(UserError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message.replace(str(path), "")


def _written(folder: Path, data: bytes, name: str = "net.pth") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_saved_weights_come_back(tmp_path: Path) -> None:
    network = _tiny()
    path = tmp_path / "new" / "net.safetensors"
    digest = save_weights(path, "rrdbnet", network.settings(), network.state_dict(), {"licence": "CC0-1.0"})
    weights = load_weights(path)
    assert digest == weights.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.metadata["licence"] == "CC0-1.0"
    assert weights.metadata["scale"] == "4"
    again = build_network(weights)
    x = torch.rand(1, 3, 6, 5)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


def test_saving_is_deterministic_and_leaves_nothing_else(tmp_path: Path) -> None:
    network = Compact(features=4, convolutions=1)
    metadata = {name: name for name in "hgfedcba"}
    backwards = dict(reversed(network.state_dict().items()))
    first = save_weights(tmp_path / "a", "compact", network.settings(), network.state_dict(), metadata)
    second = save_weights(tmp_path / "b", "compact", network.settings(), backwards, dict(reversed(metadata.items())))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_settings_left_out_are_the_defaults(tmp_path: Path) -> None:
    network = Compact(features=4, convolutions=1)
    save_weights(tmp_path / "a", "compact", {"features": 4, "convolutions": 1}, network.state_dict())
    assert load_weights(tmp_path / "a").settings == network.settings()


def test_tensors_that_are_not_the_network_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        save_weights(tmp_path / "a", "rrdbnet", _tiny().settings(), {})
    assert not list(tmp_path.iterdir())


def test_failure_to_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written(tmp_path, b"old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        save_weights(path, "rrdbnet", _tiny().settings(), _tiny().state_dict())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_a_folder_is_neither_read_nor_written(tmp_path: Path) -> None:
    assert "s a directory" in _refusal(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        save_weights(tmp_path, "rrdbnet", _tiny().settings(), _tiny().state_dict())


def _nested(tensors: Tensors) -> dict[str, Any]:
    return {"epoch": 3, "model": {"state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()}}}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda tensors: {"params_ema": tensors, "params": {key: tensor * 0 for key, tensor in tensors.items()}},
        lambda tensors: {"params": tensors, "iteration": 5},
        lambda tensors: {"state_dict": tensors},
        lambda tensors: {"model": tensors, "params": {"lr": 0.1}},
        _nested,
        lambda tensors: tensors | {"iteration": 5},
    ],
    ids=["bare", "params_ema", "params", "state_dict", "model", "nested", "bare with a number"],
)
def test_wrappers_of_checkpoints(tmp_path: Path, wrap: Callable[[Tensors], Any], legacy: bool) -> None:
    network = _tiny()
    weights = load_weights(_written(tmp_path, _torch_bytes(wrap(network.state_dict()), legacy=legacy)))
    assert weights.settings == network.settings()
    assert all(torch.equal(weights.tensors[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_every_precision_becomes_fp32(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in _tiny().state_dict().items()}
    data = save(tensors) if name.endswith("safetensors") else _torch_bytes(tensors)
    weights = load_weights(_written(tmp_path, data, name))
    assert all(tensor.dtype == torch.float32 for tensor in weights.tensors.values())
    assert all(torch.equal(weights.tensors[key], tensor.float()) for key, tensor in tensors.items())


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = _written(tmp_path, save(_tiny().state_dict()), "net.safetensors")
    weights = load_weights(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(weights.tensors[key], tensor) for key, tensor in _tiny().state_dict().items())


@pytest.mark.parametrize("length", [0x80, 0x3C, 0x3C20, 0x200A, 0x4B50])
def test_safetensors_are_known_whatever_their_header_length_looks_like(tmp_path: Path, length: int) -> None:
    network = Compact(features=1, convolutions=0, channels=1, scale=1)
    data = save(network.state_dict())
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    length += -(-max(len(header) - length, 0) // 256) * 256
    path = _written(tmp_path, length.to_bytes(8, "little") + header.ljust(length) + body, "net.safetensors")
    assert load_weights(path).settings == network.settings()


def test_ncnn_pair_is_found_by_either_file(tmp_path: Path) -> None:
    network = Compact(features=3, convolutions=0, scale=1, activation="relu")
    lines = ["Input data 0 1 data"]
    binary = b""
    for layer, activation in (("body.0", " 9=1"), ("body.2", "")):
        tensors = network.get_submodule(layer).state_dict()
        lines.append(f"Convolution c{len(lines)} 1 1 a b 0=3 1=3 4=1 5=1 6=81{activation}")
        binary += b"\0\0\0\0" + tensors["weight"].numpy().tobytes() + tensors["bias"].numpy().tobytes()
    param = _written(tmp_path, "\n".join(["7767517", "3 3", *lines]).encode(), "net.param")
    assert "net.bin must lie beside it" in _refusal(param)
    numbers = _written(tmp_path, binary, "net.bin")
    first, second = load_weights(param), load_weights(numbers)
    assert first.digest == second.digest == hashlib.sha256(param.read_bytes() + binary).hexdigest()
    assert first.settings == second.settings
    assert first.settings["activation"] == "relu"
    param.unlink()
    assert "net.param must lie beside it" in _refusal(numbers)


class _Harmful:
    """Unpickling this runs code."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], Any]:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec], ids=["system", "eval", "exec"])
@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 2", "protocol 4", "protocol 5"])
def test_code_is_refused_and_not_run(tmp_path: Path, form: str, function: Callable[..., Any]) -> None:
    proof = tmp_path / "ran"
    command = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w').close()"
    checkpoint = {"params": _Harmful(function, command)}
    if form.startswith("protocol"):
        data = pickle.dumps(checkpoint, protocol=int(form[-1]))
    else:
        data = _torch_bytes(checkpoint, legacy=form == "legacy")
    message = _refusal(_written(tmp_path, data))
    assert "contains code" in message
    assert "was refused" in message
    assert function.__name__ in message
    assert not proof.exists()
    pickle.loads(pickle.dumps(checkpoint))
    assert proof.exists(), "the test itself must be able to do harm"


def test_damaged_pickle_is_refused(tmp_path: Path) -> None:
    data = _torch_bytes({"params": Compact(features=1, convolutions=0, scale=1).state_dict()})
    position = data.index(b"ctorch")
    assert "damaged" in _refusal(_written(tmp_path, data[:position] + b"\xff" + data[position + 1 :]))


def test_torchscript_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/net.py"):
            archive.writestr(name, b"")
    assert "contains code" in _refusal(_written(tmp_path, stream.getvalue()))


def test_archive_that_could_unpack_to_anything_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(_torch_bytes(_tiny().state_dict()))) as source,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert "compressed archive" in _refusal(_written(tmp_path, stream.getvalue()))


@pytest.mark.parametrize("content", [b"", b"readme.txt"], ids=["empty", "text"])
def test_other_archives_are_refused(tmp_path: Path, content: bytes) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if content:
            archive.writestr(content.decode(), content)
    assert "unpack it first" in _refusal(_written(tmp_path, stream.getvalue(), "net.zip"))


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_cut_files_are_refused(tmp_path: Path, form: str) -> None:
    tensors = Compact(features=1, convolutions=0, channels=1, scale=1).state_dict()
    data = save(tensors) if form == "safetensors" else _torch_bytes(tensors, legacy=form == "legacy")
    path = tmp_path / f"net.{'safetensors' if form == 'safetensors' else 'pth'}"
    assert load_weights(_written(tmp_path, data, path.name)).architecture == "compact"
    for length in [*range(1, 64), *range(64, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        message = _refusal(path)
        known = length >= {"safetensors": 9, "zip": 4, "legacy": 1}[form]
        assert ("damaged or cut off" if known else "neither safetensors nor") in message, (length, message)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:65f\nsize 66929193\n", "git-lfs"),
        (b"\x89PNG\r\n\x1a\n", "neither safetensors nor a PyTorch file nor ncnn"),
        (b"cos\nsystem\n(S'true'\ntR.", "neither safetensors nor a PyTorch file nor ncnn"),
        (b"\x80\x02.", "damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "its header would be 9223372036854775807 bytes"),
        (struct.pack("<Q", 4_000_000_000) + b"{}", "damaged or cut off"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.bin"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, data: bytes, complaint: str, name: str) -> None:
    if name == "net.bin":
        complaint = complaint.replace("neither safetensors nor a PyTorch file nor ncnn", "net.param must lie beside it")
    assert complaint in _refusal(_written(tmp_path, data, name))


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "none.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickle_called_safetensors_is_refused(tmp_path: Path, legacy: bool) -> None:
    data = _torch_bytes(_tiny().state_dict(), legacy=legacy)
    assert "only called .safetensors" in _refusal(_written(tmp_path, data, "net.safetensors"))


def test_safetensors_by_another_name_are_read(tmp_path: Path) -> None:
    assert load_weights(_written(tmp_path, save(_tiny().state_dict()), "net.pth")).architecture == "rrdbnet"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    tensors = {key: tensor.double() for key, tensor in _tiny().state_dict().items()}
    tensors["conv_hr.bias"][3] = value
    assert "conv_hr.bias has values that are not finite" in _refusal(_written(tmp_path, _torch_bytes(tensors)))


def _safetensors(header: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "shape", [[2**62, 2**62], [10**9, 10**9], [-1, 4], [10**30]], ids=["overflow", "huge", "negative", "beyond 64 bits"]
)
def test_absurd_shapes_in_safetensors_are_refused(tmp_path: Path, shape: list[int]) -> None:
    header = {"conv_first.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}}
    assert "damaged or cut off" in _refusal(_written(tmp_path, _safetensors(header, bytes(16))))


def test_empty_tensors_are_refused(tmp_path: Path) -> None:
    header = {"body.0.weight": {"dtype": "F32", "shape": [10**15, 0, 3, 3], "data_offsets": [0, 0]}}
    assert "claims the shape" in _refusal(_written(tmp_path, _safetensors(header)))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_small_storage_stretched_to_a_huge_tensor_is_refused(tmp_path: Path, legacy: bool) -> None:
    tensors = _tiny().state_dict() | {"conv_first.weight": torch.zeros(1).expand(10**6, 10**6, 3, 3)}
    assert "claim more than the file holds" in _refusal(_written(tmp_path, _torch_bytes(tensors, legacy=legacy)))


def test_one_storage_under_many_names_is_refused(tmp_path: Path) -> None:
    network = Compact(features=32, convolutions=30)
    tensors = network.state_dict()
    shared = tensors["body.2.weight"]
    tensors |= {key: shared for key, tensor in tensors.items() if tensor.shape == shared.shape}
    assert "claim more than the file holds" in _refusal(_written(tmp_path, _torch_bytes(tensors)))


def test_storages_that_the_file_leaves_out_are_refused(tmp_path: Path) -> None:
    data = _torch_bytes({"conv_first.weight": torch.zeros(50_000)}, legacy=True)
    stream = io.BytesIO(data)
    for _ in range(4):  # magic number, version, machine, tensors; then the keys of the storages, and these
        list(pickletools.genops(stream))
    hostile = data[: stream.tell()] + pickle.dumps([], 2)
    assert "claim more than the file holds" in _refusal(_written(tmp_path, hostile))


def test_parts_that_lie_on_each_other_are_refused(tmp_path: Path) -> None:
    data = _torch_bytes({f"{number}": torch.ones(5_000) * number for number in range(3)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            if not member.filename.endswith(("data/1", "data/2")):
                archive.writestr(member, zipfile.ZipFile(io.BytesIO(data)).read(member))
        (stored,) = (each for each in archive.filelist if each.filename.endswith("data/0"))
        for number in (1, 2):
            other = copy.copy(stored)
            other.filename = stored.filename[:-1] + str(number)
            archive.filelist.append(other)
    assert "its parts claim more than the file holds" in _refusal(path)


@pytest.mark.parametrize("kind", ["int8", "complex", "float4", "sparse", "meta"])
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    tensor = torch.ones(8)
    other = {
        "int8": tensor.to(torch.int8),
        "complex": tensor.to(torch.complex64),
        "float4": tensor.to(torch.uint8).view(torch.float4_e2m1fn_x2),
        "sparse": tensor.to_sparse(),
        "meta": tensor.to("meta"),
    }[kind]
    tensors = _tiny().state_dict() | {"conv_hr.bias": other}
    assert "conv_hr.bias is no plain tensor" in _refusal(_written(tmp_path, _torch_bytes(tensors)))


@pytest.mark.parametrize("checkpoint", [{}, [1, 2], torch.zeros(3), {"params": {}}, {"params": 3, 5: torch.zeros(1)}])
def test_checkpoints_without_weights_are_refused(tmp_path: Path, checkpoint: object) -> None:
    assert "there are no weights in it" in _refusal(_written(tmp_path, _torch_bytes(checkpoint)))


def test_checkpoint_within_itself_is_refused(tmp_path: Path) -> None:
    checkpoint: dict[str, Any] = {}
    checkpoint["params"] = checkpoint
    assert "damaged" in _refusal(_written(tmp_path, _torch_bytes(checkpoint)))


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    message = _refusal(_written(tmp_path, save({"layers.0.attn": torch.zeros(4)}), "net.safetensors"))
    assert "no network known to srup; its keys are such as layers.0.attn" in message
