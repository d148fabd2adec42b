"""Table: the rows of a file, a frame or an array as they came, features and target apart, nothing learnt yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from batchnorm.data.naming import columns_of, flag, listing, suggestion
from batchnorm.errors import DataError, quoted

if TYPE_CHECKING:
    import polars as pl

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """N rows of C feature columns and, where there is one, their target.

    Attributes:
        name: how messages call it, e.g. "housing.csv".
        columns: the names of the feature columns; numbers as text where there is no header.
        cells: (N, C), a numeric matrix (NaN is missing), or a frame whose texts are stripped and whose missing
            cells are null.
        target: (N,) of bool, int64 or float64 (NaN is missing), or objects: texts, huge integers, None where missing.
        target_name: None where there is no target.
        header: whether columns are known by name; if not, by number from 0.
        na: the texts that mean "missing" besides `cells.MISSING_TEXTS`.
        categorical: the columns that are categories whatever their cells look like.
        beside: (position, name) of the source's columns that are no features: target and dropped ones.
        numbers: (N,) the row number of each row in the source, from 1; None where they are 1..N.
        weights: (N,) float64, how often each row counts; None is once.
    """

    name: str
    columns: tuple[str, ...]
    cells: Array | pl.DataFrame
    target: Array | None = None
    target_name: str | None = None
    header: bool = True
    na: tuple[str, ...] = ()
    categorical: frozenset[str] = frozenset()
    beside: tuple[tuple[int, str], ...] = ()
    numbers: Array | None = None
    weights: Array | None = None

    def __len__(self) -> int:
        return int(self.cells.shape[0])

    def take(self, rows: Array) -> Table:
        """The rows at the positions `rows`, which keep their row numbers.

        Args:
            rows: (R,) integers from 0.
        """
        return replace(
            self,
            cells=self.cells[rows],
            target=None if self.target is None else self.target[rows],
            numbers=rows + 1 if self.numbers is None else self.numbers[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def row_number(self, position: int) -> int:
        """What the source calls the row at `position`: counted from 1, a header line not counted."""
        return position + 1 if self.numbers is None else int(self.numbers[position])

    def record(self, position: int) -> dict[str, object]:
        """One row's feature cells by column name, as `Schema.encode_record` takes them.

        >>> Table("t", ("a", "b"), np.array([[1.5, 2.5]])).record(0)
        {'a': 1.5, 'b': 2.5}
        """
        row = self.cells[position].tolist() if isinstance(self.cells, np.ndarray) else self.cells.row(position)
        return dict(zip(self.columns, row, strict=True))


def position_of(wanted: str | int, columns: Sequence[str], *, header: bool, name: str, option: str) -> int:
    """The position of the column that the user calls `wanted`: by its name, "last", or its number from 0.

    Numbers are for tables without header; negative ones count from the end.

    Raises:
        DataError: there is no such column; the message suggests close names.

    >>> position_of("last", ["0", "1", "2"], header=False, name="iris.csv", option="--target")
    2
    """
    said = str(wanted).strip()
    if said in columns:
        return columns.index(said)
    if said == "last":
        return len(columns) - 1
    if not header or isinstance(wanted, int):
        try:
            position = int(said)
        except ValueError:
            pass
        else:
            if -len(columns) <= position < len(columns):
                return position % len(columns)
    hint = suggestion(said, columns) if header else ""
    raise DataError(
        f"{name} has no column {quoted(said)} for {flag(option, said)}.{hint} {columns_of(columns, header=header)}"
        + (_header_hint(columns) if header else ' "last" is the last one.')
    )


def refuse_data_as_header(columns: Sequence[str], *, name: str) -> None:
    """Raise where the header line can only be data: a name with a decimal point, or numbers that repeat."""
    if _header_hint(columns):
        raise DataError(
            f"{name}: expected column names in the first line, got {listing(columns, most=4)}.{_header_hint(columns)}"
        )


def refuse_duplicates(columns: Sequence[str], *, name: str) -> None:
    """Raise where two columns have one name."""
    seen: dict[str, int] = {}
    for position, column in enumerate(columns):
        if column in seen:
            raise DataError(
                f"{name}: expected every column to have its own name, got {quoted(column)} twice, as columns "
                f"{seen[column]} and {position} (counted from 0): rename one of them in the file."
                + _header_hint(columns)
            )
        seen[column] = position


def _header_hint(columns: Sequence[str]) -> str:
    from batchnorm.data.cells import is_number

    numeric = [column for column in columns if is_number(column)]
    if any("." in column for column in numeric) or len(set(numeric)) < len(numeric):
        return " The first line looks like data: if the file has no header line, say --no-header."
    return ""
