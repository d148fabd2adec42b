"""Whole numbers that float64 cannot hold: beyond 2**53 the last digits are lost, which who counts by them must know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from batchnorm.data.naming import listing
from batchnorm.data.schema import Schema
from batchnorm.data.table import Table

_EXACT = 2**53  # up to here float64 holds every whole number
_LONG = r"^[+-]?\d{16,}$"  # 2**53 has 16 digits


def rounded(table: Table, schema: Schema) -> tuple[str, ...]:
    """One note on the columns of `table`, the target among them, that lose digits as numbers; none where none does.

    >>> from batchnorm.data.learn import learn_schema
    >>> table = Table("t", ("id",), np.array([[2**53 + 1], [1], [2]]), np.array([0, 1, 1]), "y")
    >>> rounded(table, learn_schema(table))[0][:64]
    "t: whole numbers beyond 2**53 lose their last digits in 'id': le"
    """
    names = [
        column.name
        for position, column in enumerate(schema.columns)
        if column.kind == "number" and _any_is_rounded(_long_integers(table.cells[:, position]))
    ]
    if schema.target.kind == "number" and table.target is not None and _any_is_rounded(_long_integers(table.target)):
        names.append(schema.target.name)
    if not names:
        return ()
    return (
        f"{table.name}: whole numbers beyond 2**53 lose their last digits in {listing(names)}: leave identifiers out "
        "with --drop, or say --categorical where they are few.",
    )


def _long_integers(cells: Any) -> Iterable[int]:
    """Those cells of one column that are whole numbers beyond 2**53, or nearly."""
    if isinstance(cells, np.ndarray):
        if cells.dtype.kind == "O":
            return (cell for cell in cells if isinstance(cell, int))
        if cells.dtype.kind not in "iu":
            return ()
        return map(int, cells[(cells > _EXACT) | (cells < -_EXACT)]) if cells.dtype.itemsize == 8 else ()
    import polars as pl

    if cells.dtype == pl.String:
        long = cells.filter(cells.str.len_bytes() >= 16)
        return map(int, long.filter(long.str.contains(_LONG)))
    if cells.dtype in (pl.Int64, pl.UInt64):
        return _long_integers(cells.drop_nulls().to_numpy())
    return cells.drop_nulls().to_list() if cells.dtype == pl.Int128 else ()


def _any_is_rounded(integers: Iterable[int]) -> bool:
    return any(integer != int(float(integer)) for integer in integers)
