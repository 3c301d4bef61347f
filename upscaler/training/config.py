"""The configuration of a run: everything that can be said, complete and checked.

There are no defaults here; they live in ``presets/base.toml``, which also says what each setting means.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta, Struct

from upscaler.errors import UserError

Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(gt=0, le=1e12)]
Beta = Annotated[float, Meta(ge=0, lt=1)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are refused."""


class Network(_Section, frozen=True):
    """The generator. ``settings`` are arguments of its constructor, beside the scale.

    ``equivariant`` binds its weights to each other, so that it enlarges turned and mirrored pictures alike.
    """

    architecture: Literal["rrdbnet", "compact", "residual"]
    settings: dict[str, Any]
    initialisation: Literal["default", "kaiming", "orthogonal"]
    initialisation_scale: Rate
    last_layer_scale: Rate
    equivariant: bool


class Data(_Section, frozen=True):
    """Pairs. ``patch`` is in HR pixels: one number, or ``[[share of the stage, pixels], ...]`` to grow."""

    batch: Count
    accumulate: Count
    patch: Count | Annotated[list[tuple[Share, Count]], Meta(min_length=1)]
    lr: Literal["auto", "workers", "device", "stored"]
    degradation: str
    flips: bool
    noise: Amount
    shuffle_channels: bool
    sharpen: bool
    workers: Annotated[int, Meta(ge=0)]


class Optimiser(_Section, frozen=True):
    """How one network's weights move. ``clip`` is the largest norm of the gradient; 0 does not clip."""

    optimiser: Literal["adam", "adamw", "sgd", "muon"]
    learning_rate: Rate
    betas: tuple[Beta, Beta]
    weight_decay: Amount
    clip: Amount
    schedule: Literal["constant", "multistep", "cosine"]
    milestones: list[Share]
    factor: Share
    restarts: Annotated[int, Meta(ge=0)]
    warmup: Share
    least: Share


class Discriminator(Optimiser, frozen=True):
    """The discriminator and its optimiser.

    It is updated ``steps`` times for each step of the generator, on every ``every``-th of those steps.
    """

    kind: Literal["none", "vgg", "unet", "patch"]
    features: Count
    kernel: Literal[3, 5]
    norm: Literal["batch", "spectral", "none"]
    steps: Count
    every: Count


class Losses(_Section, frozen=True):
    """The terms of the two losses and their weights; a weight of 0 leaves a term out."""

    pixel: Literal["l1", "l2", "charbonnier"]
    pixel_weight: Amount
    feature: Literal["l1", "l2"]
    feature_weight: Amount
    texture_weight: Amount
    evenness_weight: Amount
    adversarial: Literal["standard", "relativistic", "relativistic-average", "lsgan", "hinge", "wgan"]
    adversarial_weight: Amount
    penalty_weight: Amount
    r1_weight: Amount


class Perceptual(_Section, frozen=True):
    """The network behind the feature and texture losses. ``file``: its weights; empty for those of the hub."""

    network: Literal["vgg19", "vgg16"]
    file: str
    layers: dict[str, Amount]
    texture_layers: dict[str, Amount]
    texture_patch: Count


class Stabilisers(_Section, frozen=True):
    """What keeps a discriminator from winning too early, and layers with strides from leaving their grid.

    ``instance_noise`` is in levels of 255, ``shift`` in pixels.
    """

    smoothing: Annotated[float, Meta(ge=0, lt=1)]
    label_noise: Share
    label_flips: Share
    instance_noise: Amount
    instance_noise_until: Share
    shift: Annotated[int, Meta(ge=0)]


