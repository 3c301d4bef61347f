"""The networks that take part in a stage: made, initialised and placed on their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from upscaler.errors import UserError
from upscaler.model import winograd_training
from upscaler.model.equivariance import Equivariance
from upscaler.model.layouts import NETWORKS, Built
from upscaler.model.residual import ResidualBlock
from upscaler.model.rrdbnet import RRDB
from upscaler.model.web import Progress
from upscaler.model.weights import Weights
from upscaler.training.config import Config, Engine, Perceptual, Stage
from upscaler.training.discriminators import build_discriminator
from upscaler.training.perceptual import VGGFeatures, check_layers, load_vgg, stride
from upscaler.training.stabilisers import initialise

Generator = Built
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

# Of the activations between a new network's convolutions.
_SLOPES = {"rrdbnet": 0.2, "compact": 0.25, "residual": 0.25}
# What gradient checkpointing computes again.
_BLOCKS = (RRDB, ResidualBlock)
_SETTLED = ("scale", "channels", "return")


def make_generator(config: Config) -> Generator:
    """The generator of a run on the CPU, initialised.

    Raises:
        UserError: settings that its architecture does not have, or with which it cannot be equivariant; or gradient
            checkpointing of a network without blocks.
    """
    network = config.network
    kind = NETWORKS[network.architecture]
    _check_settings(kind, network.settings)
    try:
        generator = kind(**network.settings, scale=config.scale)
    except ValueError as error:
        raise UserError(f"network.settings: {error}") from error
    again = any(stage.engine.checkpointing for stage in config.stages)
    if again and not any(isinstance(module, _BLOCKS) for module in generator.modules()):
        raise UserError(
            f"engine.checkpointing is for networks of blocks, and a {network.architecture} has none; leave it out"
        )
    initialise(
        generator,
        network.initialisation,
        seed=config.seed,
        slope=_SLOPES[generator.architecture],
        scale=network.initialisation_scale,
        last_scale=network.last_layer_scale,
    )
    if network.equivariant:
        _bind(generator)
    return generator


def begin_with(generator: Generator, weights: Weights, *, equivariant: bool) -> None:
    """Give a generator weights to begin with.

    Raises:
        UserError: they are of another network, or not equivariant where that is wanted.
    """
    wanted, found = generator.settings(), weights.settings
    different = [f"{key} {found.get(key)}, not {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if weights.architecture != generator.architecture or different:
        reason = "; ".join(different) if weights.architecture == generator.architecture else "another architecture"
        raise UserError(
            f"--init is a {weights.architecture} and the run trains a {generator.architecture} ({reason}); "
            "set network.architecture and network.settings to those of the weights"
        )
    generator.load_state_dict(weights.tensors)
    if equivariant and not Equivariance(generator).holds():
        raise UserError(
            "the weights of --init do not enlarge turned pictures alike, as network.equivariant wants; "
            "add --set network.equivariant=false"
        )


def make_discriminator(stage: Stage, seed: int, shares: int = 1) -> nn.Module | None:
    """The discriminator of a stage on the CPU, initialised; None where it has none.

    Args:
        stage: its configuration.
        seed: of its first weights.
        shares: parts of each batch that processes normalise for themselves.

    Raises:
        UserError: it does not judge pictures as small as the patches, or batch norm would see single values.
    """
    settings = stage.discriminator
    if settings.kind == "none":
        return None
    discriminator = build_discriminator(
        settings.kind, features=settings.features, kernel=settings.kernel, norm=settings.norm
    )
    if stage.smallest_shown < discriminator.smallest:
        raise UserError(
            f"a {settings.kind} discriminator judges pictures from {discriminator.smallest} x {discriminator.smallest} "
            f"pixels, and is shown {stage.smallest_shown}; take a larger data.patch{_less_shift(stage)}"
        )
    one_position = 2 * discriminator.smallest  # of a VGG discriminator's last features, below that
    alone = stage.data.batch == stage.data.accumulate * shares
    if settings.kind == "vgg" and settings.norm == "batch" and alone and stage.smallest_shown < one_position:
        raise UserError(
            f"a vgg discriminator with batch norm needs two pairs at a time below {one_position} pixels, and is shown "
            f"one of {stage.smallest_shown}; take a larger data.batch or data.patch, or discriminator.norm=spectral"
        )
    initialise(discriminator, "default", seed=seed)
    return discriminator


def placed(network: AnyNetwork, engine: Engine, device: torch.device) -> AnyNetwork:
    """The network on its device, laid out and compiled as the engine says, ready to train."""
    _lay_out(network.train(), engine, device)
    if engine.checkpointing:
        apply_activation_checkpointing(network, check_fn=lambda module: isinstance(module, _BLOCKS))
    if engine.compile:
        # Readings ask for the gradient of single terms before that of their sum, through the same graph.
        functorch_config.donated_buffer = False
        network.compile()
    return network


def judging(stage: Stage) -> Engine:
    """How a stage's discriminator is computed: not compiled where a penalty needs the gradient of its gradient."""
    penalised = stage.losses.penalty_weight or stage.losses.r1_weight
    return msgspec.structs.replace(stage.engine, compile=False) if penalised else stage.engine


