from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upscaler import transfers
from upscaler.images import resize
from upscaler.training import noise

aten = torch.ops.aten

DEVICE = torch.device("cuda:0")
PRODUCTS = ("convolution", "convolution_backward", "addmm", "mm", "bmm", "baddbmm")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels and downloads of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def gpu(autocasting_gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """What stands in for a GPU, to be entered. Autocast does nothing on it.

    Autograd and indexing ask for the streams of a device, which PyTorch without CUDA does not have. Here what is
    written in C++ sees the tensors on ``meta``, autocast included, and all that is written in Python on ``cuda``.
    """
    make = Tensor._make_subclass

    def made(cls: Any, data: Tensor, gradient: bool = False, **how: Any) -> Any:
        return make(cls, data, gradient, **how | {"dispatch_device": False})

    monkeypatch.setattr(Tensor, "_make_subclass", made)
    return autocasting_gpu


@pytest.fixture
def autocasting_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """The same with autocast, but without gradients and indexing."""
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: gpu.stream)
    monkeypatch.setattr(torch.cuda, "stream", gpu.on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(FakeTensor, "record_stream", lambda tensor, _: gpu.read_aside.remove(id(tensor)))
    monkeypatch.setattr(noise, "Generator", Seeded)
    constants = (transfers.constant, transfers._side_stream, resize._matrices)
    for cache in constants:
        cache.cache_clear()
    yield gpu
    for cache in constants:
        cache.cache_clear()
    assert not gpu.read_aside, "memory that a side stream reads is given away before it was read"


class Gpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, ``cuda:0`` is there without a GPU, as far as that can be.

    Its tensors are PyTorch's fake ones, with shape, type and device but without values; those of the CPU are real. It
    raises where devices mix. Inside ``unwaited`` it also raises where the host would wait for the GPU: to read a value
    or a tensor, to learn a shape that depends on values, and for copies other than non-blocking ones without a change
    of type that go from or to pinned memory. What is copied to the host is NaN until its event has been waited for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = DEVICE
        self.stream = Stream(self)
        self.launched = 0
        """How many operations the GPU was given."""
        self.products: Counter[tuple[str, torch.dtype]] = Counter()
        """Its convolutions and matrix products by name and type."""
        self.waits: list[str] = []
        """What the host has waited for, outside of ``unwaited``."""
        self.under_way: list[Tensor] = []
        """Where copies go that nobody has waited for yet."""
        self.read_aside: list[int] = []
        """What a side stream reads and the allocator does not know of."""
        self._may_wait = True
        self._pinned: list[Tensor] = []
        self._fakes = Fakes(allow_non_fake_inputs=True)

    def __enter__(self) -> Gpu:
        self._fakes.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._fakes.__exit__(*error)

    @contextmanager
    def unwaited(self) -> Iterator[None]:
        """While entered, the host must not wait."""
        self._may_wait = False
        try:
            yield
        finally:
            self._may_wait = True

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """``torch.cuda.stream``."""
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].device
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # In inference mode operations come that are made of others.
            super().__enter__()  # type: ignore[no-untyped-call]
            try:
                return func.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is aten._to_copy.default and kwargs.get("device") == torch.device("meta"):
            kwargs = kwargs | {"device": DEVICE}  # to another tensor's device, as C++ sees it
        device = kwargs.get("device")
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and (device is None or device.type != "cuda"):
            return self._on_the_host(func, args, kwargs)
        if func is aten._local_scalar_dense.default:
            self._wait(func)
            return 0
        if func is aten._to_copy.default and isinstance(args[0], FakeTensor) and device and device.type == "cpu":
            self._wait(func)
            with unset_fake_temporarily():
                return torch.full(args[0].shape, 0.5, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten._to_copy.default and not isinstance(args[0], FakeTensor):
            if not kwargs.get("non_blocking") or kwargs.get("dtype", args[0].dtype) != args[0].dtype:
                self._wait(func)
            self._cross(args[0])
        elif func is aten.copy_.default and not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            return self._copied(*args)
        elif any(tensor.dim() and not isinstance(tensor, FakeTensor) for tensor in tensors):
            raise AssertionError(f"{func} mixes devices")
        return self._on_the_gpu(func, tensors, args, kwargs)

    def _on_the_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        pin = func is aten._pin_memory.default or kwargs.pop("pin_memory", False)
        with unset_fake_temporarily():
            result = args[0].clone() if func is aten._pin_memory.default else func(*args, **kwargs)
        if pin:
            self._pinned.append(result)
        return result

    def _on_the_gpu(self, func: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        assert self.stream.is_main, f"{func} on a side stream, which is for copies"
        self.launched += 1
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            (dtype,) = {tensor.dtype for tensor in tensors}
            self.products[name, dtype] += 1
        if (generator := kwargs.get("generator")) is not None:
            assert generator.initial_seed() in Seeded.on_the_gpu, f"{func} draws from a generator of the CPU"
        if func is aten._fused_sgd_.default:  # it gives nothing back, and PyTorch cannot fake it
            assert all(isinstance(tensor, FakeTensor) for tensor in tensors)
            return None
        return func(*args, **kwargs)

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not non_blocking or target.dtype != source.dtype:
            self._wait(aten.copy_.default)
        if not isinstance(target, FakeTensor):
            self._cross(target)
            assert self.stream.has_seen == self.launched, "a side stream reads what is not computed yet"
            with unset_fake_temporarily():
                self.under_way.append(target.fill_(torch.nan))
            self.read_aside.append(id(source))
            return target
        self._cross(source)
        self._on_the_gpu(aten.copy_.default, [], (target, source, non_blocking), {})
        return target

    def _cross(self, host: Tensor) -> None:
        if not self._is_pinned(host):
            self._wait("a copy with memory that is not pinned")

    def _is_pinned(self, host: Tensor) -> bool:
        return any(host.data_ptr() == pinned.data_ptr() for pinned in self._pinned)

    def _wait(self, reason: Any) -> None:
        if not self._may_wait:
            raise AssertionError(f"the host waits for the GPU: {reason}")
        self.waits.append(str(reason))


class Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Puts what C++ makes on ``meta``, the device that it sees, where it belongs."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == torch.device("meta"):
            kwargs = kwargs | {"device": DEVICE}
        return super().dispatch(func, types, args, kwargs)

    def validate_and_convert_non_fake_tensors(self, func: Any, converter: Any, flat: Any, spec: Any) -> Any:
        flat = [torch.zeros((), dtype=a.dtype) if type(a) is Tensor and a.is_meta else a for a in flat]
        return super().validate_and_convert_non_fake_tensors(func, converter, flat, spec)


class Stream:
    """Of the GPU; copies to the host are made on another one than the main one."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.has_seen: int | None = None

    @property
    def is_main(self) -> bool:
        return self.has_seen is None

    def wait_stream(self, other: Stream) -> None:
        assert other.is_main
        self.has_seen = self._gpu.launched

    def record_event(self) -> Stream:
        return self

    def synchronize(self) -> None:
        """As the event of the first copy under way, the only one that is asked for."""
        self._gpu.under_way.pop(0).fill_(0.5)


class Seeded(Generator):
    """A generator on a GPU, which PyTorch without CUDA does not have."""

    on_the_gpu: ClassVar[set[int]] = set()
    """Seeds, by which generators are known again: dispatch hands them on as new objects."""
    _device: torch.device

    def __new__(cls, device: torch.device) -> Seeded:
        made = super().__new__(cls)
        made._device = device
        return made

    def manual_seed(self, seed: int) -> Seeded:
        if self._device == DEVICE:
            self.on_the_gpu.add(seed)
        super().manual_seed(seed)
        return self
