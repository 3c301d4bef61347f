from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from upscaler.model.compact import Compact
from upscaler.model.residual import Residual
from upscaler.training.muon import Muon, orthogonal


def _iterated(matrix: Tensor) -> Tensor:
    """Jordan's Newton-Schulz iteration as published, one matrix, in double precision."""
    matrix = matrix.double()
    matrix = matrix / matrix.norm()
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
    return matrix


@pytest.mark.parametrize("size", [(16, 16), (64, 576), (48, 13), (12, 500)])
def test_orthogonal_is_the_published_iteration(size: tuple[int, int]) -> None:
    matrices = (
        torch.randn(3, *size, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1, 1e4])[:, None, None]
    )
    for result, matrix in zip(orthogonal(matrices), matrices, strict=True):
        wide = matrix if size[0] <= size[1] else matrix.T
        expected = _iterated(wide) if size[0] <= size[1] else _iterated(wide).T
        assert torch.allclose(result.double(), expected, atol=1e-4)


def test_every_direction_becomes_about_as_long() -> None:
    """Singular values down to 1/200 of the largest; below, five steps reach less."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 64, generator=generator))[0] for n in (64, 576))
    matrix = left @ torch.diag(torch.logspace(0, -2.3, 64)) @ right.T
    values = torch.linalg.svdvals(orthogonal(matrix[None]))
    assert 0.6 < values.min() < values.max() < 1.25


def test_zeros_stay() -> None:
    assert torch.equal(orthogonal(torch.zeros(2, 12, 30)), torch.zeros(2, 12, 30))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 20, 3), nn.Conv2d(20, 16, 3), nn.Conv2d(16, 3, 3))


def _descend(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.randn(2, 3, 12, 12, generator=generator)).square().mean().backward()
        optimiser.step()


def test_what_is_no_matrix_is_moved_as_by_adamw() -> None:
    """First and last convolution and biases, while the matrices between them stand still."""
    ours, theirs = _network(), _network()
    rest = {name for name, p in ours.named_parameters() if p.ndim == 1 or 3 in p.shape[:2]}
    assert rest == {"0.weight", "0.bias", "1.bias", "2.bias", "3.weight", "3.bias"}
    for network in (ours, theirs):
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name in rest
    _descend(ours, Muon(ours.parameters(), 0.01, (0.8, 0.6), 0.1), 5)
    _descend(theirs, torch.optim.AdamW(theirs.parameters(), 0.01, (0.8, 0.6), weight_decay=0.1), 5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


SHAPES = [(12, 14, 3, 3), (12, 14, 3, 3), (150, 13, 3, 3), (12, 14, 3, 3), (40, 20)]


def test_matrices_move_along_orthogonal_momentum() -> None:
    """Two steps written out: Nesterov momentum, made orthogonal, 0.2 times the root of the longer side.

    Several of one size, and one with more rows than columns.
    """
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    optimiser = Muon(parameters, 0.5, (0.9, 0.99), weight_decay=0.1)
    expected = [torch.zeros(parameter.flatten(1).shape).double() for parameter in parameters]
    momenta = [torch.zeros_like(each) for each in expected]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()
        for number, parameter in enumerate(parameters):
            assert parameter.grad is not None
            gradient = parameter.grad.double().flatten(1)
            momenta[number] = 0.9 * momenta[number] + 0.1 * gradient
            nesterov = 0.1 * gradient + 0.9 * momenta[number]
            tall = nesterov.shape[0] > nesterov.shape[1]
            direction = _iterated(nesterov.T).T if tall else _iterated(nesterov)
            step = 0.5 * 0.2 * max(nesterov.shape) ** 0.5 * direction
            expected[number] = expected[number] * (1 - 0.5 * 0.1) - step
            assert torch.allclose(parameter.detach().flatten(1).double(), expected[number], atol=2e-4)


def test_low_rank_with_a_little_noise() -> None:
    """As gradients of trained networks are; the square of such a matrix is nearly singular."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, 2, generator=generator), torch.randn(2, 576, generator=generator)
    matrix = left @ right + 1e-3 * torch.randn(64, 576, generator=generator)
    assert torch.allclose(orthogonal(matrix[None])[0].double(), _iterated(matrix), atol=1e-3)


def test_what_is_a_matrix_in_the_networks() -> None:
    """Everything but biases, slopes and the first convolution, whose input has three channels."""
    for network in (Residual(features=16, blocks=2), Compact(features=16, convolutions=2)):
        matrices = [group["params"] for group in Muon(network.parameters(), 0.1).param_groups if group["orthogonal"]]
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert {id(p) for p in matrices[0]} == {id(module.weight) for module in convolutions[1:]}


def test_layout_in_memory_does_not_matter() -> None:
    plain, last = _network(), _network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for network in (plain, last):
        _descend(network, Muon(network.parameters(), 0.01), 3)
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_state_goes_on_bit_for_bit() -> None:
    whole, part = _network(), _network()
    optimiser = Muon(whole.parameters(), 0.01)
    _descend(whole, optimiser, 2)
    part.load_state_dict(whole.state_dict())
    resumed = Muon(part.parameters(), 0.5)
    resumed.load_state_dict(deepcopy(optimiser.state_dict()))
    for network, mover in ((whole, optimiser), (part, resumed)):
        _descend(network, mover, 2)
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_without_gradient_stay() -> None:
    network = _network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    Muon(network.parameters(), 0.1, weight_decay=0.1).step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("make", [lambda p: Muon(p, 0.003), lambda p: torch.optim.Adam(p, 0.003)], ids=["muon", "adam"])
def test_it_learns(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    network = _network()
    pictures = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    before = network(pictures).square().mean()
    _descend(network, make(list(network.parameters())), 40)
    assert network(pictures).square().mean() < 0.2 * before
