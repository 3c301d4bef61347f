from __future__ import annotations

from typing import Any

import pytest
import torch

from upscaler.errors import UserError
from upscaler.model.compact import Compact
from upscaler.model.interpolation import blend
from upscaler.model.weights import Weights, build_network


def weights(seed: int, **settings: Any) -> Weights:
    torch.manual_seed(seed)
    network = Compact(features=4, convolutions=1, **settings)
    return Weights(network.architecture, network.settings(), network.state_dict(), {}, f"digest{seed}")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.5])
def test_every_tensor_is_between_its_parents(alpha: float) -> None:
    psnr, gan = weights(0), weights(1)
    mixed = blend(psnr, gan, alpha)
    for key, tensor in mixed.tensors.items():
        assert torch.allclose(tensor, psnr.tensors[key] + alpha * (gan.tensors[key] - psnr.tensors[key]), atol=1e-6)
    assert mixed.metadata == {"alpha": f"{alpha:g}", "parent_psnr": "digest0", "parent_gan": "digest1"}
    build_network(mixed)


def test_the_ends_are_the_parents() -> None:
    psnr, gan = weights(0), weights(1)
    for alpha, parent in ((0, psnr), (1, gan)):
        mixed = blend(psnr, gan, alpha)
        assert all(torch.equal(tensor, parent.tensors[key]) for key, tensor in mixed.tensors.items())


def test_a_blend_has_a_digest_of_its_own() -> None:
    psnr, gan = weights(0), weights(1)
    digests = {blend(psnr, gan, 0.5).digest, blend(psnr, gan, 0.6).digest, blend(gan, psnr, 0.5).digest}
    assert len(digests) == 3


def test_other_numbers_cannot_be_blended() -> None:
    with pytest.raises(UserError, match=r"one architecture.* with scale 2 and 4"):
        blend(weights(0, scale=2), weights(1), 0.5)
