"""`batchnorm export`: a model file for other programs, as ONNX or as a torch.export program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_ENDINGS = (".onnx", ".pt2")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `batchnorm train` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write: NAME.onnx or NAME.pt2 (torch.export); by default MODEL.onnx."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as JSON.")] = False,
) -> None:
    """Write the network with batch normalization folded, for programs that know ONNX or torch alone.

    It takes encoded features, (rows, features) in float64, in the order that `inspect` shows, and answers with
    probabilities, or with numbers in the target's units. Every answer is compared with `predict`'s, one row at a time
    and all at once; ONNX where onnxruntime is installed. Nothing is written where they differ.
    """
    from batchnorm.atomic import atomic_write
    from batchnorm.cli.exported import check, written_as
    from batchnorm.cli.written import place
    from batchnorm.errors import SettingsError
    from batchnorm.predictor import load

    if out is not None and out.suffix not in _ENDINGS:
        raise SettingsError(f"--out expected a name that ends in .onnx or .pt2, got {str(out)!r}")
    path = place(model, out, ending=".onnx", overwrite=overwrite)
    predictor = load(model)
    data = written_as(path.suffix, predictor.model_file)
    checked = check(path.suffix, data, predictor)
    atomic_write(path, data)
    if as_json:
        said = {"model": str(model), "out": str(path), "format": path.suffix[1:], "bytes": len(data)}
        features = list(predictor.schema.feature_names)
        typer.echo(json.dumps(said | {"features": features, "rows": checked.rows, "difference": checked.difference}))
        return
    if checked.difference is None:
        typer.echo("not checked: onnxruntime is not installed (pip install onnxruntime)")
    else:
        typer.echo(
            f"checked on {checked.rows} rows, each alone and all at once: largest relative difference "
            f"{checked.difference:.1e}"
        )
    typer.echo(f"wrote   {path}")
