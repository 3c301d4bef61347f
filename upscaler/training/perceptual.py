"""Losses on features of VGG networks that were trained on ImageNet.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
(arXiv:1409.1556). A layer is called after its block and its place there: ``conv5_4`` is the convolution
before its activation, as ESRGAN has it, ``relu5_4`` what the activation makes of it, as SRGAN has it, and
``pool5`` the pooling that ends the block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscaler.digests import digest_of
from upscaler.errors import UserError
from upscaler.model import hub
from upscaler.model.hub import HubFile, Source, WebFile
from upscaler.model.layouts import check_shapes
from upscaler.model.web import Progress
from upscaler.model.weights import as_float32, check_storage, read_tensors

VGG = Literal["vgg19", "vgg16"]
Distance = Literal["l1", "l2"]

_CONVOLUTIONS: dict[VGG, tuple[int, ...]] = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}
_WIDTHS = (64, 128, 256, 512, 512)
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

# The same numbers in two files, as they came with torchvision.
_VGG19: tuple[tuple[Source, str], ...] = (
    (
        HubFile("timm/vgg19.tv_in1k", "model.safetensors", "128d470"),
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
    ),
    (
        WebFile("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
)


class VGGFeatures(nn.Module):
    """The features of pictures at some layers. Frozen: only pictures get gradients.

    Args:
        architecture: ``vgg19`` or ``vgg16``.
        layers: names of layers; what is deeper than the deepest one is neither kept nor computed.
        tensors: of ``load_vgg``, or any ``features.N.weight`` and ``features.N.bias``; their memory is shared.

    Raises:
        UserError: a layer that the network does not have.
        ValueError: tensors that do not make this network.
    """

    _mean: Tensor
    _deviation: Tensor

    def __init__(self, architecture: VGG, layers: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        check_layers(architecture, layers)
        names = _layer_names(architecture)
        names = names[: 1 + max(names.index(layer) for layer in layers)]
        self._names = names
        self._wanted = frozenset(layers)
        with torch.device("meta"):
            self.features = nn.Sequential(*_modules(names, self._wanted))
        needed = {f"features.{key}": tensors.get(f"features.{key}") for key in self.features.state_dict()}
        found = {key: tensor for key, tensor in needed.items() if tensor is not None}
        check_shapes(self.state_dict(), found)
        self.load_state_dict(found, assign=True)
        self.register_buffer("_mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), RGB 0..1, to features by layer, (N, C, H / s, W / s) with s of ``stride``."""
        x = (x - self._mean) / self._deviation
        found = {}
        for name, module in zip(self._names, self.features, strict=True):
            x = module(x)
            if name in self._wanted:
                found[name] = x
        return found


def check_layers(architecture: VGG, layers: Sequence[str]) -> None:
    """Whether a network has these layers.

    Raises:
        UserError: it does not, or none are named.
    """
    known = _layer_names(architecture)
    if not layers:
        raise UserError(f"name at least one layer of {architecture}, such as {known[-3]}")
    for layer in layers:
        if layer not in known:
            near = get_close_matches(layer.lower(), known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"{architecture} has no layer {layer}; {hint}")


def stride(layer: str) -> int:
    """Pixels of the picture for each position of a layer, along each edge."""
    halvings = int(layer[4]) - (not layer.startswith("pool"))
    return int(2**halvings)


def load_vgg(architecture: VGG, file: Path | None = None, progress: Progress | None = None) -> dict[str, Tensor]:
    """The weights of a network's convolutions, float32 on the CPU.

    Args:
        architecture: ``vgg19`` or ``vgg16``.
        file: safetensors or a PyTorch file in the layout of torchvision and timm, ``features.N.weight`` and
            ``features.N.bias``, with or without that prefix and with or without the classifier, in any
            precision. None takes VGG19 from the hub, or from the cache where it has been fetched before.
        progress: told of (bytes done, bytes in all) while weights are downloaded.

    Returns:
        Tensors by ``features.N.weight`` and ``features.N.bias``.

    Raises:
        UserError: a file that cannot be read, is damaged, contains code or is no such network; a download
            that failed; no file for VGG16.
    """
    if file is None:
        if architecture != "vgg19":
            raise UserError(f"{architecture} is not downloaded; name a file of its weights, or take vgg19")
        file = _fetched(progress)
    with torch.device("meta"):
        network = nn.Sequential(*_modules(_layer_names(architecture), frozenset()))
    expected = {f"features.{key}": tensor for key, tensor in network.state_dict().items()}
    try:
        found = {}
        for key, tensor in read_tensors(file)[0].items():
            if match := re.fullmatch(r"(?:module\.)?(?:features\.)?(\d+\.(?:weight|bias))", key):
                found[f"features.{match[1]}"] = tensor
        check_storage(found)
        check_shapes(expected, found)
        return as_float32(found)
    except ValueError as error:
        raise UserError(f"{file} does not hold the weights of {architecture}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def feature_distance(
    fake: Mapping[str, Tensor], real: Mapping[str, Tensor], weights: Mapping[str, float], distance: Distance
) -> Tensor:
    """The perceptual loss: the mean distance of features, summed over layers with their weights.

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016
    (arXiv:1603.08155), equation 2.

    Args:
        fake, real: features by layer of ``VGGFeatures``.
        weights: by layer.
        distance: ``l1`` as in ESRGAN, or ``l2``, the squared difference, as in SRGAN.
    """
    function = {"l1": F.l1_loss, "l2": F.mse_loss}[distance]
    terms = [weight * function(fake[layer].float(), real[layer].float()) for layer, weight in weights.items()]
    return torch.stack(terms).sum()


