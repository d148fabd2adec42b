"""`batchnorm recalibrate`: running statistics of a model file, measured anew on data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def recalibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `batchnorm train` wrote.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file or a built-in set, as for `predict`.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; by default MODEL with .recalibrated.safetensors.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows that go through the network together.")] = 256,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Feed each layer with the new statistics of those before it.")
    ] = False,
    weight: Annotated[
        str | None, typer.Option("--weight", metavar="COLUMN", help="A column that says how often each row counts.")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="Whether the first line names the columns; as in training."),
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Between cells; found out by default.")] = None,
    na: Annotated[list[str] | None, typer.Option(help="A further text that means missing; may be repeated.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as JSON.")] = False,
) -> None:
    """Measure mean and variance of every batch norm layer anew, over all rows of DATA, at the weights of the model.

    Weights, input normalization and schema stay; the model file stays as it is. Says how far the old statistics were
    from the new ones, in standard errors: about 1 where it was not needed.
    """
    from batchnorm.cli.note import note
    from batchnorm.cli.recalibrated import recalibrated
    from batchnorm.cli.written import place
    from batchnorm.data import read_features
    from batchnorm.model_file import read_model_file, write_model_file

    path = place(model, out, ending=".recalibrated.safetensors", overwrite=overwrite)
    model_file = read_model_file(model)
    inputs = read_features(data, model_file.schema, header=header, separator=separator, na=na or (), weight=weight)
    for line in inputs.notes:
        note(line)
    done = recalibrated(model_file, inputs.x, inputs.weights, batch_size=batch_size, sequential=sequential)
    write_model_file(path, done.model_file)
    if as_json:
        said = {"model": str(model), "out": str(path), "rows": len(inputs.x), "batches": done.record.batches}
        layers = [{"layer": layer.name, "distance": float(layer.distance)} for layer in done.record.layers]
        typer.echo(json.dumps(said | {"layers": layers}))
        return
    typer.echo(str(done.record))
    typer.echo(f"model   {path}")
