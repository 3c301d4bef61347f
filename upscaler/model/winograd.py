"""Fast 3x3 convolutions on the CPU: Winograd's F(4x4, 3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv:1509.09308): a tile of 4 x 4 results
takes 36 multiplications for each pair of channels in place of 144. The kernels are compiled by numba and share
PyTorch's pool of OpenMP threads. Only convolutions of stride 1, padding 1 and float32 are computed this way. Without
numba, or with SRUP_WINOGRAD=0 in the environment, nothing is, and PyTorch's own convolutions do everything.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import threading
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

_Floats = NDArray[np.float32]
LANES = 16
"""Transformed tiles have multiples of this many channels, the last of them zeros."""
PLACES = 36
"""Of a transformed tile."""
_KERNELS = "upscaler.model.winograd_kernels"
FEWEST_CHANNELS = 12
"""With fewer, PyTorch's own convolutions are faster: most of the sixteen channels would be zeros."""
# Tiles that a thread works on at a time: what is transformed is still in its cache when it is multiplied. Of either
# number of ``ROWS`` a multiple.
_GROUP = 24
# Likewise for the gradient of weights, where the sums are read and written once for so many tiles.
_BAND = 96
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64).div_(
    24
)
# A 3 x 3 kernel's nine numbers to the 36 of G g G^T.
_GG = torch.kron(_G, _G)
KERNEL_BYTES = 130_000_000
"""What a process holds of numba and the kernels once they are loaded, measured."""
COMPILER_BYTES = 200_000_000
"""The same of a process that compiled them."""
NOTHING = np.empty((0, 0, 0, 0), np.float32)
_LOADING = threading.Lock()


def available() -> bool:
    """Whether convolutions may be computed here in this way: numba is installed, and kernels did not fail yet."""
    return os.environ.get("SRUP_WINOGRAD") != "0" and _numba_version() != "" and not (loaded() and kernels() is None)


def usable() -> bool:
    """Whether it is available and its kernels work, which are loaded, or compiled, to know."""
    return available() and kernels() is not None


def failure() -> str:
    """Why the kernels do not work here, in one line; empty where they do."""
    with _LOADING:
        return _attempt()[1]


def ready() -> bool:
    """Whether the kernels were compiled before and are in the user's cache; else the first use takes seconds."""
    try:
        return available() and _mark().exists()
    except OSError:  # a cache folder that may not be looked into
        return False


def loaded() -> bool:
    """Whether this process has loaded or compiled the kernels already, or failed to."""
    return _attempt.cache_info().currsize > 0


@cache
def _numba_version() -> str:
    try:
        return version("numba")
    except PackageNotFoundError:
        return ""


@cache
def _folder() -> Path:
    """Where compiled kernels of this source, this numba and this kind of CPU are kept."""
    from platformdirs import user_cache_path

    files = [Path(__file__).with_name(f"winograd_{name}.py") for name in ("instructions", "kernels")]
    source = b"".join(file.read_bytes() for file in files)
    kind = (_numba_version(), platform.python_version(), platform.machine(), torch.backends.cpu.get_cpu_capability())
    digest = hashlib.sha256(source + repr(kind).encode()).hexdigest()[:16]
    return user_cache_path("srup") / "kernels" / digest


def _mark() -> Path:
    return _folder() / "complete"


def kernels() -> Any:
    """The compiled kernels, from the user's cache or compiled now and put there; None where they do not work."""
    with _LOADING:
        return _attempt()[0]


@cache
def _attempt() -> tuple[Any, str]:
    """The kernels, or None and why there are none."""
    try:
        module = _compiled()
        if not module.shares_threads():
            return None, "numba has threads of its own, which would work against PyTorch's"
    except Exception as error:  # noqa: BLE001  numba has many ways to fail, and everything works without it
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    with suppress(OSError):
        _mark().parent.mkdir(parents=True, exist_ok=True)
        _mark().touch()
    return module, ""


def _compiled() -> Any:
    import numba

    config: Any = numba.config
    before = config.CACHE_DIR, config.THREADING_LAYER
    config.CACHE_DIR, config.THREADING_LAYER = str(_folder()), "omp"
    try:
        module = importlib.import_module(_KERNELS)
        # Each kernel is used with arguments of one kind only, so that one call compiles it.
        four, flat = np.zeros((1, PLACES, 2, LANES), np.float32), np.zeros(LANES, np.float32)
        module.convolve(four, 0, 0, 0, four, 0, False, four, four, flat, flat, NOTHING, np.float32(1), four)
        module.weigh(NOTHING, NOTHING, four[0], four[0], four[0], 1)
    finally:
        config.CACHE_DIR, config.THREADING_LAYER = before
    return module


def shared_out() -> tuple[Any, int]:
    """The kernels and the number of parts in which to share the work out to PyTorch's threads."""
    use, threads = kernels(), torch.get_num_threads()
    use.share(threads)
    return use, threads


