from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.model import winograd, winograd_training
from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.winograd_networks import accelerated
from upscaler.model.winograd_training import WinogradConvolution

# Of results in float32 against float64: the transforms multiply rounding errors of the products by up to 100.
ABSOLUTE, RELATIVE = 5e-6, 1e-4


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kernels compiled into a folder of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SRUP_WINOGRAD", raising=False)
        patch.setattr(platformdirs, "user_cache_path", lambda *_: folder)
        winograd._folder.cache_clear()
        winograd._attempt.cache_clear()
        assert not winograd.ready()
        winograd.kernels()
        assert winograd.ready()
        yield folder
    winograd._folder.cache_clear()


def close(found: Tensor, exact: Tensor) -> None:
    """Near in the sense of the largest exact number: a small one next to it has the errors of a large one."""
    found, exact = found.detach(), exact.detach()
    largest = float(exact.abs().max())
    assert found.shape == exact.shape
    assert float((found - exact).abs().max()) <= ABSOLUTE + RELATIVE / 10 * largest


def convolved(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    slope = winograd.padded(how.pop("slope", None), len(weight), 1)
    u, biases = winograd.transformed(weight).numpy(), winograd.padded(bias, len(weight), 0)
    return winograd.convolve(winograd.pixels(x), u, biases, slope, len(weight), **how)


def case(n: int, inputs: int, outputs: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(height * width + inputs)
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    return torch.rand(n, inputs, height, width), weight, torch.randn(outputs)


def direct(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=1)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (7, 6), (13, 17), (40, 41), (3, 700), (300, 4)]
)
@pytest.mark.parametrize("n", [1, 3])
def test_pictures_of_every_size(n: int, height: int, width: int) -> None:
    arguments = case(n, 16, 32, height, width)
    close(convolved(*arguments), direct(*arguments))


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 64), (3, 48), (64, 3), (17, 31), (16, 16), (64, 32)])
def test_any_number_of_channels(inputs: int, outputs: int) -> None:
    arguments = case(2, inputs, outputs, 10, 11)
    close(convolved(*arguments), direct(*arguments))


@pytest.mark.parametrize("group", [12, 36])
def test_groups_of_every_size_give_the_same(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = case(2, 5, 20, 22, 18)
    monkeypatch.setattr(winograd, "_GROUP", group)
    close(convolved(*arguments), direct(*arguments))


def test_tensors_of_every_layout() -> None:
    x, weight, bias = case(2, 16, 16, 12, 12)
    exact = direct(x, weight, bias)
    close(convolved(x.contiguous(memory_format=torch.channels_last), weight, bias), exact)
    close(convolved(x.transpose(2, 3), weight.transpose(2, 3), bias).transpose(2, 3), exact)
    assert convolved(x, weight, bias).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [16, 23])
def test_an_activation_has_a_slope_for_each_channel(channels: int) -> None:
    x, weight, bias = case(1, 16, channels, 9, 9)
    slope = torch.linspace(-0.5, 1.5, channels)
    close(convolved(x, weight, bias, slope=slope), F.prelu(direct(x, weight, bias), slope.double()))


@pytest.mark.parametrize("channels", [16, 23])
def test_a_result_is_added_to_a_base(channels: int) -> None:
    x, weight, bias = case(2, 16, channels, 9, 10)
    base = torch.rand(2, channels, 9, 10)
    found = convolved(x, weight, bias, base=winograd.pixels(base))
    close(found, base + direct(x, weight, bias))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 6), (16, 9)])
def test_pictures_are_enlarged_by_nearest_neighbour(height: int, width: int) -> None:
    x, weight, bias = case(2, 20, 16, height, width)
    exact = direct(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias)
    close(convolved(x, weight, bias, doubling=1), exact)


@pytest.mark.parametrize(
    "shape", [(1, 3, 48, 1, 1), (2, 16, 16, 8, 8), (3, 5, 7, 13, 6), (2, 64, 64, 32, 32), (1, 32, 16, 50, 70)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_gradients(shape: tuple[int, int, int, int, int], biased: bool) -> None:
    x, weight, bias = case(*shape)
    wanted = [tensor.requires_grad_() for tensor in ((x, weight, bias) if biased else (x, weight))]
    y = WinogradConvolution.apply(x, weight, bias if biased else None)  # type: ignore[no-untyped-call]
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, wanted, dy)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in wanted]
    exact_y = F.conv2d(exact_inputs[0], exact_inputs[1], exact_inputs[2] if biased else None, padding=1)
    for gradient, exact in zip(found, torch.autograd.grad(exact_y, exact_inputs, dy.double()), strict=True):
        close(gradient, exact)


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = case(1, 16, 16, 8, 8)
    monkeypatch.setattr(winograd, "weight_gradient", lambda *_: pytest.fail("computed"))
    WinogradConvolution.apply(x.requires_grad_(), weight, bias).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


