"""One record at a time: an encoder compiled from the columns once, for streams that are answered line by line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from batchnorm.data.category import CategoryIndex
from batchnorm.data.cells import MISSING_TEXTS, number, plain, truth
from batchnorm.data.column import Column
from batchnorm.data.encode import expected, feature_starts
from batchnorm.data.naming import count, listing, suggestion
from batchnorm.errors import DataError, quoted

_Put: TypeAlias = Callable[[Any, list[float]], None]


class RecordEncoder:
    """Turns records into lists of features, at some microseconds a record.

    >>> encoder = RecordEncoder([Column("age", "number", fill=40.0, indicator=True)])
    >>> encoder.encode({"age": "52"}), encoder.encode({"age": None})
    ([52.0, 0.0], [40.0, 1.0])
    """

    def __init__(self, columns: Sequence[Column], na: Sequence[str] = ()) -> None:
        missing = MISSING_TEXTS.union(na)
        starts = [int(start) for start in feature_starts(columns)]
        self._features = starts[-1]
        self._columns = {column.name: column for column in columns}
        self._steps = [
            (column.name, (_put_category if column.kind == "category" else _put_number)(column, start, missing))
            for column, start in zip(columns, starts, strict=False)
        ]

    def encode(self, record: Mapping[str, Any]) -> list[float]:
        """(F,) features of one record: texts are parsed, None and NaN are missing, further entries ignored.

        Raises:
            DataError: the record lacks columns (all of them are named), or a cell does not fit its column.
        """
        row = [0.0] * self._features
        name = ""
        try:
            for name, put in self._steps:
                put(record[name], row)
        except KeyError:
            raise DataError(self._missing(record)) from None
        except (ValueError, TypeError):
            raise DataError(self._bad_cell(name, record[name])) from None
        return row

    def encode_sequence(self, values: Sequence[Any]) -> list[float]:
        """`encode` for cells in the order of the columns, as many as there are."""
        row = [0.0] * self._features
        for value, (name, put) in zip(values, self._steps, strict=True):
            try:
                put(value, row)
            except (ValueError, TypeError):
                raise DataError(self._bad_cell(name, value)) from None
        return row

    def _missing(self, record: Mapping[str, Any]) -> str:
        lacking = [name for name in self._columns if name not in record]
        known = [str(name) for name in record]
        hint = suggestion(lacking[0], [name for name in known if name not in self._columns])
        return f"the record lacks {count(len(lacking), 'column')}: {listing(lacking)}.{hint}"

    def _bad_cell(self, name: str, value: object) -> str:
        column = self._columns[name]
        wanted = expected(column) if column.kind != "category" else "a text or a number"
        return f"expected {wanted} in column {quoted(name)}, got {quoted(value)}."


def _put_number(column: Column, start: int, missing: frozenset[str]) -> _Put:
    """What writes one cell of a number or boolean column into a row."""
    assert column.fill is not None
    fill, indicator, read = column.fill, column.indicator, number if column.kind == "number" else truth

    def put(value: Any, row: list[float]) -> None:
        if type(value) is str:
            value = plain(value)
            if value in missing:
                value = None
        if value is not None:
            found = read(value)
            if found == found:
                row[start] = found
                return
        row[start] = fill
        if indicator:
            row[start + 1] = 1.0

    return put


def _put_category(column: Column, start: int, missing: frozenset[str]) -> _Put:
    """What writes one cell of a category column into a row."""
    position_of, indicator, values = CategoryIndex(column).of, column.indicator, column.width - column.indicator
    when_missing = start + values if indicator else start + values - 1 if column.other else -1

    def put(value: Any, row: list[float]) -> None:
        if type(value) is str:
            value = plain(value)
            if value in missing:
                value = None
        elif value != value:
            value = None
        elif isinstance(value, (list, dict)):
            raise TypeError
        if value is not None:
            position = position_of(value)
            if position >= 0:
                row[start + position] = 1.0
        elif when_missing >= 0:
            row[when_missing] = 1.0

    return put
