from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.interpolation import UNRELATED, Parent, between, blend, kinship, unfolded
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import Weights, build_network, load_weights, save_weights


def parent(seed: int, licence: str | None = None, metadata: dict[str, str] | None = None, **settings: Any) -> Parent:
    torch.manual_seed(seed)
    network = Compact(features=4, convolutions=1, **settings)
    tensors = {key: torch.randn_like(tensor) for key, tensor in network.state_dict().items()}
    weights = Weights(network.architecture, network.settings(), tensors, metadata or {}, f"digest{seed}")
    return Parent(f"net{seed}", weights, licence)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_every_tensor_is_between_its_parents(alpha: float) -> None:
    psnr, gan = parent(0), parent(1)
    mixed = between(psnr, gan, alpha)
    assert any("body.1" in key and tensor.ndim == 1 for key, tensor in mixed.tensors.items()), "a learned slope"
    for key, tensor in mixed.tensors.items():
        a, b = psnr.weights.tensors[key].double(), gan.weights.tensors[key].double()
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor.double(), a + alpha * (b - a), atol=1e-6)
    build_network(mixed)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-42])
def test_the_ends_are_the_parents_bit_for_bit(value: float) -> None:
    psnr, gan = parent(0), parent(1)
    for each, other in ((psnr, -value), (gan, value)):
        each.weights.tensors["body.0.bias"][:2] = torch.tensor([value, other])
    for alpha, end in ((0, psnr), (1, gan)):
        mixed = between(psnr, gan, alpha)
        assert all(torch.equal(bits(tensor), bits(end.weights.tensors[key])) for key, tensor in mixed.tensors.items())
    third = blend((psnr, gan, parent(2)), (0, 1, 0))
    assert all(torch.equal(bits(tensor), bits(gan.weights.tensors[key])) for key, tensor in third.tensors.items())


def test_several_parents_have_their_shares() -> None:
    parents = [parent(seed) for seed in range(3)]
    mixed = blend(parents, (0.25, 0.5, 0.25))
    for key, tensor in mixed.tensors.items():
        a, b, c = (each.weights.tensors[key] for each in parents)
        assert torch.allclose(tensor, a / 4 + b / 2 + c / 4, atol=1e-6)
    assert "alpha" not in mixed.metadata
    assert [each["share"] for each in json.loads(mixed.metadata["parents"])] == [0.25, 0.5, 0.25]


def test_a_blend_tells_of_its_parents() -> None:
    recipe = {"training": "preset = 'x'", "stage": "psnr", "licence": "MIT", "scale": "4", "features": "4"}
    mixed = between(parent(0, "MIT", recipe), parent(1, "Apache-2.0"), 0.8)
    assert mixed.metadata["alpha"] == "0.8"
    assert mixed.metadata["licence"] == "MIT AND Apache-2.0"
    first, second = unfolded(mixed.metadata)["parents"]
    assert first == {
        "name": "net0",
        "sha256": "digest0",
        "share": pytest.approx(0.2),
        "licence": "MIT",
        "metadata": {"training": "preset = 'x'", "stage": "psnr"},
    }
    assert second == {
        "name": "net1", "sha256": "digest1", "share": 0.8, "licence": "Apache-2.0", "metadata": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("licences", "together"),
    [(("MIT", "MIT"), "MIT"), ((None, "MIT"), "unknown AND MIT"), ((None, None), None)],
)
def test_all_licences_hold(licences: tuple[str | None, str | None], together: str | None) -> None:
    mixed = between(parent(0, licences[0]), parent(1, licences[1]), 0.5)
    assert mixed.metadata.get("licence") == together


def test_a_blend_of_blends_tells_of_all_of_them(tmp_path: Path) -> None:
    inner = between(parent(0), parent(1, metadata={"parents": "digest0"}), 0.5)
    path = tmp_path / "inner.safetensors"
    digest = save_weights(path, inner.architecture, inner.settings, inner.tensors, inner.metadata)
    outer = between(Parent("inner", load_weights(path)), parent(2), 0.1)
    told = unfolded(outer.metadata)["parents"][0]
    assert (told["name"], told["sha256"], told["metadata"]["alpha"]) == ("inner", digest, "0.5")
    grandparents = told["metadata"]["parents"]
    assert [each["name"] for each in grandparents] == ["net0", "net1"]
    assert grandparents[1]["metadata"] == {"parents": "digest0"}


