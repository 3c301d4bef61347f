"""A file of weights -> architecture, settings and tensors; and back, as safetensors."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from upscaler import __version__
from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.model import layouts, ncnn
from upscaler.saving import whole_file

# Where a checkpoint keeps its weights, the ones to prefer first: an average before what was averaged.
_WRAPPERS = ("params_ema", "params", "state_dict", "model")
# A local file header and the end of an archive without any file.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Weights:
    """The weights of one network, with all that is known of where they are from.

    ``tensors`` are fp32 on the CPU under canonical keys and share no memory with the file;
    ``settings`` are all the arguments of the constructor; ``digest`` is the SHA-256 of the file, of an
    ncnn pair the ``.param`` followed by the ``.bin``.
    """

    architecture: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str


def load_weights(path: Path | str) -> Weights:
    """Read weights of every known form, told apart by content.

    Forms: safetensors; PyTorch files, through ``weights_only`` and never otherwise; ncnn, where either
    of the two files is given and the other lies beside it. The name matters once: a pickle that is
    called ``.safetensors`` pretends to be without code, and is refused.

    Raises:
        UserError: a file that cannot be read, is damaged, contains code or no network known here, or
            whose numbers are not all finite.
    """
    path = Path(path)
    try:
        tensors, metadata, digest = read_tensors(path)
        tensors = layouts.canonical(tensors)
        check_storage(tensors)
        architecture, settings = layouts.identify(tensors, metadata)
        return Weights(architecture, settings, as_float32(tensors), metadata, digest)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def save_weights(
    path: Path | str,
    architecture: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write weights as safetensors that describe themselves, and return the SHA-256 of the file.

    The file appears complete or not at all, and the same weights make the same bytes.

    Args:
        path: the file; its folder is made where it is missing.
        architecture: ``rrdbnet``, ``compact`` or ``residual``.
        settings: arguments of the network's constructor; those left out have its defaults.
        tensors: its ``state_dict``, on any device.
        metadata: what to tell of their origin. The keys in use are ``training`` (the recipe), ``stage``,
            ``data``, ``licence``, ``parents`` (the digest of what a training began with, or what ``blend``
            records), and for a blend of two ``alpha``. ``architecture``, ``settings``, ``scale`` and
            ``version`` are added here.

    Raises:
        ValueError: tensors that do not make this network.
        UserError: a place that cannot be written.
    """
    with torch.device("meta"):
        network = layouts.NETWORKS[architecture](**settings)
    layouts.check_shapes(network.state_dict(), tensors)
    described = dict(metadata or {}) | {
        "architecture": architecture,
        "settings": json.dumps(network.settings()),
        "scale": str(network.scale),
        "version": __version__,
    }
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    data = _sort_header(save(plain, metadata=described))
    with whole_file(Path(path)) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def build_network(weights: Weights) -> layouts.Built:
    """The network of these weights on the CPU: fp32, eval mode, without gradients, sharing their memory."""
    with torch.device("meta"):
        network = layouts.NETWORKS[weights.architecture](**weights.settings)
    network.load_state_dict(weights.tensors, assign=True)
    return network.eval().requires_grad_(False)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors of any network under the file's own keys and in its own precision, its metadata and its digest.

    Raises:
        ValueError: it is damaged, contains code, or is no file of weights.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(512)
    digest = digest_of(path)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        raise ValueError("the file is empty")
    # First of all: the eight bytes of a header's length may look like anything that is asked for below.
    if start[4:9] == b"\0\0\0\0{":
        return *_read_safetensors(path), digest
    if text.startswith(b"<"):
        raise ValueError("it is a web page or XML, not weights; the download probably failed, fetch it again")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError("it only points to the weights (git-lfs); fetch the file itself")
    if text.startswith(ncnn.MAGIC) or (path.suffix == ".bin" and path.with_suffix(".param").exists()):
        return _read_ncnn(path)
    if start.startswith((*_ZIP, b"\x80")):
        return _read_torch(path, zipped=start.startswith(_ZIP)), {}, digest
    if start[8:9] == b"{":
        raise ValueError(f"it is no safetensors file: its header would be {int.from_bytes(start[:8], 'little')} bytes")
    if path.suffix == ".bin":
        param = path.with_suffix(".param").name
        raise ValueError(f"it is no PyTorch file; if it is one of an ncnn pair, {param} must lie beside it")
    raise ValueError("it is neither safetensors nor a PyTorch file nor ncnn")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"the safetensors file is damaged or cut off ({error})") from error


