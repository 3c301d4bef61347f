"""`srup models`: what there is, what is known of each, and how to get it."""

from __future__ import annotations

import json as json_format
import re
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upscaler import __version__
from upscaler.cli.console import Console
from upscaler.cli.loading import fetch_model
from upscaler.cli.options import Debug, Json, Overwrite, check_free
from upscaler.errors import UserError
from upscaler.model import catalogue
from upscaler.model.catalogue import Entry, Found

if TYPE_CHECKING:
    from upscaler.model.weights import Weights

app = typer.Typer(help="The models: list them, look at one, fetch some.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model, the path of a file, or hf:REPO/FILE[@REVISION].")]


class Format(StrEnum):
    """What ``--to`` can be."""

    onnx = "onnx"
    ncnn = "ncnn"
    pth = "pth"


Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, or hf:REPO/FILE[@REVISION].")]


@app.command(name="list")
def list_models(json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001 - main acts on --debug
    """Show all models and where each one is."""
    console = Console(json=json)
    for entry in catalogue.CATALOGUE:
        place = catalogue.place_of(entry)
        console.event("model", **_described(entry), place=place)
        console.result(_row(entry, place))


@app.command()
def show(name: Name, json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001 - main acts on --debug
    """Show all that is known of a model; nothing is downloaded."""
    console = Console(json=json)
    found = catalogue.locate(name)
    entry = found.entry if found else catalogue.find(name)
    facts = _described(entry) if entry else {"name": name}
    facts["place"] = found.place if found else "download"
    if found:
        facts |= _read(found)
    console.event("model", **facts)
    console.result(_listing(facts))


@app.command()
def fetch(names: Names, json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001 - main acts on --debug
    """Download models and check them; what is there already is left as it is."""
    console = Console(json=json)
    failed = False
    for name in names:
        try:
            found = fetch_model(console, name)
        except UserError as error:
            console.error(str(error), name=name)
            failed = True
            continue
        console.event("fetched", name=name, path=found.path, place=found.place, sha256=found.sha256)
        console.result(f"{name}: {found.path}")
    if failed:
        raise typer.Exit(1)


@app.command()
def export(
    name: Name,
    to: Annotated[
        Format,
        typer.Option(
            "--to", metavar="onnx|ncnn|pth", help="For ONNX runtimes, upscayl and its like, or PyTorch programs."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Without it: the current folder.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store weights in 16 bits; only ncnn.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - main acts on --debug
) -> None:
    """Write a model for other programs, and check that they compute the same."""
    console = Console(json=json)
    if fp16 and to is not Format.ncnn:
        raise typer.BadParameter("--fp16 is for --to ncnn")

    from upscaler.model import export as exports
    from upscaler.model import export_checks
    from upscaler.model.weights import build_network, load_weights
    from upscaler.saving import check_place, write_together

    exports.check_writable(to.value)
    found = fetch_model(console, name)
    weights = load_weights(found.path)
    network = build_network(weights)
    folder = output or Path()
    files = [folder / f"{_stem(found, network.scale)}{suffix}" for suffix in exports.suffixes(to.value)]
    for file in files:
        if file.exists() and file.samefile(found.path):
            raise UserError(f"{file} is the model itself; use another -o")
        check_free(file, overwrite=overwrite)
        check_place(file)
    if fp16:
        exports.round_to_half(network)
    contents = exports.exported(network, to.value, _origin(found, weights, network.scale), half=fp16)
    check = export_checks.check(contents, to.value, network)
    write_together(dict(zip(files, contents, strict=True)))
    console.event(
        "exported",
        name=name,
        to=to.value,
        files=files,
        runtime=check.runtime if check else None,
        difference=check.difference if check else None,
    )
    console.result("\n".join(map(str, files)))
    if check:
        rounded = " as srup with weights of 16 bits" if fp16 else ""
        console.notice(
            f"{check.runtime} gives the same pictures{rounded}, with a largest difference of {check.difference:.2g}"
        )
    else:
        runtime = export_checks.runtime_of(to.value)
        console.notice(f"not checked, as {runtime} is not installed; to check exports, run: pip install {runtime}")


def _stem(found: Found, scale: int) -> str:
    """The name of the exported files; with the scale, which other programs read from there."""
    stem = found.entry.name if found.entry else found.path.stem
    told = re.search(rf"(?<!\d)(?:{scale}x|x{scale})(?!\d)", stem, re.IGNORECASE)
    return stem if told else f"{stem}-x{scale}"


def _origin(found: Found, weights: Weights, scale: int) -> dict[str, str]:
    """What an exported file can tell of itself."""
    listed = {"name": found.entry.name, "licence": found.entry.licence} if found.entry else {"name": found.path.name}
    return {
        **listed,
        **weights.metadata,
        "architecture": weights.architecture,
        "settings": json_format.dumps(weights.settings),
        "scale": str(scale),
        "digest": weights.digest,
        "version": __version__,
    }


def _described(entry: Entry) -> dict[str, Any]:
    """The facts of the catalogue, for a person's eyes and as JSON."""
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "architecture": entry.architecture,
        "scale": entry.scale,
        "licence": entry.licence,
        "pair": entry.pair,
        "file": entry.file,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "sources": [str(source) for source in entry.sources],
    }


def _read(found: Found) -> dict[str, Any]:
    """The facts of the file itself, which come before the catalogue's."""
    from upscaler.model.interpolation import unfolded
    from upscaler.model.weights import build_network, load_weights

    weights = load_weights(found.path)
    return {
        "path": str(found.path),
        "architecture": weights.architecture,
        "scale": build_network(weights).scale,
        "settings": weights.settings,
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        "digest": weights.digest,
        "metadata": dict(sorted(unfolded(weights.metadata).items())),
    }


def _listing(facts: dict[str, Any], indent: str = "", *, recipes: bool = True) -> str:
    """The facts line by line; without ``recipes`` only the length of a text of many lines."""
    lines = []
    for title, value in facts.items():
        if value is None or value in ([], {}):
            continue
        inner = f"{indent}    "
        if isinstance(value, dict):
            text = f"\n{_listing(value, inner, recipes=recipes)}"
        elif isinstance(value, list):
            text = "".join(f"\n{_item(item, inner)}" for item in value)
        elif "\n" in str(value):
            told = str(value).rstrip()
            text = f"\n{textwrap.indent(told, inner)}" if recipes else f" {told.count(chr(10)) + 1} lines; see --json"
        else:
            text = f" {value:,}" if title in ("bytes", "parameters") else f" {value}"
        lines.append(f"{indent}{title}:{text}")
    return "\n".join(lines)


def _item(value: Any, indent: str) -> str:
    """One of a list; a parent of a blend without its recipe, so that the blend itself is not lost among them."""
    if isinstance(value, dict):
        return f"{indent}- {_listing(value, f'{indent}  ', recipes=False).lstrip()}"
    return f"{indent}{value}"


def _row(entry: Entry, place: str) -> str:
    """Two lines, so that nothing is cut off in a terminal of 80 columns."""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else ""
    default = " (the default)" if entry.name == catalogue.DEFAULT else ""
    pair = f"; pair {entry.pair}" if entry.pair else ""
    return f"{entry.name:26} x{entry.scale} {size:>9}  {place:9} {entry.licence}\n    {entry.summary}{default}{pair}"