class Engine(_Section, frozen=True):
    """How it is computed; none of it changes what is computed, but for rounding."""

    precision: Literal["fp32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    checkpointing: bool


class Validation(_Section, frozen=True):
    """When and on how much the averaged generator is measured; ``every`` 0: at the end of the stage only."""

    every: Annotated[int, Meta(ge=0)]
    pictures: Count
    best: Literal["psnr", "ssim", "niqe"]


class Records(_Section, frozen=True):
    """Steps between readings, distributions and checkpoints; how many of the last checkpoints stay."""

    readings: Count
    distributions: Count
    checkpoints: Count
    keep: Count


class Stage(_Section, frozen=True):
    """One part of a run, complete by itself."""

    name: Annotated[str, Meta(pattern="^[a-z][a-z0-9-]*$")]
    iterations: Count
    average: Beta
    data: Data
    generator: Optimiser
    discriminator: Discriminator
    losses: Losses
    perceptual: Perceptual
    stabilisers: Stabilisers
    engine: Engine
    validation: Validation
    records: Records

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return self.discriminator.kind != "none"

    @property
    def smallest_shown(self) -> int:
        """HR pixels along an edge of what the discriminator and VGG see, at the time when they are fewest."""
        patch = self.data.patch
        return (patch if isinstance(patch, int) else min(size for _, size in patch)) - self.stabilisers.shift


class Config(_Section, frozen=True):
    """A run."""

    preset: str
    summary: str
    scale: Annotated[int, Meta(ge=1, le=8)]
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    network: Network
    stages: Annotated[list[Stage], Meta(min_length=1)]

    @property
    def steps(self) -> int:
        """Steps of the generator in all stages."""
        return sum(stage.iterations for stage in self.stages)

    def begin(self, number: int) -> int:
        """Steps before a stage."""
        return sum(stage.iterations for stage in self.stages[:number])


def parse_config(content: Mapping[str, Any]) -> Config:
    """A complete configuration, such as a run folder's.

    Raises:
        UserError: it is not one.
    """
    try:
        config = msgspec.convert(content, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        place = re.sub(r"`|\$\.?|stages\[\d+\]\.|\[\.*\]", "", where)
        if choices := _choices(place):
            what = f"{what.removeprefix('Invalid enum value ')} is none of {', '.join(map(str, choices))}"
        raise UserError(f"{place or 'the configuration'}: {what.replace('`', '')}") from error
    if config.network.equivariant and config.network.initialisation == "orthogonal":
        raise UserError(
            "orthogonal weights do not stay so when network.equivariant binds them; "
            "set network.initialisation to kaiming, or network.equivariant to false"
        )
    for stage in config.stages:
        _check(config, stage)
    return config


def read_config(path: Path) -> Config:
    """The configuration of a run folder.

    Raises:
        UserError: it cannot be read or is none.
    """
    content = read_toml(path)
    try:
        return parse_config(content)
    except UserError as error:
        raise UserError(f"{path} is damaged, or of another version of srup: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UserError: it cannot be read or is none.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # bad TOML, bad UTF-8
        raise UserError(f"{path} is no TOML file: {error}") from error


def config_text(config: Config) -> str:
    """The configuration as TOML, for ``read_config``."""
    return tomli_w.dumps(msgspec.to_builtins(config))


def recipe(config: Config) -> str:
    """The configuration as it is told with weights: without the paths of the machine that trained them."""
    content: dict[str, Any] = msgspec.to_builtins(config)
    for stage in content["stages"]:
        stage["perceptual"]["file"] = Path(stage["perceptual"]["file"]).name
    return tomli_w.dumps(content)


def differences(old: Config, new: Config) -> list[str]:
    """The keys in which two configurations differ, such as ``gan.data.batch is 16, not 8``."""
    before, after = (dict(flat(_by_stage(config))) for config in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key} is {before.get(key, 'missing')}, not {after.get(key, 'missing')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its value, keys joined by dots, such as ``data.batch``."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choices(place: str) -> tuple[Any, ...]:
    """What a setting can be, such as ``losses.pixel``, where that is one of a few words or numbers."""
    kind: Any = Config
    for part in place.split("."):
        hints = get_type_hints(Config) | get_type_hints(Stage) if kind is Config else get_type_hints(kind)
        kind = hints.get(part)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _by_stage(config: Config) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.to_builtins(config)
    return content | {stage["name"]: stage for stage in content.pop("stages")}


def _check(config: Config, stage: Stage) -> None:
    """What one setting says about another."""
    data, losses = stage.data, stage.losses
    patches = [data.patch] if isinstance(data.patch, int) else [patch for _, patch in data.patch]
    if any(patch % config.scale for patch in patches):
        raise UserError(f"data.patch {data.patch} is no multiple of the scale, {config.scale}")
    if losses.evenness_weight and config.scale == 1:
        raise UserError("losses.evenness_weight needs a scale of 2 or more; at 1 there are no sub-pixels")
    if losses.evenness_weight and any(patch <= 2 * config.scale for patch in patches):
        raise UserError(f"losses.evenness_weight needs a data.patch of more than {2 * config.scale}, two LR pixels")
    if data.batch % data.accumulate:
        raise UserError(f"data.batch {data.batch} cannot be shared evenly by data.accumulate {data.accumulate}")
    if data.noise and data.lr == "device":
        raise UserError("data.noise needs LR made by workers or stored: use data.lr=workers")
    weights = (losses.pixel_weight, losses.feature_weight, losses.texture_weight)
    if not stage.adversarial and losses.adversarial_weight:
        raise UserError("losses.adversarial_weight needs a discriminator; set discriminator.kind or the weight to 0")
    if stage.adversarial and not losses.adversarial_weight:
        raise UserError(
            f"stage {stage.name} has a discriminator that nothing learns from; set losses.adversarial_weight"
        )
    if losses.penalty_weight or losses.r1_weight:
        if not stage.adversarial:
            raise UserError("losses.penalty_weight and losses.r1_weight need a discriminator; set discriminator.kind")
        if stage.discriminator.norm == "batch":
            raise UserError(
                "losses.penalty_weight and losses.r1_weight look at single pictures, which batch norm mixes; "
                "set discriminator.norm to none or spectral"
            )
    if not any(weights) and not losses.adversarial_weight:
        alone = ": evenness alone does not know the pictures" if losses.evenness_weight else ": every weight is 0"
        raise UserError(f"stage {stage.name} has no loss{alone}")
    if stage.adversarial and losses.adversarial in ("hinge", "wgan") and _labels(stage.stabilisers):
        raise UserError(f"the {losses.adversarial} loss has no labels; set stabilisers.smoothing and the like to 0")
    for weight, layers in ((losses.feature_weight, "layers"), (losses.texture_weight, "texture_layers")):
        if weight and not getattr(stage.perceptual, layers):
            raise UserError(f"perceptual.{layers} names no layer")


def _labels(stabilisers: Stabilisers) -> bool:
    return bool(stabilisers.smoothing or stabilisers.label_noise or stabilisers.label_flips)
