"""`srup models`: what there is, what is known of each, and how to get it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from upscaler.cli.console import Console
from upscaler.cli.loading import fetch_model
from upscaler.cli.options import Debug, Json
from upscaler.errors import UserError
from upscaler.model import catalogue
from upscaler.model.catalogue import Entry, Found

app = typer.Typer(help="The models: list them, look at one, fetch some.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model, the path of a file, or hf:REPO/FILE[@REVISION].")]
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
    from upscaler.model.weights import build_network, load_weights

    weights = load_weights(found.path)
    return {
        "path": str(found.path),
        "architecture": weights.architecture,
        "scale": build_network(weights).scale,
        "settings": weights.settings,
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        "digest": weights.digest,
        "metadata": weights.metadata,
    }


def _listing(facts: dict[str, Any]) -> str:
    lines = []
    for title, value in facts.items():
        if value is None or value in ([], {}):
            continue
        if isinstance(value, dict):
            text = "".join(f"\n    {key}: {item}" for key, item in value.items())
        elif isinstance(value, list):
            text = "".join(f"\n    {item}" for item in value)
        else:
            text = f" {value:,}" if title in ("bytes", "parameters") else f" {value}"
        lines.append(f"{title}:{text}")
    return "\n".join(lines)


def _row(entry: Entry, place: str) -> str:
    """Two lines, so that nothing is cut off in a terminal of 80 columns."""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else ""
    default = " (the default)" if entry.name == catalogue.DEFAULT else ""
    pair = f"; pair {entry.pair}" if entry.pair else ""
    return f"{entry.name:26} x{entry.scale} {size:>9}  {place:9} {entry.licence}\n    {entry.summary}{default}{pair}"