def texture_distance(
    fake: Mapping[str, Tensor], real: Mapping[str, Tensor], weights: Mapping[str, float], patch: int
) -> Tensor:
    """EnhanceNet's texture loss: how far the correlations of features differ, patch by patch.

    Sajjadi et al., "EnhanceNet: Single Image Super-Resolution Through Automated Texture Synthesis", ICCV 2017
    (arXiv:1612.07919), equation 6, on patches that do not overlap (section 4.2.3). The Gram matrix F F^T of a
    patch is divided by its number of positions, and the squared difference of two of them is averaged over
    its entries, the patches and the batch, so that neither width, patch nor batch change its size.

    Args:
        fake, real: features by layer of ``VGGFeatures``.
        weights: by layer.
        patch: edge of the patches in pixels of the picture, a multiple of each layer's stride; 16 in the paper.
            What is left at the right and bottom edge of a picture counts for nothing.

    Raises:
        ValueError: another patch, or one larger than the picture.
    """
    terms = []
    for layer, weight in weights.items():
        edge, rest = divmod(patch, stride(layer))
        if rest or not edge or min(fake[layer].shape[-2:]) < edge:
            raise ValueError(f"features of {layer} have no patches of {patch} pixels")
        terms.append(weight * _gram_distance(_patches(fake[layer], edge), _patches(real[layer], edge)))
    return torch.stack(terms).sum()


def _patches(features: Tensor, edge: int) -> Tensor:
    """(N, C, H, W) to (patches, C, positions), positions being edge * edge; scaled for a mean over them."""
    count, channels, height, width = features.shape
    down, across = height // edge, width // edge
    cut = features[..., : down * edge, : across * edge].float() / edge
    cut = cut.reshape(count, channels, down, edge, across, edge).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(count * down * across, channels, edge * edge)


def _gram_distance(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared difference of the entries of A A^T and B B^T, (patches, C, positions) each."""
    channels, positions = a.shape[1:]
    # In full precision: sums of squared features leave the range of half precision.
    with torch.autocast(a.device.type, enabled=False):
        if channels <= positions:
            return F.mse_loss(a @ a.mT, b @ b.mT)
        # A A^T - B B^T is half of D S^T + S D^T with D = A - B and S = A + B, and the sum of its squares
        # needs only products of positions with positions, which are fewer.
        d, s = a - b, a + b
        cross = d.mT @ s
        squares = ((d.mT @ d) * (s.mT @ s)).sum() + (cross * cross.mT).sum()
        return squares / (2 * len(a) * channels**2)


def _layer_names(architecture: VGG) -> list[str]:
    """The names of the layers in the order of torchvision's ``features``."""
    names = []
    for block, convolutions in enumerate(_CONVOLUTIONS[architecture], start=1):
        for place in range(1, convolutions + 1):
            names += [f"conv{block}_{place}", f"relu{block}_{place}"]
        names.append(f"pool{block}")
    return names


def _modules(names: Sequence[str], wanted: frozenset[str]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    inputs = 3
    for name in names:
        if name.startswith("conv"):
            outputs = _WIDTHS[int(name[4]) - 1]
            modules.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            inputs = outputs
        elif name.startswith("relu"):
            # In place saves memory, unless what it would overwrite is a result.
            modules.append(nn.ReLU(inplace=name.replace("relu", "conv") not in wanted))
        else:
            modules.append(nn.MaxPool2d(2))
    return modules


def _fetched(progress: Progress | None) -> Path:
    """VGG19 in the cache, downloaded if need be."""
    places = [(source, _cached(source), sha256) for source, sha256 in _VGG19]
    for _, target, sha256 in places:
        if target.exists() and digest_of(target) == sha256:
            return target
    refusals = []
    for source, target, sha256 in places:
        try:
            hub.fetch(target, [source], sha256=sha256, progress=progress)
        except UserError as error:
            refusals.append(str(error))
        else:
            return target
    reason = refusals[0] if hub.is_offline() else "; ".join(refusals)
    raise UserError(f"{reason}; or give a file with --set perceptual.file=FILE")


def _cached(source: Source) -> Path:
    return source.cached if isinstance(source, HubFile) else hub.cache_folder() / "weights" / Path(source.url).name
