"""`batchnorm predict`: rows in, one answer each, from a file all at once or from standard input as they come."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.progress import note
from batchnorm.cli.stream import answer_lines

if TYPE_CHECKING:
    from batchnorm.predictor import Predictions, Predictor


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
    is answered in JSON lines, each as soon as its line has come; a bad line gets an error and the stream goes on.
    """
    from batchnorm.predictor import load

    predictor = load(model)
    if data == "-":
        failed = answer_lines(
            predictor, sys.stdin.buffer, sys.stdout, header=header, separator=separator, na=tuple(na or ())
        )
        if failed:
            note(f"{failed} lines could not be answered: each has an error in its place")
        return
    from batchnorm.data import read_features

    inputs = read_features(data, predictor.schema, header=header, separator=separator, na=na or ())
    for line in inputs.notes:
        note(line)
    _print(predictor, predictor.predictions(inputs.x), as_json=as_json)


def answer(predictor: Predictor, predictions: Predictions, row: int) -> dict[str, Any]:
    """One row's answer as JSON values: {"prediction": ..., "probabilities": {class: ...}}."""
    value = predictions.values[row]
    found: dict[str, Any] = {"prediction": value.item() if hasattr(value, "item") else value}
    if predictions.probabilities is not None:
        names = [str(c) for c in predictor.schema.classes]
        found["probabilities"] = dict(zip(names, predictions.probabilities[row].tolist(), strict=True))
    return found


def _print(predictor: Predictor, predictions: Predictions, *, as_json: bool) -> None:
    rows = range(len(predictions.values))
    if as_json:
        for row in rows:
            print(json.dumps({"row": row + 1, **answer(predictor, predictions, row)}))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"p({c})" for c in predictor.schema.classes]
    writer.writerow(["prediction", *names])
    for row in rows:
        probabilities = [] if predictions.probabilities is None else predictions.probabilities[row].tolist()
        writer.writerow([predictions.values[row], *(f"{p:.6g}" for p in probabilities)])
