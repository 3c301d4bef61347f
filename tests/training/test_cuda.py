"""Steps of training on CUDA, without a GPU: that devices and precisions do not mix, and that nothing waits.

``gpu`` of ``tests/conftest.py`` says what is seen there and what is not. Autocast does nothing on it: what that does is
looked at with networks alone, and in steps on the CPU, where it is PyTorch's own.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upscaler.model.compact import Compact
from upscaler.model.rrdbnet import RRDBNet
from upscaler.training.config import Stage
from upscaler.training.degradation import PRESETS, find_preset
from upscaler.training.discriminators import build_discriminator
from upscaler.training.layering import load_config
from upscaler.training.measuring import gradient_sizes
from upscaler.training.pairs import Batch
from upscaler.training.perceptual import VGGFeatures
from upscaler.training.players import judging, make_discriminator, placed
from upscaler.training.processes import Processes
from upscaler.training.steps import Steps

NOISY = (
    "gan.stabilisers.instance_noise=10",
    "gan.stabilisers.smoothing=0.1",
    "gan.stabilisers.label_noise=0.1",
    "gan.stabilisers.label_flips=0.1",
)
SEEN = (
    "gan.losses.feature_weight=1",
    "gan.losses.texture_weight=1",
    "gan.losses.evenness_weight=0.1",
    "gan.perceptual.layers={conv1_1=1.0}",
    "gan.perceptual.texture_layers={relu1_1=1.0}",
)
GANS: dict[str, tuple[str, ...]] = {
    "vgg": ("gan.discriminator.kind=vgg", "gan.discriminator.norm=batch", *NOISY),
    "unet": ("gan.discriminator.kind=unet", "gan.discriminator.norm=spectral", "data.sharpen=true"),
    "patch": ("gan.discriminator.kind=patch", "gan.discriminator.norm=spectral", *SEEN),
    "wgan": (
        "gan.discriminator.norm=none",
        "gan.losses.adversarial=wgan",
        "gan.losses.penalty_weight=10",
        "gan.discriminator.steps=2",
    ),
    "r1": ("gan.discriminator.norm=none", "gan.losses.adversarial=standard", "gan.losses.r1_weight=1"),
    "parts": ("gan.discriminator.norm=none", "gan.losses.adversarial=hinge", "gan.data.accumulate=2"),
    "sgd": ("generator.optimiser=sgd", "discriminator.optimiser=adamw", "gan.losses.adversarial=lsgan"),
}
PENALISED = ("wgan", "r1")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def stage(*settings: str, last: bool = True) -> Stage:
    small = ("data.batch=2", "data.patch=32", "gan.discriminator.features=4", "engine.channels_last=true")
    clipped = ("generator.clip=0.1", "discriminator.clip=0.1")
    return load_config("quick", settings=[*small, *clipped, *settings]).stages[-1 if last else 0]


def batches(lr: bool) -> Iterator[Batch]:
    for number in range(100):
        hr = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        yield Batch(hr, hr[..., ::4, ::4].contiguous() if lr else None, (2 * number, 2 * number + 1))


def make(chosen: Stage, device: torch.device, degradation: str = "bicubic") -> Steps:
    generator = Compact(features=4, convolutions=1)
    discriminator = make_discriminator(chosen, seed=1)
    vgg: VGGFeatures | None = None
    if chosen.losses.feature_weight:
        tensors = {"features.0.weight": torch.rand(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
        vgg = VGGFeatures("vgg19", ["conv1_1", "relu1_1"], tensors).to(device)
    return Steps(
        chosen,
        4,
        placed(copy.deepcopy(generator), chosen.engine, device),
        copy.deepcopy(generator).to(device).eval().requires_grad_(False),
        None if discriminator is None else placed(discriminator, judging(chosen), device),
        vgg,
        find_preset(degradation),
        Processes(),
        equivariant=False,
    )


def lasting(steps: Steps) -> Iterator[Tensor]:
    """Everything that is kept from step to step, and the gradients."""
    learners = [learner for learner in (steps.generator, steps.discriminator) if learner]
    for learner in learners:
        yield from (p.grad for p in learner.network.parameters() if p.grad is not None)
        yield from (state for state in tree_leaves(learner.optimiser.state_dict()) if isinstance(state, Tensor))
    for network in (steps.average, *(learner.network for learner in learners)):
        yield from (tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    yield from steps.meter.state()["sums"].values()
    yield from steps._watched.values()


def go(gpu: Any, chosen: Stage, degradation: str = "bicubic") -> None:
    """Two steps, the second of which is watched, without a wait; then a reading."""
    with gpu:
        steps = make(chosen, gpu.device, degradation)
        source = batches(lr=degradation == "bicubic")
        with gpu.unwaited():
            for watch in (False, True):
                steps.make(source, watch=watch, histograms=False)
        kept = list(lasting(steps))
        assert {tensor.device for tensor in kept} == {gpu.device}
        assert {tensor.dtype for tensor in kept} == {torch.float32}
        gpu.waits.clear()
        values, _ = steps.reading()
        assert len(values) > 8
        assert set(gpu.waits) == {"aten._local_scalar_dense.default"}
    assert gpu.products


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_psnr_step(gpu: Any, precision: str) -> None:
    go(gpu, stage(f"engine.precision={precision}", last=False))


@pytest.mark.parametrize("settings", GANS.values(), ids=GANS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gan_step(gpu: Any, settings: tuple[str, ...], precision: str) -> None:
    go(gpu, stage(*settings, f"engine.precision={precision}"))


@pytest.mark.parametrize("degradation", PRESETS)
def test_lr_made_on_the_device(gpu: Any, degradation: str) -> None:
    with gpu:
        hr = torch.rand(4, 3, 48, 64, device=gpu.device)
        degrade = find_preset(degradation)
        with gpu.unwaited():
            for seed in range(4):  # what is drawn decides what is done
                lr = degrade(hr, 4, torch.Generator().manual_seed(seed))
                assert (lr.shape, lr.device, lr.dtype) == ((4, 3, 12, 16), gpu.device, torch.float32)


def test_a_step_with_lr_made_on_the_device(gpu: Any) -> None:
    go(gpu, stage(*GANS["unet"]), "realesrgan")


def test_a_term_that_does_not_depend_on_the_pictures(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upscaler.training.steps.pixel_loss", lambda _, fake, target: (fake - target).mean().detach())
    go(gpu, stage())


def test_a_network_without_gradients(gpu: Any) -> None:
    with gpu:
        sizes = gradient_sizes("generator", Compact(features=4, convolutions=1).to(gpu.device))
        assert {size.device for size in sizes.values()} == {gpu.device}


def test_constants_are_sent_once(gpu: Any) -> None:
    with gpu:
        hr = torch.rand(1, 3, 32, 32, device=gpu.device)
        sizes = []
        for seed in (0, 0):
            find_preset("realesrgan")(hr, 4, torch.Generator().manual_seed(seed))
            sizes.append(len(gpu._pinned))
    assert sizes[1] - sizes[0] < sizes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_on_cuda_computes_all_products_in_half_precision(autocasting_gpu: Any, dtype: torch.dtype) -> None:
    vgg = VGGFeatures(
        "vgg19", ["conv1_1"], {"features.0.weight": torch.rand(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    )
    discriminators = [build_discriminator(kind, features=4, kernel=3, norm="spectral") for kind in ("vgg", "patch")]
    generators = Compact(features=4, convolutions=1), RRDBNet(features=4, growth=2, blocks=1)
    with autocasting_gpu as gpu, torch.no_grad():
        small, large = (torch.rand(1, 3, edge, edge, device=gpu.device) for edge in (8, 32))
        with torch.autocast("cuda", dtype):
            for generator in generators:
                on_gpu = generator.requires_grad_(False).to(gpu.device)
                on_gpu.reconstruct(on_gpu.features(small))
            for network in (*discriminators, vgg):
                network.requires_grad_(False).to(gpu.device).eval()(large)
    assert {found for _, found in gpu.products} == {dtype}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions and matrix products by name and type, and sees that their arguments are of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[tuple[str, torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "convolution" in name or name in ("addmm", "mm", "bmm", "baddbmm"):
            (dtype,) = {tensor.dtype for tensor in tree_leaves(args) if isinstance(tensor, Tensor)}
            self.products[name, dtype] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [None, *GANS])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precisions_of_a_step_on_the_cpu(kind: str | None, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks and their gradients are in half precision, penalties and all that is kept in full."""
    chosen = stage(*GANS.get(kind or "", ()), "data.sharpen=false", f"engine.precision={precision}", last=bool(kind))
    monkeypatch.setenv("SRUP_WINOGRAD", "0")
    steps, source = make(chosen, torch.device("cpu")), batches(lr=True)
    measured: list[Tensor] = []
    monkeypatch.setattr(steps.meter, "add", lambda _, value: measured.append(value))
    with Watch() as watch:
        steps.make(source, watch=True, histograms=True)
    expected = {PRECISIONS[precision]} | ({torch.float32} if kind in PENALISED else set())
    assert {dtype for name, dtype in watch.products if "convolution" in name} == expected
    assert {tensor.dtype for tensor in (*lasting(steps), *measured)} == {torch.float32}
