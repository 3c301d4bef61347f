"""Options that several commands share, each with one meaning."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object per event on stdout; text for people goes to stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps or another PyTorch device.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
