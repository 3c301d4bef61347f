from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.model import hub
from upscaler.model.hub import HubFile, WebFile
from upscaler.training import perceptual
from upscaler.training.perceptual import (
    VGG,
    Distance,
    VGGFeatures,
    check_layers,
    feature_distance,
    load_vgg,
    stride,
    texture_distance,
)

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512)
# What torchvision calls them: the places of the convolutions among all layers of VGG19 and VGG16.
PLACES: dict[VGG, tuple[int, ...]] = {
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(places: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
    """Random ones in torchvision's layout."""
    tensors = {}
    for place, inputs, outputs in zip(places, (3, *widths), widths, strict=False):
        tensors[f"features.{place}.weight"] = normal(outputs, inputs, 3, 3, seed=place) / (3 * inputs**0.5)
        tensors[f"features.{place}.bias"] = normal(outputs, seed=place + 100) / 10
    return tensors


@pytest.fixture(scope="module")
def shallow() -> dict[str, Tensor]:
    """The first two blocks of either network."""
    return weights(PLACES["vgg19"][:4], WIDTHS[:4])


def by_hand(x: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    x = x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    x = x / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    for place, name in ((0, "1_1"), (2, "1_2"), (5, "2_1"), (7, "2_2")):
        if place == 5:
            x = found["pool1"] = F.max_pool2d(x, 2)
        x = found[f"conv{name}"] = F.conv2d(
            x, tensors[f"features.{place}.weight"], tensors[f"features.{place}.bias"], padding=1
        )
        x = found[f"relu{name}"] = torch.where(x > 0, x, 0)
    found["pool2"] = F.max_pool2d(x, 2)
    return found


@pytest.mark.parametrize(
    "layers",
    [
        ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1", "conv2_2", "relu2_2", "pool2"],
        ["conv2_2", "conv1_2"],
        ["relu1_2", "pool2"],
        ["conv1_1"],
    ],
)
def test_features_are_those_of_a_network_written_out(shallow: dict[str, Tensor], layers: list[str]) -> None:
    x = torch.rand(2, 3, 18, 12)
    before = x.clone()
    expected = by_hand(x, shallow)
    for network in (VGGFeatures("vgg19", layers, shallow), VGGFeatures("vgg16", layers, shallow)):
        found = network(x)
        assert found.keys() == set(layers)
        for layer in layers:
            torch.testing.assert_close(found[layer], expected[layer], atol=1e-5, rtol=1e-4)
    assert torch.equal(x, before)


def test_deeper_layers_than_wanted_are_not_there(shallow: dict[str, Tensor]) -> None:
    assert set(VGGFeatures("vgg19", ["relu1_1"], shallow).state_dict()) == {"features.0.weight", "features.0.bias"}


@pytest.mark.parametrize("architecture", ["vgg19", "vgg16"])
def test_convolutions_lie_where_torchvision_has_them(architecture: VGG) -> None:
    places = PLACES[architecture]
    widths = WIDTHS if architecture == "vgg19" else tuple(WIDTHS[i] for i in (0, 1, 2, 3, 4, 5, 6, *range(8, 14)))
    zero = torch.zeros(())
    tensors = {
        f"features.{place}.{kind}": zero.expand((outputs, inputs, 3, 3) if kind == "weight" else (outputs,))
        for place, inputs, outputs in zip(places, (3, *widths), widths, strict=False)
        for kind in ("weight", "bias")
    }
    network = VGGFeatures(architecture, ["pool5"], tensors)
    assert network.state_dict().keys() == tensors.keys()
    taps = {"vgg19": ("conv3_4", 16, "conv4_4", 25, "conv5_4", 34), "vgg16": ("conv3_3", 14, "conv5_3", 28)}
    for layer, place in zip(taps[architecture][::2], taps[architecture][1::2], strict=True):
        assert isinstance(layer, str)
        assert len(VGGFeatures(architecture, [layer], tensors).features) - 1 == place


def test_the_network_is_frozen_and_passes_gradients(shallow: dict[str, Tensor]) -> None:
    network = VGGFeatures("vgg19", ["conv1_2", "relu2_1"], shallow)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x = torch.rand(1, 3, 8, 8).requires_grad_()
    y = x.detach().clone().requires_grad_()
    loss, expected = (
        features["conv1_2"].square().mean() + features["relu2_1"].mean()
        for features in (network(x), by_hand(y, shallow))
    )
    slopes = torch.autograd.grad(loss, x), torch.autograd.grad(expected, y)
    torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-4)


def test_it_moves_as_a_whole(shallow: dict[str, Tensor]) -> None:
    x = torch.rand(1, 3, 8, 8)
    network = VGGFeatures("vgg19", ["conv2_1"], shallow)
    plain = network(x)["conv2_1"]
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = network(x.to(memory_format=torch.channels_last))["conv2_1"]
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-4)
    assert network.to(torch.float64)(x.double())["conv2_1"].dtype == torch.float64


def test_layers_are_checked_without_weights() -> None:
    check_layers("vgg19", ["conv5_4", "relu5_4", "pool5", "conv3_4"])
    check_layers("vgg16", ["conv5_3"])
    with pytest.raises(UserError, match=r"^vgg16 has no layer conv5_4; did you mean conv5_"):
        check_layers("vgg16", ["conv1_1", "conv5_4"])
    with pytest.raises(UserError, match=r"no layer Conv5_5; did you mean .*conv5_4"):
        check_layers("vgg19", ["Conv5_5"])
    with pytest.raises(UserError, match=r"no layer features; it has conv1_1, relu1_1"):
        check_layers("vgg19", ["features"])
    with pytest.raises(UserError, match="name at least one layer of vgg19"):
        check_layers("vgg19", [])
    with pytest.raises(UserError, match="no layer pool6"):
        VGGFeatures("vgg19", ["pool6"], {})


def test_tensors_of_another_shape_are_refused(shallow: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="missing, such as features"):
        VGGFeatures("vgg19", ["conv3_1"], shallow)
    with pytest.raises(ValueError, match=r"features\.2\.bias has the shape"):
        VGGFeatures("vgg19", ["conv2_1"], shallow | {"features.2.bias": torch.zeros(3)})


@pytest.mark.parametrize("layer", ["conv1_1", "relu1_2", "pool1", "conv2_2", "pool2"])
def test_strides_are_those_of_the_features(shallow: dict[str, Tensor], layer: str) -> None:
    features = VGGFeatures("vgg19", [layer], shallow)(torch.rand(1, 3, 16, 32))[layer]
    assert features.shape[-2:] == (16 // stride(layer), 32 // stride(layer))


def test_strides_of_deep_layers() -> None:
    assert [stride(layer) for layer in ("conv3_1", "relu4_4", "conv5_4", "pool5")] == [4, 8, 16, 32]


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_feature_distance_is_a_weighted_sum_of_means(distance: Distance) -> None:
    fake = {"conv1_2": normal(2, 3, 4, 4), "conv5_4": normal(2, 5, 1, 1, seed=1)}
    real = {layer: normal(*features.shape, seed=7) for layer, features in fake.items()}
    expected = 0.0
    for layer, weight in (("conv1_2", 0.1), ("conv5_4", 2.0)):
        differences = (fake[layer] - real[layer]).flatten().tolist()
        powers = [abs(d) if distance == "l1" else d * d for d in differences]
        expected += weight * sum(powers) / len(powers)
    found = feature_distance(fake, real, {"conv1_2": 0.1, "conv5_4": 2.0}, distance)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    only = feature_distance(fake, real, {"conv1_2": 1.0}, distance)
    assert float(only) == pytest.approx(float(feature_distance(fake, real, {"conv1_2": 0.5}, distance)) * 2)


def gram_by_hand(features: Tensor, edge: int) -> list[Tensor]:
    """The Gram matrix of each patch, entry by entry."""
    grams = []
    count, channels, height, width = features.shape
    for n in range(count):
        for top in range(0, height - edge + 1, edge):
            for left in range(0, width - edge + 1, edge):
                gram = [[torch.zeros(()) for _ in range(channels)] for _ in range(channels)]
                for i in range(channels):
                    for j in range(channels):
                        for y in range(top, top + edge):
                            for x in range(left, left + edge):
                                gram[i][j] = gram[i][j] + features[n, i, y, x] * features[n, j, y, x]
                grams.append(torch.stack([torch.stack(row) for row in gram]) / edge**2)
    return grams


@pytest.mark.parametrize(
    ("layer", "channels", "patch", "edge"),
    [("relu1_1", 2, 3, 3), ("conv2_1", 4, 4, 2), ("conv2_1", 5, 4, 2), ("conv3_1", 6, 4, 1), ("pool2", 3, 8, 2)],
)
def test_the_texture_distance_is_that_of_gram_matrices(layer: str, channels: int, patch: int, edge: int) -> None:
    fake, real = normal(2, channels, 5, 4).requires_grad_(), normal(2, channels, 5, 4, seed=1)
    pairs = zip(gram_by_hand(fake, edge), gram_by_hand(real, edge), strict=True)
    expected = torch.stack([(a - b).square().mean() for a, b in pairs]).mean() * 3
    found = texture_distance({layer: fake}, {layer: real}, {layer: 3.0}, patch)
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(found, fake), torch.autograd.grad(expected, fake)
    torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("channels", [3, 64])
def test_the_texture_distance_of_close_pictures_is_exact(channels: int) -> None:
    real = normal(2, channels, 8, 8) * 100
    fake = real + normal(2, channels, 8, 8, seed=1) * 1e-3
    a, b = (x.double().view(2, channels, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).flatten(4) / 4 for x in (fake, real))
    expected = (a @ a.mT - b @ b.mT).square().mean()
    found = texture_distance({"conv1_1": fake}, {"conv1_1": real}, {"conv1_1": 1.0}, 4)
    # With few channels both matrices are made, and their rounding errors stay.
    assert float(found) == pytest.approx(float(expected), rel=2e-2)
    assert float(texture_distance({"conv1_1": real}, {"conv1_1": real}, {"conv1_1": 1.0}, 4)) == 0


def test_textures_of_several_layers_are_summed() -> None:
    fake = {"conv1_1": normal(1, 2, 8, 8), "conv2_1": normal(1, 3, 4, 4)}
    real = {layer: normal(*features.shape, seed=3) for layer, features in fake.items()}
    parts = [texture_distance(fake, real, {layer: weight}, 4) for layer, weight in (("conv1_1", 0.3), ("conv2_1", 2.0))]
    torch.testing.assert_close(texture_distance(fake, real, {"conv1_1": 0.3, "conv2_1": 2.0}, 4), sum(parts))


@pytest.mark.parametrize(("layer", "patch"), [("conv3_1", 6), ("pool5", 16), ("conv1_1", 16), ("conv1_1", 0)])
def test_patches_that_do_not_fit_are_refused(layer: str, patch: int) -> None:
    features = {layer: normal(1, 2, 8, 8)}
    with pytest.raises(ValueError, match=f"features of {layer} have no patches of {patch} pixels"):
        texture_distance(features, features, {layer: 1.0}, patch)


def test_distances_are_reckoned_in_full_precision() -> None:
    fake, real = {"conv1_1": normal(1, 8, 4, 4) * 200}, {"conv1_1": normal(1, 8, 4, 4, seed=1) * 200}
    whole = texture_distance(fake, real, {"conv1_1": 1.0}, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(texture_distance(fake, real, {"conv1_1": 1.0}, 2), whole)
    halves = [{"conv1_1": features["conv1_1"].half()} for features in (fake, real)]
    assert texture_distance(halves[0], halves[1], {"conv1_1": 1.0}, 2).isfinite()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights of a VGG19 that is so narrow that its files are small."""
    monkeypatch.setattr(perceptual, "_WIDTHS", (2, 3, 4, 5, 6))
    return weights(PLACES["vgg19"], (2, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6))


CLASSIFIERS = {"classifier.0.weight": torch.zeros(4, 6), "head.fc.bias": torch.zeros(4), "pre_logits.fc1.bias": 0.5}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["v.safetensors", "v.pth"])
@pytest.mark.parametrize("prefix", ["features.", "", "module.features."])
def test_local_files_of_every_layout_are_read(
    tmp_path: Path, narrow: dict[str, Tensor], half: bool, name: str, prefix: str
) -> None:
    tensors = {key: tensor.half() if half else tensor for key, tensor in narrow.items()}
    stored: dict[str, Any] = {key.replace("features.", prefix): tensor for key, tensor in tensors.items()}
    stored |= {key: value for key, value in CLASSIFIERS.items() if isinstance(value, Tensor) or name == "v.pth"}
    if name == "v.pth":
        torch.save(stored, tmp_path / name)
    else:
        save_file(stored, tmp_path / name)
    found = load_vgg("vgg19", tmp_path / name)
    assert found.keys() == narrow.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[key].float())
    features = VGGFeatures("vgg19", ["conv5_4"], found)(torch.rand(1, 3, 32, 32))
    assert features["conv5_4"].shape == (1, 6, 2, 2)


def test_the_old_form_of_pytorch_files_is_read(tmp_path: Path, narrow: dict[str, Tensor]) -> None:
    torch.save(narrow, tmp_path / "v.pth", _use_new_zipfile_serialization=False)
    assert load_vgg("vgg19", tmp_path / "v.pth").keys() == narrow.keys()


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_bad_files_end_in_one_line_that_names_them(
    tmp_path: Path, narrow: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "features.16.weight"

    def tensors(name: str, **changes: Tensor) -> None:
        torch.save(narrow | {k.replace("__", "."): v for k, v in changes.items()}, name)

    torch.save({k: v for k, v in narrow.items() if k != key}, "missing.pth")
    tensors("shape.pth", features__16__weight=torch.zeros(4, 4, 1, 1))
    tensors("surplus.pth", features__40__weight=torch.zeros(4, 4, 1, 1))
    tensors("nan.pth", features__16__weight=torch.full_like(narrow[key], float("nan")))
    tensors("whole.pth", features__16__weight=torch.zeros(narrow[key].shape, dtype=torch.int64))
    tensors("huge.pth", features__16__weight=torch.zeros(()).expand(narrow[key].shape))
    save_file(narrow, "cut.safetensors")
    Path("cut.safetensors").write_bytes(Path("cut.safetensors").read_bytes()[:-9])
    torch.save(narrow, "cut.pth")
    Path("cut.pth").write_bytes(Path("cut.pth").read_bytes()[:-999])
    Path("code.pth").write_bytes(pickle.dumps({"features.0.weight": Code()}))
    Path("page.pth").write_bytes(b"<html>not found</html>")
    Path("empty.pth").touch()
    Path("folder.pth").mkdir()
    torch.save([1, 2], "list.pth")
    said = {
        "missing.pth": "missing, such as features.16.weight",
        "shape.pth": "features.16.weight has the shape",
        "surplus.pth": "1 tensors too many",
        "nan.pth": "not finite",
        "whole.pth": "no plain tensor",
        "huge.pth": "claims the shape",
        "cut.safetensors": "damaged or cut off",
        "cut.pth": "damaged or cut off",
        "code.pth": "contains code",
        "page.pth": "web page",
        "empty.pth": "empty",
        "folder.pth": "cannot read folder.pth",
        "absent.pth": "cannot read absent.pth",
        "list.pth": "32 of its tensors are missing",
    }
    for name, part in said.items():
        with pytest.raises(UserError) as caught:
            load_vgg("vgg19", Path(name))
        message = str(caught.value)
        assert part in message, name
        assert name in message
        assert "\n" not in message
    assert not Path("harm").exists()


def test_another_network_is_refused(tmp_path: Path, narrow: dict[str, Tensor]) -> None:
    save_file(narrow, tmp_path / "vgg19.safetensors")
    with pytest.raises(UserError, match=r"does not hold the weights of vgg16: .*missing"):
        load_vgg("vgg16", tmp_path / "vgg19.safetensors")


def test_vgg16_needs_a_file() -> None:
    with pytest.raises(UserError, match="vgg16 is not downloaded; name a file"):
        load_vgg("vgg16")


class Network:
    """Stands for the hub and the web: serves files by their source, and remembers what was asked for."""

    def __init__(self, files: dict[type, Path | None]) -> None:
        self.files = files
        self.asked: list[str] = []

    def fetch(self, target: Path, sources: Sequence[HubFile | WebFile], *, sha256: str, progress: Any) -> str:
        self.asked.append(str(sources[0]))
        progress(1, 1)
        file = self.files[type(sources[0])]
        if file is None:
            raise UserError(f"could not fetch {target.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        assert digest_of(target) == sha256
        return sha256


HUB = "hf:timm/vgg19.tv_in1k/model.safetensors@128d470"
WEB = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


@pytest.fixture
def network(tmp_path: Path, narrow: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    save_file(narrow, tmp_path / "served.safetensors")
    torch.save(narrow, tmp_path / "served.pth")
    served = {HubFile: tmp_path / "served.safetensors", WebFile: tmp_path / "served.pth"}
    pinned = tuple((source, digest_of(served[type(source)])) for source, _ in perceptual._VGG19)
    monkeypatch.setattr(perceptual, "_VGG19", pinned)
    network = Network(dict(served))
    monkeypatch.setattr(hub, "fetch", network.fetch)
    return network


def told(done: int, total: int) -> None:
    """Stands for a progress bar."""


def test_vgg19_is_fetched_once(network: Network, narrow: dict[str, Tensor]) -> None:
    for _ in range(2):
        found = load_vgg("vgg19", progress=told)
        assert all(torch.equal(found[key], narrow[key]) for key in narrow)
    assert network.asked == [HUB]


def test_where_the_hub_fails_the_other_source_is_asked(network: Network, narrow: dict[str, Tensor]) -> None:
    network.files[HubFile] = None
    for _ in range(2):
        assert load_vgg("vgg19", progress=told).keys() == narrow.keys()
    assert network.asked == [HUB, WEB]


def test_a_changed_file_in_the_cache_is_fetched_again(network: Network, tmp_path: Path) -> None:
    load_vgg("vgg19", progress=told)
    (cached,) = (tmp_path / "cache").rglob("model.safetensors")
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    load_vgg("vgg19", progress=told)
    assert network.asked == [HUB, HUB]


def test_where_all_sources_fail_one_line_says_so(network: Network) -> None:
    network.files = {HubFile: None, WebFile: None}
    with pytest.raises(
        UserError, match=r"^could not fetch model.*; could not fetch vgg19-dcbb9e9d\.pth; or give a file"
    ):
        load_vgg("vgg19", progress=told)


def test_offline_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"^model\.safetensors is not in the cache and HF_HUB_OFFLINE forbids"):
        load_vgg("vgg19")


def test_the_pinned_files_are_those_of_timm_and_torchvision() -> None:
    (timm, timm_digest), (torchvision, torchvision_digest) = perceptual._VGG19
    assert (str(timm), str(torchvision)) == (HUB, WEB)
    assert timm_digest == "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669"
    assert torchvision_digest == "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
