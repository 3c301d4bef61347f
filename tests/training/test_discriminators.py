from __future__ import annotations

import io
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet
from upscaler.training.discriminators import (
    Kind,
    Norm,
    PatchDiscriminator,
    UNetDiscriminator,
    VGGDiscriminator,
    build_discriminator,
    first_and_last,
)

KINDS: tuple[Kind, ...] = get_args(Kind)
NORMS: tuple[Norm, ...] = get_args(Norm)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """New networks are the same in every run of a test."""
    torch.manual_seed(0)


def pictures(height: int = 32, width: int = 32, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_the_defaults_are_as_large_as_the_published_networks() -> None:
    assert sum(p.numel() for p in VGGDiscriminator().parameters()) == 14_499_401
    assert sum(p.numel() for p in UNetDiscriminator().parameters()) == 4_376_897


def test_vgg_computes_what_the_published_network_does() -> None:
    network = VGGDiscriminator(features=2)
    norms = iter([module for module in network.modules() if isinstance(module, nn.BatchNorm2d)])
    x = start = pictures(128, 128)
    for number, layer in enumerate(convolutions(network)):
        strided = number % 2
        x = F.conv2d(x, layer.weight, layer.bias, stride=1 + strided, padding=1)
        if number:
            norm = next(norms)
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
            x = (x - mean) / (var + norm.eps).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
    assert x.shape == (2, 16, 4, 4)
    hidden, last = (module for module in network.modules() if isinstance(module, nn.Linear))
    x = x.flatten(1) @ hidden.weight.T + hidden.bias
    x = torch.where(x > 0, x, 0.2 * x) @ last.weight.T + last.bias
    torch.testing.assert_close(network(start), x, atol=1e-5, rtol=1e-4)


def test_unet_adds_its_skip_connections() -> None:
    network = UNetDiscriminator(features=2, norm="none")
    layers = convolutions(network)
    assert [layer.kernel_size[0] for layer in layers] == [3, 4, 4, 4, 3, 3, 3, 3, 3, 3]

    def step(x: Tensor, number: int, stride: int = 1) -> Tensor:
        x = F.conv2d(x, layers[number].weight, layers[number].bias, stride=stride, padding=1)
        return torch.where(x > 0, x, 0.2 * x)

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = step(pictures(24, 16), 0)
    x1 = step(x0, 1, 2)
    x2 = step(x1, 2, 2)
    x3 = step(x2, 3, 2)
    x4 = step(doubled(x3), 4) + x2
    x5 = step(doubled(x4), 5) + x1
    x6 = step(doubled(x5), 6) + x0
    expected = F.conv2d(step(step(x6, 7), 8), layers[9].weight, layers[9].bias, padding=1)
    torch.testing.assert_close(network(pictures(24, 16)), expected)


def test_unet_judges_pictures_of_odd_sizes_with_mirrored_edges() -> None:
    network = UNetDiscriminator(features=2, norm="none")
    x = pictures(37, 50)
    mirrored = torch.cat([x, x[:, :, 33:36].flip(2)], dim=2)
    mirrored = torch.cat([mirrored, mirrored[..., 43:49].flip(3)], dim=3)
    assert mirrored.shape[-2:] == (40, 56)
    torch.testing.assert_close(network(x), network(mirrored)[..., :37, :50])


def test_only_the_inner_convolutions_of_the_published_unet_are_normalised() -> None:
    layers = convolutions(UNetDiscriminator(features=2))
    assert [is_parametrized(layer, "weight") for layer in layers] == [False, *[True] * 8, False]
    assert [layer.bias is not None for layer in layers] == [True, *[False] * 8, True]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 50), (64, 96)])