def test_other_metadata_stay_as_they_are() -> None:
    for metadata in (
        {},
        {"stage": "gan"},
        {"parents": "0" * 64},
        {"parents": "1234"},
        {"parents": "[" * 100_000},
        {"parents": "[NaN]"},
    ):
        assert unfolded(metadata) == metadata


def test_a_blend_has_a_digest_of_its_own() -> None:
    a, b, c = (parent(seed) for seed in range(3))
    blends = [between(a, b, alpha) for alpha in (0.5, 0.6, 0.60000001)]
    blends += [between(b, a, 0.5), blend((a, b, c), (0.5, 0.5, 0))]
    assert len({mixed.digest for mixed in blends}) == len(blends)


def test_files_of_different_layouts_can_be_blended(tmp_path: Path) -> None:
    """The first ESRGAN release and a wrapped checkpoint in fp16, with canonical keys."""
    torch.manual_seed(0)
    networks = [RRDBNet(features=4, growth=2, blocks=1) for _ in range(2)]
    foreign = {
        key.replace("body.0.rdb", "RRDB_trunk.0.RDB").replace("conv_body", "trunk_conv").replace("conv_up", "upconv")
        .replace("conv_hr", "HRconv"): tensor
        for key, tensor in networks[0].state_dict().items()
    }  # fmt: skip
    assert not foreign.keys() & {"conv_body.weight", "conv_hr.weight", "body.0.rdb1.conv1.weight"}
    torch.save(foreign, tmp_path / "old.pth")
    halves = {f"module.{key}": tensor.half() for key, tensor in networks[1].state_dict().items()}
    torch.save({"params_ema": halves}, tmp_path / "half.pth")
    save_file(networks[1].state_dict(), tmp_path / "canonical.safetensors")
    old, half, canonical = (
        Parent(name, load_weights(tmp_path / name)) for name in ("old.pth", "half.pth", "canonical.safetensors")
    )
    for other in (half, canonical):
        mixed = between(old, other, 0.25)
        for key, tensor in networks[0].state_dict().items():
            expected = 0.75 * tensor + 0.25 * other.weights.tensors[key]
            assert torch.allclose(mixed.tensors[key], expected, atol=1e-6)


def test_other_numbers_cannot_be_blended() -> None:
    with pytest.raises(UserError, match=r"one architecture .*; net0 and net1 are compact with scale 2 and 4$"):
        between(parent(0, scale=2), parent(1), 0.5)
    with pytest.raises(UserError, match=r"net0 and net1 are compact with activation prelu and leakyrelu$"):
        between(parent(0), parent(1, activation="leakyrelu"), 0.5)
    network = RRDBNet(features=4, growth=2, blocks=1)
    other = Parent("big", Weights(network.architecture, network.settings(), network.state_dict(), {}, ""))
    with pytest.raises(UserError, match=r"net0 and big are compact and rrdbnet$"):
        blend((parent(0), parent(1), other), (0.5, 0.25, 0.25))


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.6), (0.5, 0.25, 0.25)])
def test_shares_that_do_not_fit_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares of"):
        blend((parent(0), parent(1)), shares)


def test_weights_that_overflow_are_refused() -> None:
    with pytest.raises(UserError, match="too large for fp32"):
        between(parent(0), parent(1), 3e38)


def test_kin_are_told_from_strangers() -> None:
    psnr, stranger, other = parent(0), parent(1), parent(2)
    tuned = {key: tensor + 0.1 * torch.randn_like(tensor) for key, tensor in psnr.weights.tensors.items()}
    gan = Parent("gan", Weights("compact", psnr.weights.settings, tuned, {}, ""))
    assert kinship((psnr, psnr)) == pytest.approx(1)
    assert kinship((psnr, gan)) > 0.98
    assert abs(kinship((psnr, stranger))) < UNRELATED
    assert kinship((psnr, gan, other)) == pytest.approx(kinship((psnr, other)))