def _read_torch(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    if path.suffix.lower() == ".safetensors":
        raise ValueError(
            "it is a PyTorch pickle that is only called .safetensors; if you trust its origin, rename it to .pth"
        )
    start = _pickle_start(path) if zipped else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tensors = _unwrapped(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # hostile bytes make the unpickler raise anything
            if isinstance(error, pickle.UnpicklingError) and (name := _foreign_name(path.read_bytes()[start:])):
                raise ValueError(f"it contains code ({name}) and was refused; only plain weights are read") from None
            raise ValueError("the PyTorch file is damaged or cut off, or holds more than plain weights") from error
    _check_claims(tensors, path.stat().st_size)
    return tensors


def _check_claims(tensors: Mapping[str, Tensor], size: int) -> None:
    """Refuse a file of so many bytes whose tensors hold more: what it left out would be whatever lies in memory."""
    plain = [tensor for tensor in tensors.values() if tensor.layout == torch.strided]
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}
    if max(sum(stored.values()), sum(tensor.numel() * tensor.element_size() for tensor in plain)) > size:
        raise ValueError("its tensors claim more than the file holds; it was refused")


def _pickle_start(path: Path) -> int:
    """The byte at which an archive's pickle begins.

    What PyTorch does not write is refused, so that no small archive unpacks to a huge one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ValueError("the PyTorch file is damaged or cut off") from error
    names = [member.filename.rpartition("/")[2] for member in members]
    if "constants.pkl" in names:
        raise ValueError("it is a TorchScript program: it contains code and was refused")
    if "data.pkl" not in names:
        raise ValueError("it is a zip archive, not a PyTorch file; unpack it first")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is a compressed archive, which PyTorch does not write; it was refused")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts claim more than the file holds; it was refused")
    header = members[names.index("data.pkl")].header_offset
    with path.open("rb") as file:
        file.seek(header + 26)
        name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return header + 30 + name_length + extra_length


def _foreign_name(pickled: bytes) -> str:
    """The first thing that pickles want to import that is not PyTorch's own data; empty where there is none."""
    return next((name for name in _imports(pickled) if not name.startswith(("torch.", "collections.OrderedDict"))), "")


def _imports(pickled: bytes) -> Iterator[str]:
    """What a pickle, or several in one file, names to import, found without running it."""
    stream = io.BytesIO(pickled)
    strings: list[str] = []
    try:
        while stream.tell() < len(pickled):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif operation.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError):
        return  # numbers after the last pickle, or damage


def _unwrapped(checkpoint: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of whatever they are wrapped in."""
    if isinstance(checkpoint, Mapping):
        for name in _WRAPPERS:
            if isinstance(checkpoint.get(name), Mapping) and (tensors := _unwrapped(checkpoint[name])):
                return tensors
        return {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return {}


def _read_ncnn(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    param, binary = path.with_suffix(".param"), path.with_suffix(".bin")
    for file in (param, binary):
        if not file.exists():
            raise ValueError(f"it is one of an ncnn pair; {file.name} must lie beside it")
    tensors, metadata = ncnn.read_ncnn(param, binary)
    return tensors, metadata, hashlib.sha256(param.read_bytes() + binary.read_bytes()).hexdigest()


def check_storage(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are larger than what the file holds of them, before anything is made in their size."""
    for key, tensor in tensors.items():
        # PyTorch calls pairs of four bits floating-point too, and converts them to nothing.
        numbers = tensor.is_floating_point() and tensor.dtype != torch.float4_e2m1fn_x2
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not numbers:
            raise ValueError(f"{key} is no plain tensor of floating-point numbers")
        if not 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
            raise ValueError(f"{key} claims the shape {list(tensor.shape)}, which the file does not hold")


def as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous fp32 copies."""
    converted = {}
    for key, tensor in tensors.items():
        values = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not values.isfinite().all():
            raise ValueError(f"{key} has values that are not finite; the file is damaged or its training failed")
        converted[key] = values
    return converted


def _sort_header(data: bytes) -> bytes:
    """The same safetensors bytes with the header's keys in order; the library's own order is random."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
