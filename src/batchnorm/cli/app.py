"""`batchnorm`: the commands and their parser."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from batchnorm import __version__
from batchnorm.cli.demo import demo
from batchnorm.cli.ending import one_message, unwritten
from batchnorm.cli.env import env
from batchnorm.cli.export import export
from batchnorm.cli.fold import fold
from batchnorm.cli.inspect import inspect
from batchnorm.cli.lab import lab
from batchnorm.cli.predict import predict
from batchnorm.cli.recalibrate import recalibrate
from batchnorm.cli.train import train


class _Commands(TyperGroup):
    """All commands; what they raise on purpose ends as `ending.one_message` says."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with one_message():
            return super().invoke(ctx)


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
app.command()(recalibrate)
app.command()(fold)
app.command()(export)
app.command()(lab)
app.command()(demo)
app.command()(env)


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


def run() -> None:
    """Parse the arguments and run what they name."""
    try:
        app(prog_name="batchnorm")
    except OSError as error:  # --help and --version speak before there is a command
        sys.exit(unwritten(error))
