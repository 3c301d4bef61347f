"""`srup`: the commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from upscaler import __version__
from upscaler.cli import evaluate, interpolate, models, prepare_data, train, upscale, zoom
from upscaler.cli.console import INTERRUPTED, TERMINATED, Console
from upscaler.errors import UserError

app = typer.Typer(
    name="srup",
    help="Upscale pictures, measure results, prepare training data, train networks.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="upscale")(upscale.upscale)
app.command(name="interpolate")(interpolate.interpolate)
app.command(name="zoom")(zoom.zoom)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="prepare-data")(prepare_data.prepare_data)
app.command(name="train")(train.train)
app.add_typer(models.app, name="models")

# The interpreter would look through all that PyTorch has made before it leaves, which takes half a second.
atexit.register(gc.freeze)

# Newer versions of typer carry a click of their own; this is the usage error of whichever is in use.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"srup {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - typer acts on it through the callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Upscale pictures, measure results, prepare training data, train networks."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0: everything asked for was done; 1: some of it failed; 2: the command line was wrong; 130: Ctrl-C; 143: SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    # Python has none where the caller closed it, and its number would be the next opened file's.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot write is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _code(arguments)
    except BrokenPipeError:  # who was to read it has left
        sys.stdout = sys.stderr = None
        code = 1
    sys.exit(code)


def _code(arguments: list[str]) -> int:
    console = Console(json="--json" in arguments)
    try:
        try:
            code = app(args=arguments, prog_name="srup", standalone_mode=False) or 0
        except BaseException:
            if "--debug" in arguments:
                traceback.print_exc()
            raise
    except UserError as error:
        console.error(str(error))
        code = 1
    except _UsageError as error:
        console.error(_one_line(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except _Terminated:
        console.error("terminated")
        code = TERMINATED
    except SystemExit as ending:
        if ending.code == 1:  # typer's, for a pipe that nobody reads from
            raise BrokenPipeError from ending
        return int(ending.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        console.error(f"{named}{error.strerror or error}")
        code = 1
    except Exception as error:  # noqa: BLE001 - the last place; everything that comes here is a bug
        if "--debug" not in arguments:
            console.error(f"unexpected {type(error).__name__}: {error} (a bug; run again with --debug and report it)")
        code = 1
    if code == INTERRUPTED:  # which typer gives for Ctrl-C, without a word
        console.error("interrupted")
    return code


class _Terminated(SystemExit):
    """SIGTERM came."""


def _terminate(_: int, __: object) -> NoReturn:
    """Leave as after Ctrl-C, so that no half-written file stays behind."""
    raise _Terminated(TERMINATED)


def _one_line(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()) if hasattr(error, "format_message") else str(error)
    message = message.replace("Value error, ", "")  # pydantic's, which typer checks with
    stop = "" if message.endswith((".", "?", "!")) else "."
    return f"{message}{stop} Try '{context.command_path} --help'." if context else message