def rounded(channels: int) -> int:
    """Channels that transformed tiles have for so many."""
    return -(-channels // LANES) * LANES


def band() -> int:
    """Tiles of a band of which the transformed inputs are kept: as few as give work to all threads.

    Those of the bands between the first and the last convolution of a dense block then stay in the cache.
    """
    return max(48, 12 * torch.get_num_threads())


def workspace_floats(inputs: int, outputs: int) -> int:
    """Floats of working memory for a convolution of so many channels."""
    return torch.get_num_threads() * PLACES * (_GROUP + 1) * (rounded(inputs) + rounded(outputs))


def transformed_floats(inputs: int, outputs: int) -> int:
    """Floats of the transformed weights of a convolution of so many channels."""
    return PLACES * rounded(inputs) * rounded(outputs)


def tiles_of(height: int, width: int) -> int:
    """Tiles of 4 x 4 that cover a picture."""
    return -(-height // 4) * -(-width // 4)


def empty(*shape: int) -> _Floats:
    """A new array that begins with a line of the cache, as PyTorch's do and numpy's do not: vectors then span one."""
    array: _Floats = torch.empty(shape).numpy()
    return array


class Workspace(threading.local):
    """Memory that is used again by every convolution of a thread: arrays under names, as large as ever asked for."""

    def __init__(self) -> None:
        self._arrays: dict[str, _Floats] = {}

    def floats(self, name: str, *shape: int) -> _Floats:
        """An array with any numbers in it; it is valid until the next call with its name."""
        count = int(np.prod(shape))
        if name not in self._arrays or self._arrays[name].size < count:
            self._arrays.pop(name, None)  # before the larger one is made
            self._arrays[name] = empty(count)
        return self._arrays[name][:count].reshape(shape)

    @property
    def size(self) -> int:
        """Floats held."""
        return sum(array.size for array in self._arrays.values())


WORKSPACE = Workspace()


def transformed(weight: Tensor) -> Tensor:
    """Weights (O, I, 3, 3) to G g G^T: (36, O / 16, I, 16), the channels rounded up with zeros."""
    outputs, inputs = weight.shape[:2]
    lots = rounded(outputs) // LANES
    weight = F.pad(weight, (0, 0, 0, 0, 0, -inputs % LANES, 0, -outputs % LANES))
    # The nine numbers are brought to their places before they become 36.
    kernels = weight.reshape(lots, LANES, -1, 9).permute(3, 0, 2, 1).reshape(9, -1)
    return (_GG.to(weight.dtype) @ kernels).view(PLACES, lots, -1, LANES)


def pixels(x: Tensor) -> _Floats:
    """The array (N, H, W, C) of a tensor (N, C, H, W), contiguous; without a copy where it is channels_last."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def padded(values: Tensor | None, channels: int, otherwise: float) -> _Floats:
    """A number for each channel, rounded up."""
    result = empty(rounded(channels))
    result.fill(otherwise)
    if values is not None:
        result[:channels] = values.detach().numpy()
    return result


def products(outputs: int) -> _Floats:
    """Working memory for products of so many channels, for every thread."""
    return WORKSPACE.floats("products", torch.get_num_threads(), PLACES, _GROUP + 1, outputs)


def convolve(
    x: _Floats,
    u: _Floats,
    bias: _Floats,
    slope: _Floats,
    channels: int,
    *,
    doubling: int = 0,
    base: _Floats = NOTHING,
    out: Tensor | None = None,
) -> Tensor:
    """``base + activation(convolution + bias)`` as a tensor (N, channels, H, W) in channels_last.

    Args:
        x: (N, H, W, C).
        u: ``transformed`` weights.
        bias: one for each of the output channels, rounded up.
        slope: likewise, by which negative results are multiplied; 1 for no activation.
        channels: of the output.
        doubling: 1 to enlarge ``x`` twice by nearest neighbour before it is convolved.
        base: (N, H, W, channels).
        out: takes the result, in channels_last; it may be what ``base`` is of, but not what ``x`` is of. New memory
            costs more than is seen here: the system fills it with zeros first.
    """
    use, threads = shared_out()
    n, height, width = x.shape[0], x.shape[1] << doubling, x.shape[2] << doubling
    # No view of anything: what follows in a network may work in place on it.
    y = torch.empty((n, channels, height, width), memory_format=torch.channels_last) if out is None else out
    v = WORKSPACE.floats("inputs", threads, PLACES, _GROUP + 1, u.shape[2])
    tiles, m, one = n * tiles_of(height, width), products(len(bias)), np.float32(1)
    use.convolve(x, doubling, 0, tiles, v, 0, False, u, m, bias, slope, base, one, y.permute(0, 2, 3, 1).numpy())
    return y


def weight_gradient(x: _Floats, dy: _Floats) -> Tensor:
    """The gradient (O, I, 3, 3) of the weights, from inputs (N, H, W, I) and the gradient of results (N, H, W, O)."""
    use, threads = shared_out()
    inputs, outputs = x.shape[3], dy.shape[3]
    tiles = _BAND * threads + 1
    v = WORKSPACE.floats("inputs", PLACES, tiles, rounded(inputs))
    dm = WORKSPACE.floats("products", PLACES, tiles, rounded(outputs))
    du = empty(PLACES, -(-v.shape[2] // use.ROWS) * use.ROWS, dm.shape[2])
    du.fill(0)
    use.weigh(x, dy, v, dm, du, threads)
    dw = (_GG.to(torch.float32).T @ torch.from_numpy(du).view(PLACES, -1)).view(3, 3, *du.shape[1:])
    return dw[:, :, :inputs, :outputs].permute(3, 2, 0, 1).contiguous()


def suits(convolution: nn.Conv2d) -> bool:
    """Whether it is of the kind that is computed here: 3x3, stride 1, padding 1 with zeros, one group."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == (1, 1)
        and convolution.padding == (1, 1)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
    )
