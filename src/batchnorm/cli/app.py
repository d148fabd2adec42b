"""`batchnorm`: the commands, and what the outside sees of an error: one message and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from batchnorm import __version__
from batchnorm.cli.demo import demo
from batchnorm.cli.inspect import inspect
from batchnorm.cli.predict import predict
from batchnorm.cli.progress import note
from batchnorm.cli.train import train
from batchnorm.errors import BatchnormError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Commands(TyperGroup):
    """All commands; what they raise on purpose ends in one message and an exit code, here and nowhere else."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command: 2 for anything the user can mend, 130 after Ctrl-C; warnings become notes."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks ends nothing
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: note(str(message))
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()  # a full disk is heard of here, while it can still be said
                return result
            except BatchnormError as error:
                typer.echo(f"batchnorm: {error}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                typer.echo("batchnorm: interrupted", err=True)
                raise typer.Exit(INTERRUPTED) from error
            except BrokenPipeError as error:
                # Whoever read our output has gone; nothing is left to say, not even at shutdown.
                _mute()
                raise typer.Exit(0) from error
            except OSError as error:
                raise typer.Exit(_unwritten(error)) from error


def _unwritten(error: OSError) -> int:
    """Say that the output had nowhere to go; the exit code."""
    typer.echo(f"batchnorm: the output could not be written: {error.strerror or error}", err=True)
    _mute()
    return 2


def _mute() -> None:
    """Let what is left in standard output's buffer go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="batchnorm",
    cls=_Commands,
    help="Train a batch-normalized network on a table, see what normalization bought, predict one row at a time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(predict)
app.command()(inspect)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchnorm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of the program itself."""
    del version


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="batchnorm")
    except OSError as error:  # --help and --version speak before there is a command
        sys.exit(_unwritten(error))
