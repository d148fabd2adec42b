"""`batchnorm inspect`: what is in a model file, for a person or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.errors import legible

_WIDTH = 110  # of the tables where the output is no terminal
_LONGEST_LINE = 2000  # characters of what a model file says of its training: it may be anyone's
_MOST_COLUMNS = 40  # shown; --json has them all


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `batchnorm train` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, every value, as JSON.")] = False,
) -> None:
    """Show layers, shapes, gamma, beta, running mean and variance, the schema, and how the network was trained."""
    from batchnorm.predictor import load

    description = load(model).describe()
    if as_json:
        typer.echo(json.dumps(description))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(_layers(description))
    console.print(_columns(description["schema"]))
    for line in _trained(description):
        console.print(line, markup=False)


def _layers(description: dict[str, Any]) -> Table:
    shown = Table(title=f"layers, {description['parameters']:,} parameters", title_justify="left")
    for name in ("layer", "kind", "tensor", "shape", "min", "mean", "max"):
        shown.add_column(name, justify="right" if name in ("min", "mean", "max") else "left")
    for layer in description["layers"]:
        tensors = {k: v for k, v in layer.items() if isinstance(v, dict) and "shape" in v}
        head = (Text(layer["name"]), layer["kind"])
        if not tensors:
            shown.add_row(*head)
        for tensor, values in tensors.items():
            shape = "x".join(str(n) for n in values["shape"]) or "1"
            shown.add_row(*head, tensor, shape, *(f"{values[k]:.4g}" for k in ("min", "mean", "max")))
            head = (Text(""), "")
    return shown


def _columns(schema: dict[str, Any]) -> Table:
    from batchnorm.data.column import unit_of

    target = schema["target"]
    unit = unit_of(target["name"])
    number = "a number" if unit is None else f"a number in {legible(unit)}"
    asked = f"classes {_listed(target['classes'])}" if target["kind"] == "class" else number
    shown = Table(title=Text(f"predicts {legible(target['name'])}: {asked}"), title_justify="left")
    for name in ("column", "kind", "unit", "where missing", "categories"):
        shown.add_column(name)
    columns = schema["columns"]
    for column in columns[:_MOST_COLUMNS]:
        fill = column.get("fill")
        categories = _listed(column.get("categories", ()))
        kind, unit, missing = column["kind"], unit_of(column["name"]) or "", "" if fill is None else f"{fill:.4g}"
        shown.add_row(Text(legible(column["name"])), kind, Text(legible(unit)), missing, Text(categories))
    if len(columns) > _MOST_COLUMNS:
        shown.add_row(f"... and {len(columns) - _MOST_COLUMNS} more", "", "", "", "")
    return shown


def _listed(values: Iterable[object]) -> str:
    return ", ".join(legible(str(value)) for value in values)


def _trained(description: dict[str, Any]) -> list[str]:
    trained = description["trained"]
    lines = [f"model file format {description['format_version']}, {description['task']}"]
    for key, value in trained.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        lines.append(legible(f"{key}: {text}", most=_LONGEST_LINE))
    return lines
