"""Many records at once, column by column: an order of magnitude faster than one by one, for streams and services.

The features are those of `record.RecordEncoder`. Where a record is not as expected, nothing is said of it here: the
records are then encoded one by one, which finds the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from batchnorm.data.category import CategoryIndex
from batchnorm.data.cells import MISSING_TEXTS, number, plain, truth
from batchnorm.data.column import Column
from batchnorm.data.encode import feature_starts
from batchnorm.data.table import Array

_NUMBERS = frozenset({float, int, bool, type(None)})  # what NumPy reads as `cells.number` does; None becomes NaN
_DIGITS = b"0123456789.eE+-"  # a text of these that float() takes is a number to `cells.is_number`
_MOST_TEXTS = 10_000  # of a category column that are remembered

_Read: TypeAlias = Callable[[tuple[Any, ...], Array], None]


class ColumnwiseEncoder:
    """Turns lists of records into matrices of features.

    >>> encoder = ColumnwiseEncoder([Column("age", "number", fill=40.0, indicator=True)])
    >>> encoder.encode([{"age": "52"}, {"age": None}])
    array([[52.,  0.],
           [40.,  1.]])
    >>> encoder.encode([{"age": "52"}, {"name": "Ann"}]) is None
    True
    """

    def __init__(self, columns: Sequence[Column], na: Sequence[str] = ()) -> None:
        missing = MISSING_TEXTS.union(na)
        self._width = len(columns)
        names = [column.name for column in columns]
        self._cells_of: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda record: (record[names[0]],)
        )
        starts = [int(start) for start in feature_starts(columns)]
        self._features = starts[-1]
        self._fill: Array | None = None  # where there are numbers and nothing else
        if all(column.kind == "number" and not column.indicator for column in columns):
            self._fill = np.array([column.fill for column in columns], dtype=np.float64)
        self._read = [
            _category(column, start, missing) if column.kind == "category" else _number(column, start, missing)
            for column, start in zip(columns, starts, strict=False)
        ]

    def encode(self, records: Sequence[Mapping[str, Any] | Sequence[Any]]) -> Array | None:
        """(N, F) float64: features of mappings from column names, or of lists of as many cells as there are columns.

        Returns None where a record lacks a column, has another length, or holds a cell that does not fit its column.
        """
        rows = self._rows(records)
        if rows is None:
            return None
        try:
            if self._fill is not None and _NUMBERS.issuperset(map(type, chain.from_iterable(rows))):
                return _filled(np.array(rows, dtype=np.float64), self._fill)
            result = np.zeros((len(rows), self._features))
            for read, cells in zip(self._read, zip(*rows, strict=True), strict=True):
                read(cells, result)
        except (ValueError, TypeError, OverflowError):
            return None
        return result

    def _rows(self, records: Sequence[Any]) -> list[Any] | None:
        if not records:
            return None
        kinds = set(map(type, records))
        if kinds == {dict}:
            try:
                return list(map(self._cells_of, records))
            except KeyError:
                return None
        if kinds <= {list, tuple} and set(map(len, records)) == {self._width}:
            return list(records)
        return None


def _filled(numbers: Array, fill: Array) -> Array:
    """Numbers (N, C) with the missing ones replaced by `fill` (C,); ValueError where one is infinite."""
    if np.count_nonzero(np.isfinite(numbers)) < numbers.size:
        if np.isinf(numbers).any():
            raise ValueError
        numbers = np.where(np.isnan(numbers), fill, numbers)
    return numbers


def _number(column: Column, start: int, missing: frozenset[str]) -> _Read:
    """What reads the cells of a number or boolean column."""
    is_number, fill = column.kind == "number", np.array(column.fill, dtype=np.float64)
    read_one = number if is_number else truth

    def one(cell: Any) -> float:
        if type(cell) is str:
            cell = plain(cell)
            if cell in missing:
                return np.nan
        return np.nan if cell is None else read_one(cell)

    def read(cells: tuple[Any, ...], result: Array) -> None:
        kinds = set(map(type, cells))
        found: Any = None
        if is_number and _NUMBERS.issuperset(kinds):
            found = cells
        elif is_number and kinds == {str}:
            found = _floats(cells)
        values = np.array(list(map(one, cells)) if found is None else found, dtype=np.float64)
        result[:, start] = _filled(values, fill)
        if column.indicator:
            result[:, start + 1] = np.isnan(values)

    return read


def _floats(texts: Iterable[str]) -> list[float] | None:
    """Texts as numbers; None where one of them is none, or may be one after a second look."""
    try:
        if "".join(texts).encode("ascii").translate(None, _DIGITS):
            return None
        return list(map(float, texts))
    except ValueError:
        return None


class _Known(dict[str, int]):
    """What texts seen before were found to be."""

    def __init__(self, find: Callable[[str], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, text: str) -> int:
        if len(self) >= _MOST_TEXTS:
            self.clear()
        self[text] = found = self._find(text)
        return found


def _category(column: Column, start: int, missing: frozenset[str]) -> _Read:
    """What reads the cells of a category column."""
    index, values = CategoryIndex(column), column.width - column.indicator
    when_missing = start + values if column.indicator else start + values - 1 if column.other else -1

    def one(cell: Any) -> int:
        if type(cell) is str:
            cell = plain(cell)
            if cell in missing:
                return when_missing
        elif cell is None or cell != cell:
            return when_missing
        elif isinstance(cell, (list, dict)):
            raise TypeError
        position = index.of(cell)
        return start + position if position >= 0 else -1

    known = _Known(one)

    def read(cells: tuple[Any, ...], result: Array) -> None:
        is_text = set(map(type, cells)) == {str}
        features = np.array(list(map(known.__getitem__ if is_text else one, cells)))
        rows = np.flatnonzero(features >= 0)
        result[rows, features[rows]] = 1.0

    return read
