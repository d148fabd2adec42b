"""The target column as it is read: truths, numbers or texts, with what is missing in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from batchnorm.data.naming import count
from batchnorm.data.table import Array
from batchnorm.errors import DataError, legible, quoted

_integer = re.compile(r"[+-]?\d+", re.ASCII).fullmatch


def as_target(values: Any, na: tuple[str, ...] = (), *, what: str = "the target") -> Array:
    """Any column as target values.

    Args:
        values: (N,) an array, a polars or pandas series, or a sequence.
        na: texts that mean "missing" besides the usual ones.
        what: how a message calls it.

    Returns:
        (N,) bool, int64 or float64 (NaN is missing), or objects: texts, or integers beyond int64; None is missing.
        Texts that are all numbers, or all true/false, come as numbers and truths.

    Raises:
        DataError: dates, or values that are no numbers, truths or texts.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.ndim == 1:
        if values.dtype.kind == "b":
            return values
        if values.dtype.kind == "f":
            return values.astype(np.float64)
        if values.dtype.itemsize < 8 or not len(values) or values.max() <= np.iinfo(np.int64).max:
            return values.astype(np.int64)
        return np.array(values.tolist(), dtype=object)
    from batchnorm.data import frame

    column = frame.clean(frame.series(values, "target").to_frame(), na).to_series()
    if column.dtype.is_temporal():
        raise DataError(
            f"{what} holds dates or times ({column.dtype}), which cannot be predicted: put numbers in their place "
            "first, such as days since a fixed day."
        )
    if not frame.is_plain(column):
        raise DataError(f"{what} has type {legible(str(column.dtype))}: expected numbers, true/false or texts.")
    return _from_series(column)


def _from_series(column: Any) -> Array:
    """`as_target` of a cleaned polars series."""
    import polars as pl

    from batchnorm.data import frame

    if column.dtype == pl.Boolean:
        return cast(Array, column.to_numpy() if not column.null_count() else _objects(column.to_list()))
    if column.dtype != pl.String and column.dtype.is_float():
        return cast(Array, column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    numbers, wrong = frame.numbers(column)
    if wrong.any():
        said = column.cast(pl.String).str.to_lowercase()
        if bool(said.is_in(["true", "false"]).all()):
            truths = [None if cell is None else cell == "true" for cell in said.to_list()]
            return np.array(truths) if None not in truths else _objects(truths)
        return _objects(column.to_list())
    whole = _are_integers(numbers)
    if whole and float(np.max(np.abs(numbers), initial=0.0, where=~np.isnan(numbers))) >= 2.0**53:
        cells = [None if cell is None else str(cell) for cell in column.to_list()]
        if all(cell is None or _integer(cell) for cell in cells):
            return _integers([None if cell is None else int(cell) for cell in cells])
    elif whole and len(numbers) and not np.isnan(numbers).any():
        return numbers.astype(np.int64)
    return numbers


def _are_integers(numbers: Array) -> bool:
    there = numbers[~np.isnan(numbers)]
    return bool((there == np.floor(there)).all())


def _integers(values: list[int | None]) -> Array:
    try:
        return np.array(values, dtype=np.int64)
    except (TypeError, OverflowError):
        return _objects(values)


def _objects(values: list[Any]) -> Array:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def missing(values: Array) -> Array:
    """(N,) bool: where a target from `as_target` is missing."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def refuse_missing(values: Array, *, name: str, table: str, row_number: Callable[[int], int]) -> None:
    """Raise where the target is missing in some rows: there is nothing to learn from these."""
    gone = np.flatnonzero(missing(values))
    if len(gone):
        raise DataError(
            f"{table}: target {quoted(name)} is missing in {count(len(gone), 'row')} of {len(values):,}, first in row "
            f"{row_number(int(gone[0]))}: remove these rows, or choose another target."
        )
