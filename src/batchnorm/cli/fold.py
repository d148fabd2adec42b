"""`batchnorm fold`: a model file whose batch normalization is part of the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def fold(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `batchnorm train` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; by default MODEL with .folded.safetensors.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as JSON.")] = False,
) -> None:
    """Fold gamma, beta, running mean and variance of every layer into weights and biases.

    The new file holds the same network without batch normalization: it answers as before, and `predict` and `inspect`
    take it. Both are compared on rows like those that the network was trained on. Nothing is written where they differ.
    """
    from batchnorm.cli.written import place
    from batchnorm.errors import ModelFileError
    from batchnorm.model_file import write_model_file
    from batchnorm.predictor import Predictor, load
    from batchnorm.predictor.folded_file import ALLOWED, answers, folded_file, largest_difference, typical_rows

    path = place(model, out, ending=".folded.safetensors", overwrite=overwrite)
    predictor = load(model)
    folded = folded_file(predictor.model_file)
    rows = typical_rows(predictor.model_file)
    difference = largest_difference(answers(predictor, rows), answers(Predictor(folded), rows))
    if not difference <= ALLOWED:
        raise ModelFileError(
            f"the folded network differs by {difference:.1e} of its largest answer: nothing is written"
        )
    write_model_file(path, folded)
    layers = len(folded.network.hidden)
    if as_json:
        said = {"model": str(model), "out": str(path), "layers": layers, "rows": len(rows), "difference": difference}
        typer.echo(json.dumps(said))
        return
    typer.echo(
        f"folded {layers} batch norm layer{'' if layers == 1 else 's'}, checked on {len(rows)} rows: "
        f"largest relative difference {difference:.1e}"
    )
    typer.echo(f"model   {path}")
