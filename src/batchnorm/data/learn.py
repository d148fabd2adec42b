"""The schema of a table, learnt from its training rows and from nothing else."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from batchnorm.data.cells import text
from batchnorm.data.column import Column
from batchnorm.data.naming import count, flag, listing
from batchnorm.data.schema import Schema
from batchnorm.data.suspects import FEWEST_ROWS, refuse_suspects
from batchnorm.data.table import Array, Table
from batchnorm.data.target import refuse_missing
from batchnorm.data.task import Task, learn_target
from batchnorm.errors import DataError, quoted

if TYPE_CHECKING:
    import polars as pl

MOST_CATEGORIES = 100
"""Of a column's categories, the most frequent ones that get a feature of their own."""

RARE_SHARE = 0.001
"""A category in fewer than two rows, or than this share of the training rows, is rare and goes to "other"."""


def learn_schema(table: Table, rows: Array | None = None, *, task: Task = "auto") -> Schema:
    """What every column is, from the training rows of `table`.

    A column of numbers (or of texts that are all numbers) is a number, true/false and yes/no are a boolean, other texts
    a category. Where numbers are missing, their mean over the training rows stands in. Constant columns are kept.

    Args:
        table: with a target.
        rows: (R,) positions of the training rows; None means all.
        task: settles whether the target is a class or a number; see `task.learn_target` for how "auto" decides.

    Raises:
        DataError: a column is empty, holds dates, infinite values, identifiers or a mixture of numbers and texts; or
            the target is missing in a row, has one class, or as many classes as rows.

    >>> table = Table("t", ("a", "b"), np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]]), np.array([0, 1, 1]), "y")
    >>> learn_schema(table).columns[0]
    Column(name='a', kind='number', categories=(), other=False, fill=2.0, indicator=False)
    """
    if rows is not None:
        table = table.take(rows)
    if not len(table):
        raise DataError(f"{table.name}: expected at least one training row, got none.")
    if table.target is None or table.target_name is None:
        raise DataError(f"{table.name} has no target yet: expected the column to predict, name it with --target.")
    refuse_missing(table.target, name=table.target_name, table=table.name, row_number=table.row_number)
    target = learn_target(table.target, name=table.target_name, table=table.name, task=task)
    if isinstance(table.cells, np.ndarray):
        columns = _learn_matrix(table, table.cells)
    else:
        columns = tuple(_learn_cells(table, column) for column in table.cells.get_columns())
    return Schema(columns, target, table.header, table.na, table.beside)


def _learn_matrix(table: Table, cells: Array) -> tuple[Column, ...]:
    """cells: (N, C), numeric."""
    gone = np.zeros(cells.shape[1], dtype=np.int64)
    if cells.dtype.kind == "f":
        infinite = np.isinf(cells)
        if infinite.any():
            row, position = np.argwhere(infinite)[0]
            raise DataError(_infinite(table, table.columns[position], int(row), int(infinite[:, position].sum())))
        missing = np.isnan(cells)
        gone = missing.sum(0)
    if (gone == len(cells)).any():
        empty = [table.columns[position] for position in np.flatnonzero(gone == len(cells))]
        raise DataError(_empty(table, empty))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.where(missing, 0, cells).sum(0, dtype=np.float64) if gone.any() else cells.sum(0, dtype=np.float64)
        means = total / (len(cells) - gone)
    for position in np.flatnonzero(~np.isfinite(means)):
        own = cells[:, position].astype(np.float64)
        means[position] = _mean(own[~np.isnan(own)])
    columns = []
    for position, name in enumerate(table.columns):
        if name in table.categorical:
            values = cells[:, position]
            found = Counter(map(text, values[~np.isnan(values)].tolist() if gone[position] else values.tolist()))
            columns.append(_category(name, found, missing=int(gone[position])))
        else:
            columns.append(Column(name, "number", fill=float(means[position]), indicator=bool(gone[position])))
    return tuple(columns)


def _learn_cells(table: Table, cells: pl.Series) -> Column:
    """One cleaned column of a frame."""
    import polars as pl

    from batchnorm.data.frame import is_boolean, numbers, refuse_type, truths

    refuse_type(cells, table=table.name)
    missing = cells.null_count()
    if missing == len(cells):
        raise DataError(_empty(table, [cells.name]))
    there = cells.drop_nulls()
    if cells.name in table.categorical:
        counted = dict(zip(*there.value_counts().get_columns(), strict=True))
        found: Counter[str] = Counter()
        for value, times in counted.items():
            found[text(value)] += times
        return _category(cells.name, found, missing=missing)
    if is_boolean(cells):
        return Column(cells.name, "boolean", fill=_mean(truths(there)[0]), indicator=missing > 0)
    values, wrong = numbers(there)
    infinite = np.zeros(len(there), dtype=bool)
    if wrong.any():
        infinite = there.cast(pl.Float64, strict=False).is_infinite().fill_null(False).to_numpy()
    if infinite.any() and (infinite == wrong).all():
        row = int(np.flatnonzero(cells.is_not_null().to_numpy())[np.argmax(infinite)])
        raise DataError(_infinite(table, cells.name, row, int(infinite.sum())))
    if not wrong.any():
        return Column(cells.name, "number", fill=_mean(values), indicator=missing > 0)
    refuse_suspects(there, int((~wrong).sum()), table=table.name)
    found = Counter({str(value): int(times) for value, times in there.value_counts().rows()})
    return _category(cells.name, found, missing=missing)


def _category(name: str, found: Counter[str], *, missing: int) -> Column:
    """A category column from how often each text occurs."""
    rows = found.total() + missing
    fewest = max(2, math.ceil(RARE_SHARE * rows)) if rows >= FEWEST_ROWS else 1
    frequent = sorted((text for text in found if found[text] >= fewest), key=lambda text: (-found[text], text))
    kept = frequent[:MOST_CATEGORIES]
    return Column(name, "category", tuple(sorted(kept)), other=len(kept) < len(found), indicator=missing > 0)


def _mean(values: Array) -> float:
    """The mean of finite numbers, finite even where their sum is not."""
    with np.errstate(over="ignore"):
        mean = float(np.mean(values, dtype=np.float64))
    if math.isfinite(mean):
        return mean
    return float(np.sum(values.astype(np.float64) / len(values)))


def _empty(table: Table, names: list[str]) -> str:
    which = f"column {quoted(names[0])} is" if len(names) == 1 else f"columns {listing(names)} are"
    return (
        f"{table.name}: {which} empty in all {count(len(table), 'training row')}: there is nothing to learn from. "
        f"Leave {'it' if len(names) == 1 else 'them'} out with {' '.join(flag('--drop', name) for name in names[:8])}."
    )


def _infinite(table: Table, name: str, row: int, rows: int) -> str:
    return (
        f"{table.name}: column {quoted(name)} holds infinite values, or numbers too large for float64, in "
        f"{count(rows, 'row')}, first in row {table.row_number(row)}: expected finite numbers. Repair them, leave them "
        f"empty if they are missing, or leave the column out with {flag('--drop', name)}."
    )
