"""Write docs/commands.md from the definitions that --help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from upscaler.cli.main import app

TARGET = Path(__file__).with_suffix(".md")


def document() -> str:
    """The whole page."""
    parts = ["# Commands", "Made by `python docs/commands.py` from what `--help` shows."]
    for name, command in _commands(typer.main.get_command(app), "srup"):
        parts += [f"## {name}", command.help]
        rows = [_row(parameter) for parameter in command.params if parameter.name not in ("help", "json", "debug")]
        rows = [row for row in rows if "completion" not in row]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]))
    parts.append(
        "Every command also has `--help`, `--json` (one JSON object per event on stdout, text for people on stderr) "
        "and `--debug` (the traceback of an error). The exit code is 0 if everything asked for was done, 1 if some of "
        "it failed or its output was no longer read, 2 for a wrong command line, 130 after Ctrl-C, 143 after SIGTERM."
    )
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> list[tuple[str, Any]]:
    found = [(name, command)]
    for word, each in getattr(command, "commands", {}).items():
        found += _commands(each, f"{name} {word}")
    return found


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{parameter.metavar}` | {parameter.help} |"
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    takes = "" if parameter.is_flag else f" {parameter.metavar}"
    default = parameter.default
    stated = "" if default in (None, False, True) else f" Default: {getattr(default, 'value', default)}."
    return f"| `{(names + takes).replace('|', chr(92) + '|')}` | {parameter.help}{stated} |"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
