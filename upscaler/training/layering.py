"""From the name of a preset to a configuration: presets, files and single settings, one laid over the other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from upscaler.errors import UserError
from upscaler.training.config import Config, Stage, flat, parse_config, read_toml

PRESETS = Path(__file__).with_name("presets")
_BASE = PRESETS / "base.toml"
_OF_ALL = ("summary", "scale", "seed", "network")
"""What all stages have in common."""
_REPLACED = ("layers", "texture_layers")
"""Tables that are replaced as a whole: other layers, not further ones."""
_OPEN = ("settings", *_REPLACED)
"""Tables whose keys are not those of the base."""
_SHOWN = 8


def preset_names() -> list[str]:
    """All presets, by name."""
    return sorted(path.stem for path in PRESETS.glob("*.toml") if path != _BASE)


def summary(preset: str) -> str:
    """What a preset is, in a line."""
    return str(read_toml(PRESETS / f"{preset}.toml")["summary"])


def load_config(
    preset: str,
    *,
    file: Path | None = None,
    settings: Sequence[str] = (),
    iterations: int | None = None,
    seed: int | None = None,
) -> Config:
    """The configuration of a run.

    Args:
        preset: one of ``preset_names``.
        file: TOML laid over the preset: any of its keys, and tables named after stages for those alone.
        settings: ``key=value`` laid over that, such as ``data.batch=8`` or ``gan.generator.clip=1``; values are
            TOML, and what is none is text.
        iterations: of all stages together, shared out as the preset does.
        seed: of everything random.

    Raises:
        UserError: an unknown preset or key, or a value that cannot be; with the nearest names there are.
    """
    if preset not in preset_names():
        raise UserError(f"there is no preset {preset!r}; {_nearest(preset, preset_names())}")
    chosen = read_toml(PRESETS / f"{preset}.toml")
    parts: list[dict[str, Any]] = chosen.pop("stages")
    names = [part.pop("name") for part in parts]
    base = read_toml(_BASE)
    known = [name for name, _ in flat(base)]
    common = _over(base, chosen, known)
    stages = {name: _over(common, part, known) for name, part in zip(names, parts, strict=True)}
    known += names
    for layer in ([read_toml(file)] if file else []) + [_setting(text) for text in settings]:
        own = {name: _table(name, layer.pop(name)) for name in names if name in layer}
        if shared := [
            f"{key} belongs to the whole run, not to {name}" for name in own for key in own[name] if key in _OF_ALL
        ]:
            raise UserError(f"{shared[0]} alone")
        stages = {name: _over(_over(stage, layer, known), own.get(name, {}), known) for name, stage in stages.items()}
    for stage in stages.values():
        if file_of_vgg := stage["perceptual"]["file"]:
            # A run may go on from another folder.
            stage["perceptual"]["file"] = str(Path(str(file_of_vgg)).expanduser().resolve())
    whole = {key: next(iter(stages.values()))[key] for key in _OF_ALL}
    if seed is not None:
        whole["seed"] = seed
    complete = [
        {"name": name} | {key: value for key, value in stage.items() if key not in _OF_ALL}
        for name, stage in stages.items()
    ]
    config = parse_config({"preset": preset, **whole, "stages": complete})
    return config if iterations is None else replace(config, stages=_shared_out(iterations, config.stages))


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise UserError(f"--set takes KEY=VALUE, such as data.batch=8, not {text!r}")
    content: Any
    try:
        content = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        content = value.strip()
    for part in reversed(key.strip().split(".")):
        content = {part: content}
    layer: dict[str, Any] = content
    return layer


def _over(
    content: Mapping[str, Any], layer: Mapping[str, Any], known: Sequence[str], prefix: str = ""
) -> dict[str, Any]:
    """A configuration with a layer over it; neither is changed. ``known``: what can be said, to name what is near."""
    result = dict(content)
    for key, value in layer.items():
        if key not in content:
            raise UserError(f"there is no setting {prefix}{key}; {_nearest(prefix + key, known)}")
        if not isinstance(content[key], dict) or key in _REPLACED:
            result[key] = value
        elif key in _OPEN:
            result[key] = content[key] | _table(prefix + key, value)
        else:
            result[key] = _over(content[key], _table(prefix + key, value), known, f"{prefix}{key}.")
    return result


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} is a group of settings; name one of them, such as {name}.KEY=VALUE")
    return value


def _nearest(name: str, known: Sequence[str]) -> str:
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    near = same or get_close_matches(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(known)}" if len(known) <= 2 * _SHOWN else f"{_BASE} lists all"


def _shared_out(iterations: int, stages: Sequence[Stage]) -> list[Stage]:
    """The stages with so many steps in all, in the proportions that they have, one each at least."""
    planned, result = sum(stage.iterations for stage in stages), []
    for after, stage in zip(reversed(range(len(stages))), stages, strict=True):
        count = max(min(round(iterations * stage.iterations / planned), iterations - after), 1)
        result.append(replace(stage, iterations=count))
        iterations, planned = iterations - count, planned - stage.iterations
    return result