def test_gradients_of_gradients_are_those_of_pytorch() -> None:
    x, weight, bias = case(1, 4, 4, 8, 8)
    results = []
    ways: list[Any] = [lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1), WinogradConvolution.apply]
    for convolution in ways:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = torch.tanh(convolution(*leaves)).sum()
        penalty = torch.autograd.grad(y, leaves[0], create_graph=True)[0].square().sum()
        results.append(torch.autograd.grad(penalty, leaves))
    for ours, theirs in zip(results[1], results[0], strict=True):
        close(ours, theirs)


def test_results_are_the_same_from_run_to_run() -> None:
    x, weight, bias = case(2, 64, 64, 40, 40)
    runs = []
    for _ in range(3):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = WinogradConvolution.apply(*leaves)  # type: ignore[no-untyped-call]
        runs.append((y, *torch.autograd.grad(y, leaves, torch.ones_like(y))))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def small() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(20, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 16, 4, 2, 1), nn.Conv2d(16, 20, 3, padding=1)
    )


def test_a_network_is_accelerated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, compute = list[int](), winograd.convolve

    def convolve(*arguments: Any) -> Tensor:
        computed.append(1)
        return compute(*arguments)

    monkeypatch.setattr(winograd, "convolve", convolve)
    plain = small()
    fast = copy.deepcopy(plain)
    winograd_training.accelerate(fast)
    fast = copy.deepcopy(fast)
    assert list(fast.state_dict()) == list(plain.state_dict())
    x = torch.rand(6, 20, 40, 40)
    for network in (plain, fast):
        network(x).square().sum().backward()
    assert len(computed) == 3  # twice forward, and once back: the pictures need no gradient
    close(fast(x), plain(x).double())
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        close(ours.grad, theirs.grad.double())


def test_what_suits_not_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "convolve", lambda *_, **__: pytest.fail("computed"))
    kinds: list[dict[str, Any]] = [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}]
    for kind in [*kinds, {"padding_mode": "reflect"}, {"kernel_size": 5}]:
        convolution = nn.Conv2d(16, 16, **({"kernel_size": 3, "padding": 1} | kind))
        winograd_training.accelerate(convolution)
        convolution(torch.rand(1, 16, 60, 60))
    convolution = nn.Conv2d(16, 16, 3, padding=1)
    winograd_training.accelerate(convolution)
    convolution(torch.rand(1, 16, 8, 8))  # too few tiles to gain
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.rand(1, 16, 60, 60)).dtype == torch.bfloat16
    convolution.double()(torch.rand(1, 16, 60, 60, dtype=torch.float64))


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRUP_WINOGRAD", "0")
    assert not winograd.available()
    assert not winograd.ready()


def test_a_cache_that_may_not_be_looked_into_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "exists", refuse)
    assert not winograd.ready()


def test_without_numba_everything_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_numba_version", lambda: "")
    monkeypatch.setattr(winograd, "convolve", lambda *_, **__: pytest.fail("computed"))
    assert not winograd.available()
    network = small()
    winograd_training.accelerate(network)
    network(torch.rand(1, 20, 60, 60))