def test_patches_of_any_size_fit(kind: Kind, norm: Norm, kernel: int, height: int, width: int) -> None:
    network = build_discriminator(kind, features=2, kernel=kernel, norm=norm)
    x = pictures(height, width).requires_grad_()
    out = network(x)
    shapes = {"vgg": (2, 1), "unet": (2, 1, height, width), "patch": (2, 1, height // 8, width // 8)}
    assert out.shape == shapes[kind]
    out.square().mean().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    kernels = {layer.kernel_size for layer in convolutions(network) if layer.stride == (1, 1)}
    assert kernels == {(kernel, kernel)}


@pytest.mark.parametrize(("kind", "smallest"), [("vgg", 32), ("unet", 16), ("patch", 16)])
def test_pictures_that_are_too_small_are_refused(kind: Kind, smallest: int) -> None:
    network = build_discriminator(kind, features=2, kernel=3, norm="spectral")
    network(pictures(smallest, smallest))
    with pytest.raises(ValueError, match=f"from {smallest} x {smallest}, not 40 x {smallest - 1}"):
        network(pictures(smallest - 1, 40))


@pytest.mark.parametrize(("kernel", "patch"), [(3, 54), (5, 86)])
def test_patchgan_judges_patches_of_the_stated_size(kernel: int, patch: int) -> None:
    x = pictures(160, 160, count=1).requires_grad_()
    PatchDiscriminator(features=2, kernel=kernel, norm="none")(x)[0, 0, 10, 10].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1))
    rows, columns = seen.sum(1).nonzero(), seen.sum(0).nonzero()
    assert int(rows.max() - rows.min() + 1) == int(columns.max() - columns.min() + 1) == patch


def test_spectral_norm_holds_for_every_layer_of_vgg_and_patch() -> None:
    for network in (VGGDiscriminator(features=2, norm="spectral"), PatchDiscriminator(features=2, norm="spectral")):
        for _ in range(200):
            network(pictures())
        network.eval()
        layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        largest = [float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]) for layer in layers]
        assert largest == pytest.approx([1.0] * len(layers), rel=1e-2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_state_goes_on_bit_for_bit(kind: Kind, norm: Norm) -> None:
    def train(network: nn.Module, first: int, last: int) -> list[Tensor]:
        outputs = []
        for step in range(first, last):
            network.zero_grad()
            out = network(pictures(seed=step))
            out.square().mean().backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=0.1)
            outputs.append(out)
        return outputs

    network = build_discriminator(kind, features=2, kernel=3, norm=norm)
    train(network, 0, 3)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = build_discriminator(kind, features=2, kernel=3, norm=norm)
    other.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(train(network, 3, 6), train(other, 3, 6), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "network",
    [
        *(build_discriminator(kind, features=2, kernel=3, norm=norm) for kind in KINDS for norm in NORMS),
        RRDBNet(features=4, growth=2, blocks=1),
        RRDBNet(features=4, growth=2, blocks=1, upsampling="pixelshuffle"),
        Compact(features=4, convolutions=1),
    ],
    ids=lambda network: type(network).__name__,
)
def test_first_and_last_are_the_weights_used_first_and_last(network: nn.Module) -> None:
    used: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda module, *_: used.append(module))
    network(pictures()).mean().backward()
    for weight, layer in zip(first_and_last(network), (used[0], used[-1]), strict=True):
        normalised = is_parametrized(layer, "weight")
        assert weight is layer.get_parameter("parametrizations.weight.original" if normalised else "weight")
        assert weight.grad is not None
        assert float(weight.grad.abs().sum()) > 0


def test_first_and_last_of_generators_by_name() -> None:
    network = RRDBNet(features=4, growth=2, blocks=1)
    first, last = first_and_last(network)
    assert first is network.conv_first.weight
    assert last is network.conv_last.weight
    with pytest.raises(ValueError, match="no first and last"):
        first_and_last(nn.PReLU(3))


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_do_not_exist_are_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match="kernel 4"):
        build_discriminator(kind, features=2, kernel=4, norm="none")
    with pytest.raises(ValueError, match="layer norm"):
        build_discriminator(kind, features=2, kernel=3, norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 features"):
        build_discriminator(kind, features=0, kernel=3, norm="none")


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no discriminator pixel"):
        build_discriminator("pixel", features=2, kernel=3, norm="none")  # type: ignore[arg-type]
