"""`batchnorm`: the commands, and what the outside sees of an error: one message and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from batchnorm import __version__
from batchnorm.cli.demo import demo
from batchnorm.cli.inspect import inspect
from batchnorm.cli.predict import predict
from batchnorm.cli.train import train
from batchnorm.errors import BatchnormError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="batchnorm",
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
    """Run the command line: exit code 0, 2 for anything the user can mend, 130 after Ctrl-C."""
    try:
        app(prog_name="batchnorm", standalone_mode=True)
    except BatchnormError as error:
        typer.echo(f"batchnorm: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("batchnorm: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say, not even at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
