"""`batchnorm predict`: rows in, one answer each, from a file all at once or from standard input as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `batchnorm train` wrote.")],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A file as for `train`; or - for JSON lines or CSV from standard input."),
    ],
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="Whether the first line names the columns; as in training."),
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Between cells; found out by default.")] = None,
    na: Annotated[list[str] | None, typer.Option(help="A further text that means missing; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of CSV.")] = False,
) -> None:
    """Predict rows: labels and probabilities, or numbers in the target's units.

    Columns are found by name, in any order. A file is answered in CSV or, with --json, in JSON lines; standard input
    is answered in JSON lines, in order, each as soon as its line has come.

    A line of standard input that cannot be answered gets {"line": ..., "error": ...} in its place and the stream goes
    on. Exit codes: 0 all rows were answered, 1 some lines got an error, 2 the model or the data cannot be used.
    """
    from batchnorm.cli.prediction import predict_rows

    code = predict_rows(str(model), data, header=header, separator=separator, na=na or (), as_json=as_json)
    if code:
        raise typer.Exit(code)
