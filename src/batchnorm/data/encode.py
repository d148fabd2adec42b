"""Many rows at once, as the (N, F) matrix that the network takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from batchnorm.data.category import CategoryIndex
from batchnorm.data.cells import is_number
from batchnorm.data.column import Column
from batchnorm.data.naming import flag
from batchnorm.data.table import Array
from batchnorm.errors import DataError, quoted

if TYPE_CHECKING:
    import polars as pl

_BLOCK = 1024
"""Rows that are encoded together: what they become stays in the processor's cache."""

_EXACT_IN_FLOAT32 = frozenset(map(np.dtype, ("bool", "u1", "i1", "u2", "i2", "f2", "f4")))


def encode_matrix(columns: Sequence[Column], cells: Array, *, table: str, row_number: Callable[[int], int]) -> Array:
    """A numeric matrix as features.

    Args:
        columns: C of them.
        cells: (N, C), in the order of `columns`; NaN is missing.
        table: how messages call the source.
        row_number: the row number of a position, for messages.

    Returns:
        (N, F): float32 where it holds every value exactly (pixels, float32), else float64. Where nothing changes it is
        `cells` itself: do not write to it.

    Raises:
        DataError: a value is infinite.
    """
    missing = None
    if cells.dtype.kind == "f" and not np.isfinite(cells).all():
        missing = np.isnan(cells)
        if not (missing | np.isfinite(cells)).all():
            row, position = np.argwhere(np.isinf(cells))[0]
            raise DataError(_bad_cell(table, columns[position], row_number(int(row)), cells[row, position].item()))
        if not missing.any():
            missing = None
    if missing is None and all(column.kind == "number" and not column.indicator for column in columns):
        return cells.astype(np.float32 if cells.dtype in _EXACT_IN_FLOAT32 else np.float64, copy=False)
    result = np.zeros((len(cells), feature_starts(columns)[-1]))
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, start + _BLOCK)
        gone = None if missing is None else missing[block]
        try:
            _encode_block(columns, cells[block], gone, result[block])
        except _BadCellError as bad:
            row = start + bad.row
            raise DataError(_bad_cell(table, bad.column, row_number(row), bad.cell)) from None
    return result


def encode_frame(
    columns: Sequence[Column], frame: pl.DataFrame, *, table: str, row_number: Callable[[int], int]
) -> Array:
    """A cleaned frame that has all of `columns`, as features.

    Returns:
        (N, F) float64.

    Raises:
        DataError: a cell of a number or boolean column is none, or a column holds dates.
    """
    from batchnorm.data.frame import numbers, refuse_type, truths

    starts = feature_starts(columns)
    result = np.zeros((len(frame), starts[-1]))
    for position, column in enumerate(columns):
        cells = frame[column.name]
        refuse_type(cells, table=table)
        if column.kind == "category":
            distinct = cells.drop_nulls().unique()
            known = CategoryIndex(column).of_all(distinct.to_list())
            codes = cells.replace_strict(distinct, known, default=None) if len(distinct) else cells
            gone = cells.is_null().to_numpy()
            _put_category(result, starts[position], column, codes.cast(int).fill_null(-1).to_numpy(), gone)
        else:
            values, wrong = (numbers if column.kind == "number" else truths)(cells)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(_bad_cell(table, column, row_number(row), cells[row]))
            gone = np.isnan(values)
            values[gone] = column.fill
            result[:, starts[position]] = values
        if column.indicator:
            result[:, starts[position + 1] - 1] = gone
    return result


def feature_starts(columns: Sequence[Column]) -> Array:
    """(C + 1,): the first feature of each column, and the number of features."""
    return np.concatenate([[0], np.cumsum([column.width for column in columns], dtype=np.int64)])


def expected(column: Column) -> str:
    """What a cell of a number or boolean column may be."""
    return "a finite number" if column.kind == "number" else "true or false"


class _BadCellError(Exception):
    """Where in a block a cell does not fit its column."""

    def __init__(self, row: int, column: Column, cell: object) -> None:
        self.row, self.column, self.cell = row, column, cell


def _encode_block(columns: Sequence[Column], cells: Array, missing: Array | None, result: Array) -> None:
    """Some rows of a matrix into the features `result`, which are 0.

    cells: (B, C); missing: (B, C) bool, or None where nothing is; result: (B, F).
    """
    starts = feature_starts(columns)
    plain = np.array([position for position, column in enumerate(columns) if column.kind == "number"], dtype=np.int64)
    flagged = np.array([position for position, column in enumerate(columns) if column.indicator], dtype=np.int64)
    values = cells[:, plain].astype(np.float64)
    if missing is not None:
        fill = np.array([columns[position].fill for position in plain], dtype=np.float64)
        values = np.where(missing[:, plain], fill, values)
        result[:, starts[flagged + 1] - 1] = missing[:, flagged]
    result[:, starts[plain]] = values
    for position, column in enumerate(columns):
        if column.kind == "number":
            continue
        own = cells[:, position]
        gone = np.zeros(len(cells), dtype=bool) if missing is None else missing[:, position]
        if column.kind == "category":
            distinct, inverse = np.unique(own, return_inverse=True)
            known = np.array(CategoryIndex(column).of_all(distinct.tolist()))
            _put_category(result, starts[position], column, known[inverse.reshape(-1)], gone)
        else:
            wrong = ~(gone | (own == 0) | (own == 1))
            if wrong.any():
                row = int(np.argmax(wrong))
                raise _BadCellError(row, column, own[row].item())
            result[:, starts[position]] = np.where(gone, column.fill or 0.0, own)


def _put_category(result: Array, start: int, column: Column, codes: Array, gone: Array) -> None:
    """Write 1 where a row's category has its feature; a missing cell without an indicator is an "other" one."""
    if column.other and not column.indicator:
        codes = np.where(gone, len(column.categories), codes)
    elif gone.any():
        codes = np.where(gone, -1, codes)
    rows = np.flatnonzero(codes >= 0)
    result[rows, start + codes[rows]] = 1.0


def _bad_cell(table: str, column: Column, row: int, cell: object) -> str:
    hint = f" If that means missing, say {flag('--na', cell)}." if isinstance(cell, str) and not is_number(cell) else ""
    return (
        f"{table}: expected {expected(column)} in column {quoted(column.name)}, as in the training rows, got "
        f"{quoted(cell)} in row {row}.{hint}"
    )
