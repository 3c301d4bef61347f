"""What is written for ncnn: read again here, and run by ncnn itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from upscaler.model.compact import Compact
from upscaler.model.export import round_to_half
from upscaler.model.export_checks import TOLERANCE, largest_difference, ncnn_run
from upscaler.model.export_layers import Exportable
from upscaler.model.export_ncnn import ncnn_pair
from upscaler.model.rrdbnet import RRDBNet
from upscaler.model.weights import load_weights

_TINY = """\
7767517
8 9
Input                    input                    0 1 data
Split                    split_data               1 2 data data_split_0 data_split_1
Convolution              body.0                   1 1 data_split_0 body.0 0=5 1=3 4=1 5=1 6=135
PReLU                    body.1                   1 1 body.0 body.1 0=5
Convolution              body.2                   1 1 body.1 body.2 0=12 1=3 4=1 5=1 6=540
PixelShuffle             pixelshuffle_4           1 1 body.2 pixelshuffle_4 0=2
Interp                   interp_5                 1 1 data_split_1 interp_5 0=1 1=2.00000000e+00 2=2.00000000e+00
BinaryOp                 binaryop_6               2 1 pixelshuffle_4 interp_5 output 0=0
"""


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_pair_is_read_again_bit_for_bit(exportable: Exportable, tmp_path: Path, half: bool) -> None:
    if half:
        round_to_half(exportable)
    for suffix, content in zip((".param", ".bin"), ncnn_pair(exportable, half=half), strict=True):
        (tmp_path / f"net{suffix}").write_bytes(content)
    weights = load_weights(tmp_path / "net.param")
    assert (weights.architecture, weights.settings) == (exportable.architecture, exportable.settings())
    for key, tensor in exportable.state_dict().items():
        assert torch.equal(weights.tensors[key], tensor), key


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_ncnn_computes_the_same(exportable: Exportable, half: bool) -> None:
    if half:
        round_to_half(exportable)
    run = ncnn_run(*ncnn_pair(exportable, half=half))
    for height, width in ((1, 2), (13, 7), (5, 31)):
        x = torch.rand(1, exportable.channels, height * exportable.unshuffle, width * exportable.unshuffle)
        assert largest_difference(run, exportable, x) < TOLERANCE / 10


def test_the_layers_are_those_that_other_programs_know() -> None:
    param, binary = ncnn_pair(Compact(features=5, convolutions=0, scale=2))
    assert param.decode() == _TINY
    assert len(binary) == 4 * (1 + 135 + 5 + 5 + 1 + 540 + 12)


def test_a_dense_block_is_the_one_of_real_esrgan() -> None:
    param = ncnn_pair(RRDBNet(blocks=1, features=4, growth=2, residual_scale=-0.2))[0].decode()
    lines = param.splitlines()
    assert lines[17].endswith(" 0=1 -23301=2,-2.00000000e-01,1.00000000e+00")
    assert lines[5].endswith(" 0=2 1=3 4=1 5=1 6=72 9=2 -23310=1,2.00000000e-01")
    assert not re.search(r"[=,][^,\s]{16}", param), "old versions of ncnn read 15 characters of a number"


def test_half_of_an_odd_number_of_weights_is_padded() -> None:
    whole, half = (ncnn_pair(Compact(features=1, convolutions=0, channels=1), half=half)[1] for half in (False, True))
    assert len(whole) == 4 * (1 + 9 + 1 + 1 + 1 + 144 + 16)
    assert len(half) == 4 * (1 + 5 + 1 + 1 + 1 + 72 + 16)
