"""From a file's name, a built-in set's name or a frame to a Table whose target is set apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from batchnorm.data.source import Source, open_source
from batchnorm.data.table import Array, Table, position_of
from batchnorm.data.target import as_target
from batchnorm.errors import DataError, quoted

_MOST = 2.0**53  # times that a row counts: more cannot be told apart in float64


def read(
    source: Source,
    *,
    target: str | int | None = None,
    header: bool = True,
    separator: str | None = None,
    na: Iterable[str] = (),
    drop: Iterable[str | int] = (),
    categorical: Iterable[str | int] = (),
    labels: str | PathLike[str] | None = None,
    weight: str | int | None = None,
) -> Table:
    """Read a table and set its target apart.

    Args:
        source: a file (CSV, TSV, Parquet, .npy, .npz, IDX; also .gz), one of `builtin.BUILTIN`, a polars or pandas
            frame, or an array (N, *).
        target: the column to predict, by name; by number from 0 where there is no header; or "last". None leaves it to
            what the source brings (labels, y, a built-in set's own), which may be nothing.
        header: whether the first line of a text file names the columns; without, they are known by number.
        separator: of a text file; None finds out.
        na: texts that mean "missing" besides the empty cell, NA, NaN, null and the like.
        drop: columns to leave out.
        categorical: columns that are categories even where they are numbers.
        labels: a file with one label per row, for .npy and IDX.
        weight: the column that says how often each row counts; it becomes no feature.

    Raises:
        DataError: there is no such file or column, or the file cannot be read as what it is.
        SettingsError: the separator is longer than one character.

    >>> table = read("wine", drop=["hue"])
    >>> len(table), len(table.columns), table.target_name
    (178, 12, 'cultivar')
    """
    table = open_source(
        source,
        header=header,
        separator=separator,
        na=tuple(_listed(na)),
        labels=None if labels is None else Path(labels),
        named=target,
    )
    return _select(table, target=target, drop=_listed(drop), categorical=_listed(categorical), weight=weight)


def _listed(values: Iterable[Any] | str | int) -> list[Any]:
    """A single text or number stands for a list of one: it would be taken letter by letter."""
    return [values] if isinstance(values, (str, int)) else list(values)


def _select(
    table: Table, *, target: str | int | None, drop: list[Any], categorical: list[Any], weight: str | int | None
) -> Table:
    """`table` without the dropped columns, its target and weights apart."""
    own = table.target is not None
    if own and target is not None and str(target) not in (str(table.target_name), "last"):
        raise DataError(
            f"{table.name} brings its own target {quoted(table.target_name)}: expected no other, got "
            f"{quoted(str(target))}: leave --target out."
        )

    def place(wanted: str | int, option: str) -> int:
        return position_of(wanted, table.columns, header=table.header, name=table.name, option=option)

    at = place(target, "--target") if target is not None and not own else None
    dropped = {place(name, "--drop") for name in drop}
    chosen = {place(name, "--categorical") for name in categorical}
    if at is not None and at in dropped | chosen:
        option = "--drop" if at in dropped else "--categorical"
        name = quoted(table.columns[at])
        raise DataError(f"{table.name}: column {name} is the target and cannot be in {option} as well.")
    heavy = place(weight, "--weight") if weight is not None else None
    if heavy is not None and heavy in dropped | chosen | {at}:
        raise DataError(
            f"{table.name}: column {quoted(table.columns[heavy])} is --weight and cannot be something else as well."
        )
    outside = sorted(dropped | {place for place in (at, heavy) if place is not None})
    kept = [position for position in range(len(table.columns)) if position not in set(outside)]
    if not kept:
        raise DataError(f"{table.name}: expected at least one feature column beside the target, got none.")
    result = replace(table, categorical=frozenset(table.columns[position] for position in chosen - dropped))
    if not outside:
        return result
    if at is not None:
        name = table.columns[at]
        values = as_target(table.cells[:, at], table.na, what=f"{table.name}: target {quoted(name)}")
        result = replace(result, target=values, target_name=name)
    if heavy is not None:
        result = replace(result, weights=counts_of(table, heavy))
    return replace(
        result,
        columns=tuple(table.columns[position] for position in kept),
        cells=cast(Any, table.cells)[:, kept],
        beside=tuple((position, table.columns[position]) for position in outside),
    )


def counts_of(table: Table, position: int) -> Array:
    """The cells of one column as how often each row counts, (N,) float64."""
    name = table.columns[position]
    values = as_target(table.cells[:, position], table.na, what=f"{table.name}: weights {quoted(name)}")
    if any(isinstance(value, str) for value in values.tolist()):
        raise DataError(f"{table.name}: --weight expected numbers >= 0 in column {quoted(name)}, got texts.")
    weights = values.astype(np.float64)  # None, where an integer is missing, becomes NaN
    wrong = ~((weights >= 0) & (weights < _MOST))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{table.name}: --weight expected numbers >= 0 and below 2**53 in column {quoted(name)}, got "
            f"{weights[row]:g} in row {table.row_number(row)}."
        )
    return weights
