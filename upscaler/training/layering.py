"""From the name of a preset to a configuration: presets, files and single settings, one laid over the other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from upscaler.errors import UserError
from upscaler.training.config import Config, flat, parse_config, read_toml

PRESETS = Path(__file__).with_name("presets")
_BASE = "base"
_OF_ALL = ("summary", "scale", "seed", "network")
"""What all stages have in common."""
_REPLACED = ("layers", "texture_layers")
"""Tables that are replaced as a whole: other layers, not further ones."""
_OPEN = ("settings", *_REPLACED)
"""Tables whose keys are not those of the base."""
_SHOWN = 8


def preset_names() -> list[str]:
    """All presets, by name."""
    return sorted(path.stem for path in PRESETS.glob("*.toml") if path.stem != _BASE)


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
    common = _over(read_toml(PRESETS / f"{_BASE}.toml"), chosen)
    stages = {name: _over(common, part) for name, part in zip(names, parts, strict=True)}
    for layer in ([read_toml(file)] if file else []) + [_setting(text) for text in settings]:
        own = {name: layer.pop(name) for name in names if name in layer}
        stages = {name: _over(_over(stage, layer), _table(name, own.get(name, {}))) for name, stage in stages.items()}
    if iterations is not None:
        _share_out(iterations, list(stages.values()))
    whole = {key: next(iter(stages.values()))[key] for key in _OF_ALL}
    if seed is not None:
        whole["seed"] = seed
    complete = [
        {"name": name} | {key: value for key, value in stage.items() if key not in _OF_ALL}
        for name, stage in stages.items()
    ]
    return parse_config({"preset": preset, **whole, "stages": complete})


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


def _over(content: Mapping[str, Any], layer: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with a layer over it; neither is changed."""
    result = dict(content)
    for key, value in layer.items():
        if key not in content:
            known = [name for name, _ in flat(content, prefix)]
            raise UserError(f"there is no setting {prefix}{key}; {_nearest(prefix + key, known)}")
        if not isinstance(content[key], dict) or key in _REPLACED:
            result[key] = value
        elif key in _OPEN:
            result[key] = content[key] | _table(prefix + key, value)
        else:
            result[key] = _over(content[key], _table(prefix + key, value), f"{prefix}{key}.")
    return result


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} is a group of settings; name one of them, such as {name}.KEY=VALUE")
    if common := [key for key in value if key in _OF_ALL]:
        raise UserError(f"{common[0]} belongs to the whole run, not to {name} alone")
    return value


def _nearest(name: str, known: Sequence[str]) -> str:
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    near = same or get_close_matches(name, known, cutoff=0.7)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(known)}" if len(known) <= 2 * _SHOWN else "docs/training.md lists all"


def _share_out(iterations: int, stages: Sequence[dict[str, Any]]) -> None:
    """As many steps in all, in the stages' proportions, one each at least."""
    planned = [int(stage["iterations"]) for stage in stages]
    for stage, count in zip(stages, planned, strict=True):
        stage["iterations"] = max(round(iterations * count / sum(planned)), 1)
    stages[-1]["iterations"] += max(iterations - sum(stage["iterations"] for stage in stages), 0)
