from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upscaler.errors import UserError
from upscaler.training.config import Stage
from upscaler.training.layering import PRESETS, load_config, preset_names, summary


def _gan(preset: str, *settings: str, file: Path | None = None) -> Stage:
    return load_config(preset, settings=settings, file=file).stages[-1]


def test_the_presets() -> None:
    assert preset_names() == [
        "compact-gan", "compact-psnr", "enhancenet", "esrdgan", "esrgan", "photo", "photo-psnr", "progressive", "psnr",
        "quick", "realesrgan", "srgan", "wgan-gp",
    ]  # fmt: skip
    assert all(summary(name) == load_config(name).summary != "" for name in preset_names())


def test_esrdgan_is_the_recipe_it_is_named_after() -> None:
    config = load_config("esrdgan")
    stage = config.stages[1]
    losses, stabilisers = stage.losses, stage.stabilisers
    assert config.network.settings == {"features": 128, "blocks": 12, "fusion_kernel": 3}
    assert (losses.pixel_weight, losses.feature_weight, losses.adversarial_weight) == (0.01, 0.1, 5e-3)
    assert losses.adversarial == "relativistic-average"
    assert stage.discriminator.steps == 2
    assert stabilisers.smoothing > 0
    assert stabilisers.instance_noise > 0
    assert stabilisers.instance_noise_until < 1


def test_the_bundled_pair_has_one_psnr_stage() -> None:
    gan, psnr = load_config("photo"), load_config("photo-psnr")
    assert gan.network == psnr.network
    assert gan.stages[:1] == psnr.stages


def test_a_setting_counts_for_all_stages_or_for_one() -> None:
    config = load_config("esrgan", settings=["data.batch=4", "gan.data.batch=8", "generator.clip=0.5"])
    assert [stage.data.batch for stage in config.stages] == [4, 8]
    assert [stage.generator.clip for stage in config.stages] == [0.5, 0.5]
    assert [stage.data.patch for stage in config.stages] == [192, 128]


def test_the_last_word_counts(tmp_path: Path) -> None:
    """Preset, file, settings in their order; in a file a stage's own table over what is for all."""
    file = tmp_path / "mine.toml"
    file.write_text("gan = { data = { batch = 2 }, average = 0.5 }\n[data]\nbatch = 6\nworkers = 0\n")
    config = load_config("esrgan", file=file)
    assert [stage.data.batch for stage in config.stages] == [6, 2]
    config = load_config("esrgan", file=file, settings=["data.batch=3", "gan.average=0.25", "gan.average=0.75"])
    assert [stage.data.batch for stage in config.stages] == [3, 3]
    assert [stage.average for stage in config.stages] == [0.999, 0.75]
    assert [stage.data.workers for stage in config.stages] == [0, 0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.batch=8", 8),
        (" data.batch = 8 ", 8),
        ("data.patch=[[0, 64], [0.5, 96]]", [(0.0, 64), (0.5, 96)]),
        ("data.flips=false", False),
        ("data.noise=3", 3.0),
        ("generator.learning_rate=1e-3", 1e-3),
        ("losses.pixel=l2", "l2"),
        ('losses.pixel="l2"', "l2"),
        ("perceptual.file=vgg 19.pth", str(Path("vgg 19.pth").resolve())),
        ("perceptual.file=a=b", str(Path("a=b").resolve())),
        ("perceptual.file=~/vgg.pth", str(Path.home().resolve() / "vgg.pth")),
    ],
)
def test_values_are_toml_or_text(setting: str, value: Any) -> None:
    group, _, name = setting.partition("=")[0].strip().partition(".")
    assert getattr(getattr(load_config("psnr", settings=[setting]).stages[0], group), name) == value


def test_settings_of_the_network_are_merged_and_layers_replaced() -> None:
    config = load_config("esrdgan", settings=["network.settings.blocks=2", "gan.perceptual.layers.conv2_2=0.5"])
    assert config.network.settings == {"features": 128, "blocks": 2, "fusion_kernel": 3}
    assert [stage.perceptual.layers for stage in config.stages] == [{"conv5_4": 1.0}, {"conv2_2": 0.5}]
    assert _gan("enhancenet", "perceptual.texture_layers={relu4_1=2}").perceptual.texture_layers == {"relu4_1": 2.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "generator.lerning_rate=1",
            "there is no setting generator.lerning_rate; did you mean generator.learning_rate",
        ),
        ("gan.data.btach=1", "there is no setting data.btach; did you mean data.batch or data.patch?"),
        ("gam.iterations=4", "there is no setting gam; did you mean gan?"),
        ("batch=4", "there is no setting batch; did you mean data.batch?"),
        ("network.scale=2", "there is no setting network.scale; did you mean scale?"),
        ("betas=[0, 0]", "there is no setting betas; did you mean generator.betas or discriminator.betas?"),
        ("nonsense=1", f"there is no setting nonsense; {PRESETS / 'base.toml'} lists all"),
        ("data=3", "data is a group of settings; name one of them, such as data.KEY=VALUE"),
        ("gan=3", "gan is a group of settings; name one of them, such as gan.KEY=VALUE"),
        ("network.settings=3", "network.settings is a group of settings"),
        ("gan.seed=3", "seed belongs to the whole run, not to gan alone"),
        ("gan.network.settings.features=4", "network belongs to the whole run, not to gan alone"),
        ("data.batch", "--set takes KEY=VALUE, such as data.batch=8, not 'data.batch'"),
        ("data..batch=1", "--set takes KEY=VALUE"),
        ("=1", "--set takes KEY=VALUE"),
        ("generator.clip.x=3", "generator.clip: Expected float, got object"),
        ("iterations=many", "iterations: Expected int, got str"),
    ],
)
def test_settings_that_there_are_not(setting: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("esrgan", settings=[setting], iterations=100)
    assert str(error.value).startswith(message)


def test_a_preset_that_there_is_not() -> None:
    with pytest.raises(UserError, match="there is no preset 'esrgn'; did you mean esrgan"):
        load_config("esrgn")
    with pytest.raises(UserError, match=r"there is no preset 'base'; there are compact-gan, .* wgan-gp"):
        load_config("base")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_config("quick", file=tmp_path / "missing.toml")
    file = tmp_path / "bad.toml"
    file.write_text("[data")
    with pytest.raises(UserError, match=r"bad.toml is no TOML file"):
        load_config("quick", file=file)


@pytest.mark.parametrize(
    ("preset", "iterations", "shares"),
    [
        ("esrgan", 1400, [1000, 400]),
        ("quick", 100, [67, 33]),
        ("quick", 4, [3, 1]),
        ("quick", 2, [1, 1]),
        ("quick", 1, [1, 1]),  # one each at least
        ("psnr", 7, [7]),
    ],
)
def test_iterations_are_shared_out(preset: str, iterations: int, shares: list[int]) -> None:
    assert [stage.iterations for stage in load_config(preset, iterations=iterations).stages] == shares


@pytest.mark.parametrize("total", [*range(2, 40), 999, 12345])
def test_no_step_is_lost_in_sharing(total: int) -> None:
    assert load_config("compact-gan", iterations=total).steps == total


def test_iterations_are_shared_in_the_proportions_that_were_set() -> None:
    config = load_config("quick", settings=["psnr.iterations=10", "gan.iterations=30"], iterations=100)
    assert [stage.iterations for stage in config.stages] == [25, 75]


def test_the_seed() -> None:
    assert load_config("quick", settings=["seed=3"]).seed == 3
    assert load_config("quick", settings=["seed=3"], seed=4).seed == 4
