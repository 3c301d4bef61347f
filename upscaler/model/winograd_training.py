"""Training with the convolutions of ``winograd.py``: their gradients, and modules that use them."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from upscaler.model import winograd

# With fewer, PyTorch's own convolutions are faster: every step transforms the weights, which costs as much as some 64.
_FEWEST_TILES = 128


class WinogradConvolution(torch.autograd.Function):
    """A 3x3 convolution of stride 1 and padding 1, with all its gradients.

    Gradients that are to be differentiated again are computed by PyTorch's own convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        outputs = weight.shape[0]
        no_slope = winograd.padded(None, outputs, 1)
        return winograd.convolve(
            winograd.pixels(x),
            winograd.transformed(weight.detach()).numpy(),
            winograd.padded(bias, outputs, 0),
            no_slope,
            outputs,
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            sizes = [outputs] if ctx.has_bias else [0]
            ones = [1, 1]
            return torch.ops.aten.convolution_backward(dy, x, weight, sizes, ones, ones, ones, False, [0, 0], 1, wanted)
        gradient = winograd.pixels(dy)
        dx = dw = db = None
        if wanted[0]:
            # The convolution by which dy becomes dx has the kernels turned by half and the channels exchanged.
            u = winograd.transformed(weight.flip(2, 3).transpose(0, 1)).numpy()
            dx = winograd.convolve(
                gradient, u, winograd.padded(None, inputs, 0), winograd.padded(None, inputs, 1), inputs
            )
        if wanted[1]:
            dw = winograd.weight_gradient(winograd.pixels(x), gradient)
        if wanted[2]:
            db = dy.sum((0, 2, 3))
        return dx, dw, db


def accelerate(network: nn.Module) -> None:
    """Make the 3x3 convolutions of a network that is trained on the CPU use ``WinogradConvolution``.

    Modules, parameters and their names stay as they are. Calls with other tensors, as under autocast or on another
    device, and those that would not gain are PyTorch's own, and all of them are where this is not available.
    """
    if not winograd.usable():
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and winograd.suits(module):
            module._conv_forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 4
    tiles = x.shape[0] * winograd.tiles_of(*x.shape[-2:])
    gains = tiles >= _FEWEST_TILES and min(weight.shape[:2]) >= winograd.FEWEST_CHANNELS
    if not plain or not gains or torch.is_autocast_enabled("cpu"):
        direct: Tensor = nn.Conv2d._conv_forward(module, x, weight, bias)
        return direct
    fast: Tensor = WinogradConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return fast