class Eyes:
    """VGG features by what a stage asks for; each network's weights are read once.

    Args:
        stages: all of the run, so that missing weights are noticed before it begins.
        progress: told of (bytes done, bytes in all) while weights are downloaded.

    Raises:
        UserError: layers that there are not or that are too deep for the patches, or weights that cannot be had.
    """

    def __init__(self, stages: Sequence[Stage], progress: Progress | None = None) -> None:
        self._tensors: dict[tuple[str, str], dict[str, Tensor]] = {}
        for stage in stages:
            if layers := _layers(stage):
                check_layers(stage.perceptual.network, layers)
                _check_patches(stage, layers)
                key = _key(stage.perceptual)
                if key not in self._tensors:
                    file = Path(stage.perceptual.file).expanduser() if stage.perceptual.file else None
                    self._tensors[key] = load_vgg(stage.perceptual.network, file, progress)

    def of(self, stage: Stage, device: torch.device) -> VGGFeatures | None:
        """What a stage looks through, on the device; None where no loss looks at features."""
        layers = _layers(stage)
        if not layers:
            return None
        features = VGGFeatures(stage.perceptual.network, layers, self._tensors[_key(stage.perceptual)])
        _lay_out(features, stage.engine, device)
        return features


def _lay_out(network: nn.Module, engine: Engine, device: torch.device) -> None:
    """Move a network to its device, where its convolutions are as fast as the engine lets them be."""
    network.to(device, memory_format=torch.channels_last if engine.channels_last else torch.preserve_format)  # type: ignore[call-overload]
    if device.type == "cpu" and not engine.compile:
        winograd_training.accelerate(network)


def _bind(generator: Generator) -> None:
    """Make a generator that was just initialised equivariant."""
    try:
        Equivariance(generator).bind_drawn()
    except ValueError as error:
        raise UserError(f"network.equivariant needs other network.settings: {error}") from error


def _check_settings(kind: type[Generator], settings: Mapping[str, Any]) -> None:
    """See that an architecture has these settings, beside the scale and the three channels of RGB."""
    known = {name: hint for name, hint in get_type_hints(kind.__init__).items() if name not in _SETTLED}
    for key, value in settings.items():
        if key not in known:
            near = get_close_matches(key, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"{kind.architecture} has no setting network.settings.{key}; {hint}")
        try:
            msgspec.convert(value, known[key])
        except msgspec.ValidationError as error:
            raise UserError(f"network.settings.{key}: {error}") from error


def _layers(stage: Stage) -> list[str]:
    losses, perceptual = stage.losses, stage.perceptual
    wanted = dict.fromkeys(perceptual.layers if losses.feature_weight else ())
    wanted |= dict.fromkeys(perceptual.texture_layers if losses.texture_weight else ())
    return list(wanted)


def _check_patches(stage: Stage, layers: Sequence[str]) -> None:
    """See that features of the patches have at least one position, and a patch of texture a whole number."""
    for layer in layers:
        if stride(layer) > stage.smallest_shown:
            raise UserError(
                f"{layer} needs patches from {stride(layer)} pixels; take a larger data.patch{_less_shift(stage)}"
            )
    patch = stage.perceptual.texture_patch
    for layer in stage.perceptual.texture_layers if stage.losses.texture_weight else ():
        if patch % stride(layer) or patch > stage.smallest_shown:
            raise UserError(
                f"perceptual.texture_patch {patch} must be a multiple of {stride(layer)} for {layer}, "
                "and no larger than data.patch less stabilisers.shift"
            )


def _less_shift(stage: Stage) -> str:
    return " or a smaller stabilisers.shift" if stage.stabilisers.shift else ""


def _key(perceptual: Perceptual) -> tuple[str, str]:
    return perceptual.network, perceptual.file
