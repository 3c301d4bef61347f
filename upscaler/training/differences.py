"""What makes the training set that is there another than the one asked for, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_WORDS = {
    "sizes": "sizes",
    "size": "crop",
    "step": "step",
    "least": "least",
    "flat": "flat",
    "blurred": "blurred",
    "first_frame": "first frame",
    "scale": "scale",
    "degradation": "degradation",
    "seed": "seed",
    "shard_bytes": "bytes of a shard",
    "duplicates": "dropping of duplicates",
    "validation": "validation",
}
"""The settings as a person knows them; those that follow from others are left out."""


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Which settings, or else which pictures, differ; empty where the manifests do not tell.

    Args:
        there: the manifest of the set that is there, which anything may have happened to.
        asked: ``settings``, ``benchmarks`` and ``sources`` as the manifest of the set asked for would have them.
    """
    old, new = _flat(there.get("settings")), _flat(asked["settings"])
    found = [
        f"{word}: {_plain(old[key])} then, {_plain(new[key])} now"
        for key, word in _WORDS.items()
        if key in old and key in new and old[key] != new[key]
    ]
    if there.get("benchmarks") != asked["benchmarks"]:
        found.append("other benchmark pictures")
    return "; ".join(found) or _pictures(there.get("sources"), asked["sources"])


def _pictures(there: Any, asked: Iterable[Mapping[str, Any]]) -> str:
    try:
        old = {source["name"]: source["sha256"] for source in there}
    except (TypeError, KeyError):
        return ""
    new = {source["name"]: source["sha256"] for source in asked}
    counts = {
        "new": len(new.keys() - old.keys()),
        "gone": len(old.keys() - new.keys()),
        "changed": sum(old[name] != new[name] for name in old.keys() & new.keys()),
    }
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"other pictures: {words}" if words else ""


def _flat(settings: Any) -> dict[str, Any]:
    """The values of nested settings by their last names, which are all different."""
    flat: dict[str, Any] = {}
    for key, value in settings.items() if isinstance(settings, dict) else ():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return "none" if value is None else str(value)
