"""Rows for a schema that is there already: to predict, or to test on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from batchnorm.data.naming import count, listing
from batchnorm.data.read import counts_of
from batchnorm.data.schema import Schema
from batchnorm.data.source import Source, open_source
from batchnorm.data.table import Array, Table, position_of
from batchnorm.data.target import as_target
from batchnorm.errors import DataError, quoted


@dataclass(frozen=True, eq=False)
class Inputs:
    """Rows to predict.

    Attributes:
        x: (N, F), encoded.
        y: (N,) encoded targets where the source has them and they are all known, else None.
        notes: what the user should be told, e.g. which columns were ignored.
        weights: (N,) float64, how often each row counts, where a column was said to tell.
    """

    x: Array
    y: Array | None
    notes: tuple[str, ...]
    weights: Array | None = None


def read_features(
    source: Source,
    schema: Schema,
    *,
    header: bool | None = None,
    separator: str | None = None,
    na: Iterable[str] = (),
    labels: str | PathLike[str] | None = None,
    weight: str | int | None = None,
) -> Inputs:
    """Rows to predict, from any source that `read` takes; the target column may be there or not.

    Columns are found by name, in any order; by number where the source or the schema has no names.

    Args:
        header: as for `read`; None: as in training.
        na: texts that mean "missing" besides those of the schema.
        weight: the column that says how often each row counts.

    Raises:
        DataError: columns are missing (all are named), the width is wrong, or a cell does not fit its column.
    """
    table, notes = read_like(source, schema, header=header, separator=separator, na=na, labels=labels, weight=weight)
    y = None
    if table.target is not None:
        try:
            y = schema.encode_target(table)
        except DataError as problem:
            notes = (*notes, f"The target column is not used: {problem}")
    return Inputs(schema.encode(table), y, notes, table.weights)


def read_like(
    source: Source,
    schema: Schema,
    *,
    header: bool | None = None,
    separator: str | None = None,
    na: Iterable[str] = (),
    labels: str | PathLike[str] | None = None,
    weight: str | int | None = None,
) -> tuple[Table, tuple[str, ...]]:
    """A Table with exactly the columns of `schema`, with its target where the source has it, and notes for the user.

    The arguments and errors are those of `read_features`.
    """
    table = open_source(
        source,
        header=schema.header if header is None else header,
        separator=separator,
        na=tuple(dict.fromkeys((*schema.na, *([na] if isinstance(na, str) else na)))),
        labels=None if labels is None else Path(labels),
        named=next((column.name for column in schema.columns), None),
    )
    heavy = None
    if weight is not None:
        heavy = position_of(weight, table.columns, header=table.header, name=table.name, option="--weight")
        if table.columns[heavy] in schema.names:
            raise DataError(f"{table.name}: column {quoted(table.columns[heavy])} is a feature and cannot be --weight.")
        table = replace(table, weights=counts_of(table, heavy))
    by_name = schema.header and table.header
    positions = schema.find(table.columns if by_name else None, len(table.columns), table=table.name)
    notes: tuple[str, ...] = ()
    known = tuple(name for position, name in enumerate(table.columns) if position != heavy)
    if by_name and (extra := schema.extra(known)):
        notes = (
            f"{table.name}: ignored {count(len(extra), 'column')} that the model does not know: {listing(extra)}.",
        )
    if table.target is None:
        if by_name:
            places = [place for place, name in enumerate(table.columns) if name == schema.target.name]
        else:
            whole = len(table.columns) == len(schema.columns) + len(schema.beside)
            places = [place for place, name in schema.beside if whole and name == schema.target.name]
        if places:
            what = f"{table.name}: target {quoted(schema.target.name)}"
            values = as_target(table.cells[:, places[0]], table.na, what=what)
            table = replace(table, target=values, target_name=schema.target.name)
    if positions != tuple(range(len(table.columns))):
        table = replace(table, cells=cast(Any, table.cells)[:, list(positions)])
    if not isinstance(table.cells, np.ndarray):
        table = replace(table, cells=table.cells.rename(dict(zip(table.cells.columns, schema.names, strict=True))))
    return replace(table, columns=schema.names, header=schema.header), notes
