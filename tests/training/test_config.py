from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from upscaler.errors import UserError
from upscaler.training.config import Config, Network, Stage, config_text, differences, flat, parse_config, read_config
from upscaler.training.layering import PRESETS, load_config, preset_names


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_survives_being_written(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, seed=7, iterations=1001)
    path = tmp_path / "config.toml"
    path.write_text(config_text(config), encoding="utf-8")
    assert read_config(path) == config
    assert (config.preset, config.seed, config.steps) == (preset, 7, 1001)
    assert config.summary


def _keys(kind: type, prefix: str = "") -> set[str]:
    """Every setting of a section, sections in it included."""
    found = set()
    for name, hint in get_type_hints(kind).items():
        nested = isinstance(hint, type) and issubclass(hint, msgspec.Struct)
        found |= _keys(hint, f"{prefix}{name}.") if nested else {prefix + name}
    return found


def test_the_base_has_every_setting_and_nothing_else() -> None:
    base = tomllib.loads((PRESETS / "base.toml").read_text(encoding="utf-8"))
    schema = _keys(Stage) | _keys(Network, "network.") | {"summary", "scale", "seed"}
    told = {"name"}  # of a stage: presets give it
    layers = {f"perceptual.{key}" for key in ("layers", "texture_layers")}
    closed = {key for key, _ in flat(base) if not any(key.startswith(f"{table}.") for table in layers)}
    assert closed == schema - told - layers - {"network.settings"}
    assert base["network"]["settings"] == {}
    assert set(base["perceptual"]) == set(get_type_hints(get_type_hints(Stage)["perceptual"]))


def test_the_base_says_what_every_word_can_be() -> None:
    """Each value that is one of a few is in the line of its setting or was named in one before."""
    text = (PRESETS / "base.toml").read_text(encoding="utf-8")
    for section in (Network, *(hint for hint in get_type_hints(Stage).values() if isinstance(hint, type))):
        for hint in get_type_hints(section).values() if issubclass(section, msgspec.Struct) else ():
            for word in getattr(hint, "__args__", ()):
                assert not isinstance(word, str) or f'"{word}"' in text, word