@pytest.mark.parametrize("error", [ImportError("no llvmlite"), RuntimeError("cannot cache"), OSError("disk full")])
def test_kernels_that_do_not_work_leave_everything_to_pytorch(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(winograd, "_compiled", fail)
        winograd._attempt.cache_clear()
        assert not winograd.usable()
        assert not winograd.available()
        assert winograd.failure() == f"{type(error).__name__}: {error}"
        network = small()
        winograd_training.accelerate(network)
        network(torch.rand(1, 20, 60, 60))
    winograd._attempt.cache_clear()
    assert winograd.usable()
    assert winograd.failure() == ""


SMALL: dict[str, Any] = {"features": 20, "growth": 7, "blocks": 2}


def networks() -> list[Any]:
    return [
        pytest.param(lambda: RRDBNet(**SMALL), id="plain"),
        pytest.param(lambda: RRDBNet(**SMALL, scale=1), id="x1 plain"),
        pytest.param(lambda: RRDBNet(**SMALL, scale=8, output_activation="sigmoid"), id="x8"),
        pytest.param(lambda: RRDBNet(**SMALL, scale=2, unshuffle=2), id="x2 unshuffled"),
        pytest.param(lambda: RRDBNet(**SMALL, scale=1, unshuffle=4), id="x1 unshuffled"),
        pytest.param(lambda: RRDBNet(**SMALL, fusion_kernel=1, hr_kernel=5), id="kernels"),
        pytest.param(lambda: RRDBNet(**SMALL, upsampling="pixelshuffle", output_activation="tanh"), id="pixelshuffle"),
        pytest.param(lambda: RRDBNet(**SMALL, upsampling="transposed", residual_scale=0.7), id="transposed"),
        pytest.param(lambda: Compact(features=20, convolutions=3), id="compact"),
        pytest.param(lambda: Compact(features=14, convolutions=0, scale=3, activation="relu"), id="compact x3"),
        pytest.param(lambda: Compact(features=16, convolutions=2, scale=1, activation="leakyrelu"), id="compact x1"),
        pytest.param(lambda: Residual(features=20, blocks=2), id="residual"),
        pytest.param(lambda: Residual(features=12, blocks=1, scale=2), id="residual x2"),
    ]


def made(make: Callable[[], Any]) -> Any:
    """A network whose slopes differ from channel to channel."""
    torch.manual_seed(5)
    network = make().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.5)
    return network


@pytest.mark.parametrize("make", networks())
@pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (2, 13, 9), (1, 24, 40)])
@pytest.mark.parametrize("tiles", [12, 48])
def test_an_accelerated_network_gives_what_the_network_gives(
    make: Any, n: int, height: int, width: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "band", lambda: tiles)
    network = made(make)
    fast = accelerated(network)
    assert fast is not None
    x = torch.rand(n, 3, height, width)
    y = fast(x)
    close(y, network.double()(x.double()))
    assert torch.equal(fast(x), y)


@pytest.mark.parametrize("make", networks())
def test_an_accelerated_network_tells_of_its_work(make: Any) -> None:
    network, told = made(make), list[int]()
    fast = accelerated(network, told.append)
    assert fast is not None
    fast(torch.rand(1, 3, 8, 12))
    operations = fast.trunk_operations + fast.head_operations
    assert sum(told) == operations * 8 * 12 // network.unshuffle**2
    assert fast.settings() == network.settings()


GROWING = pytest.param(lambda: RRDBNet(features=16, growth=64, blocks=1), id="more growth than features")


@pytest.mark.parametrize("make", [*networks(), GROWING])
def test_working_memory_is_as_large_as_stated(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = winograd.Workspace()
    monkeypatch.setattr(winograd, "WORKSPACE", workspace)
    monkeypatch.setattr(winograd, "band", lambda: 12)  # so that the width of a picture counts
    fast = accelerated(made(make))
    assert fast is not None
    fast(torch.rand(1, 3, 16, 400))
    assert workspace.size <= fast.workspace_floats(400 // fast.unshuffle)


def test_results_of_an_accelerated_network_stay_as_they_are() -> None:
    fast = accelerated(made(lambda: RRDBNet(**SMALL)))
    assert fast is not None
    first = fast.features(torch.rand(1, 3, 16, 16))
    before = first.clone()
    fast.features(torch.rand(1, 3, 16, 16))
    assert torch.equal(first, before)


@pytest.mark.parametrize("make", networks())
def test_transformed_weights_are_as_large_as_stated(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    transformed = 0

    def counting(weight: torch.Tensor) -> torch.Tensor:
        nonlocal transformed
        result = genuine(weight)
        transformed += result.numel()
        return result

    genuine = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", counting)
    fast = accelerated(made(make))
    assert fast is not None
    assert transformed == 0
    fast(torch.rand(1, 3, 8, 8))
    assert fast.weight_floats == transformed


def test_other_networks_are_not_accelerated() -> None:
    class Other(Compact):
        pass

    assert accelerated(Other()) is None