def _changed(key: str, value: Any) -> dict[str, Any]:
    """The content of a run's configuration with another value somewhere in its GAN stage."""
    content: dict[str, Any] = msgspec.to_builtins(load_config("esrgan"))
    place = content["stages"][1]
    *groups, last = key.split(".")
    for group in groups:
        place = place[group]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.batch", "x", "data.batch: Expected int, got str"),
        ("data.batch", 0, "data.batch: Expected int >= 1"),
        ("data.patch", [], "data.patch: Expected array of length >= 1"),
        ("data.patch", [[0, 96], [0.5, "a"]], "data.patch[1][1]: Expected int, got str"),
        ("average", 1, "average: Expected float < 1.0"),
        ("generator.betas", [0.5], "generator.betas: Expected array of length 2, got 1"),
        ("generator.milestones", [2], "generator.milestones[0]: Expected float <= 1.0"),
        ("generator.learning_rate", float("nan"), "generator.learning_rate: Expected float > 0.0"),
        ("generator.learning_rate", float("inf"), "generator.learning_rate: Expected float <= 1"),
        ("losses.pixel_weight", float("inf"), "losses.pixel_weight: Expected float <= 1"),
        ("perceptual.layers", {"conv1_1": "a"}, "perceptual.layers: Expected float, got str"),
        ("losses.pixel", "l3", "losses.pixel: 'l3' is none of l1, l2, charbonnier"),
        ("discriminator.kernel", 4, "discriminator.kernel: 4 is none of 3, 5"),
        ("discriminator.kind", "vgq", "discriminator.kind: 'vgq' is none of none, vgg, unet, patch"),
        ("engine.colour", True, "engine: Object contains unknown field colour"),
    ],
)
def test_values_that_cannot_be(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(_changed(key, value))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.patch": 126}, "data.patch 126 is no multiple of the scale, 4"),
        ({"data.patch": [[0, 64], [0.5, 98]]}, "is no multiple of the scale"),
        (
            {"data.patch": [[0, 8], [0.5, 96]], "losses.evenness_weight": 0.1},
            "losses.evenness_weight needs a data.patch of more than 8, two LR pixels",
        ),
        (
            {"discriminator.kind": "none", "losses.evenness_weight": 1}
            | {f"losses.{term}_weight": 0 for term in ("pixel", "feature", "adversarial")},
            "stage gan has no loss: evenness alone does not know the pictures",
        ),
        ({"data.accumulate": 3}, "data.batch 16 cannot be shared evenly by data.accumulate 3"),
        ({"data.noise": 2.0, "data.lr": "device"}, "use data.lr=workers"),
        ({"discriminator.kind": "none"}, "losses.adversarial_weight needs a discriminator"),
        (
            {"discriminator.kind": "none"}
            | {f"losses.{term}_weight": 0 for term in ("pixel", "feature", "adversarial")},
            "stage gan has no loss: every weight is 0",
        ),
        ({"losses.adversarial_weight": 0}, "stage gan has a discriminator that nothing learns from"),
        ({"losses.r1_weight": 1.0}, "which batch norm mixes; set discriminator.norm"),
        ({"losses.penalty_weight": 1.0}, "which batch norm mixes; set discriminator.norm"),
        (
            {"discriminator.kind": "none", "losses.adversarial_weight": 0, "losses.penalty_weight": 10.0},
            "need a discriminator; set discriminator.kind",
        ),
        ({"losses.adversarial": "wgan", "stabilisers.smoothing": 0.1}, "the wgan loss has no labels"),
        ({"losses.adversarial": "hinge", "stabilisers.label_noise": 0.1}, "the hinge loss has no labels"),
        ({"stabilisers.label_noise": 1.5}, "label_noise"),
        ({"losses.adversarial": "hinge", "stabilisers.label_flips": 0.1}, "the hinge loss has no labels"),
        ({"perceptual.layers": {}}, "perceptual.layers names no layer"),
        ({"losses.texture_weight": 1.0, "perceptual.texture_layers": {}}, "perceptual.texture_layers names no layer"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    content = _changed("average", 0.5)
    for key, value in changes.items():
        group, name = key.split(".")
        content["stages"][1][group][name] = value
    with pytest.raises(UserError, match=message):
        parse_config(content)


def test_evenness_needs_sub_pixels() -> None:
    content = _changed("losses.evenness_weight", 0.1) | {"scale": 1}
    with pytest.raises(UserError, match="needs a scale of 2 or more"):
        parse_config(content)


def test_orthogonal_weights_cannot_be_bound() -> None:
    content = _changed("losses.evenness_weight", 0)
    content["network"] |= {"equivariant": True, "initialisation": "orthogonal"}
    with pytest.raises(UserError, match=r"set network\.initialisation to kaiming"):
        parse_config(content)


def test_what_would_contradict_is_allowed_where_it_has_no_part() -> None:
    content = _changed("losses.feature_weight", 0)
    content["stages"][1]["perceptual"]["layers"] = {}
    content["stages"][1]["discriminator"]["kind"] = "none"
    content["stages"][1]["losses"]["adversarial_weight"] = 0
    assert not parse_config(content).stages[1].adversarial


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(UserError, match=r"cannot read .*config.toml: No such file"):
        read_config(path)
    for damage in (b"scale = ", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"config.toml is no TOML file"):
            read_config(path)
    path.write_text("scale = 4")
    with pytest.raises(
        UserError,
        match=r"config.toml is damaged, or of another version of srup: .*missing required field",
    ):
        read_config(path)


def test_steps_and_where_stages_begin() -> None:
    config = load_config("esrgan")
    assert (config.steps, config.begin(0), config.begin(1)) == (1_400_000, 0, 1_000_000)


def test_the_smallest_that_is_shown() -> None:
    """The first patches of those that grow, without the border that a shift takes."""
    stages = load_config("progressive").stages
    assert [stage.smallest_shown for stage in stages] == [64, 96]
    assert load_config("psnr", settings=["stabilisers.shift=8"]).stages[0].smallest_shown == 184


def test_differences_are_told_by_key() -> None:
    old = load_config("esrgan")
    new = load_config("esrgan", settings=["gan.data.batch=8", "seed=3", "network.settings.blocks=2"])
    assert differences(old, old) == []
    assert differences(old, new) == [
        "seed is 0, not 3",
        "gan.data.batch is 16, not 8",
        "network.settings.blocks is missing, not 2",
    ]
    assert "gan.iterations is 400000, not missing" in differences(old, load_config("psnr"))


def test_a_configuration_cannot_be_changed() -> None:
    config: Config = load_config("quick")
    with pytest.raises(AttributeError):
        config.seed = 3  # type: ignore[misc]
