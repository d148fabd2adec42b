"""Lines of JSON or CSV as records, each with the number of its line, and an error where a line holds none."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from batchnorm.errors import DataError

Record: TypeAlias = Mapping[str, Any] | Sequence[Any]
Found: TypeAlias = tuple[int, Record | DataError]
"""The number of a line, and what it holds."""
Line: TypeAlias = tuple[int, str]

_MOST_LINES = 1000  # of one CSV record, whose quoted cells may hold line ends


class Reader(Protocol):
    """Reads lines that come bit by bit."""

    def read(self, lines: Iterable[Line], *, is_end: bool) -> list[Found]:
        """What further lines hold; what is incomplete waits for more, unless this is the end of them."""


def reader_for(first: str, *, has_names: bool, separator: str | None, na: Sequence[str]) -> Reader:
    """The reader of lines of which `first` is the first that is not blank.

    It begins with { or [ in JSON lines; otherwise it is CSV.

    Args:
        has_names: whether the first record of CSV names the columns.
        separator: of CSV; None: whichever of , ; tab | the first line has most of.
        na: texts that mean missing in CSV.
    """
    if first.lstrip()[0] in "{[":
        return JsonRows()
    return CsvRows(separator or max(",;\t|", key=first.count), has_names=has_names, na=na)


class JsonRows:
    """One JSON object or array per line."""

    def read(self, lines: Iterable[Line], *, is_end: bool) -> list[Found]:
        """See `Reader`; a line is never incomplete."""
        del is_end
        return [(number, self._record(line)) for number, line in lines if line and not line.isspace()]

    def _record(self, line: str) -> Record | DataError:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return DataError(f"expected one JSON object, got text that is not JSON: {error}")
        if type(record) is dict or type(record) is list:
            return record
        return DataError(f"expected a JSON object or array, got {type(record).__name__}")


class CsvRows:
    """Records of CSV; a quoted cell may hold separators, doubled quotes and line ends.

    >>> rows = CsvRows(",", has_names=True, na=())
    >>> rows.read([(1, "age,town"), (2, '52,"Ulm,'), (3, 'old town"')], is_end=False)
    [(2, {'age': '52', 'town': 'Ulm,\\nold town'})]
    """

    def __init__(self, separator: str, *, has_names: bool, na: Sequence[str]) -> None:
        self._separator = separator
        self._has_names = has_names
        self._names: list[str] | None = None
        self._missing = frozenset(na)
        self._waiting: deque[Line] = deque()

    def read(self, lines: Iterable[Line], *, is_end: bool) -> list[Found]:
        """See `Reader`."""
        self._waiting.extend(lines)
        found: list[Found] = []
        for number, cells in self._records(is_end=is_end):
            if isinstance(cells, DataError):
                found.append((number, cells))
            elif self._has_names and self._names is None:
                self._names = [name.strip() for name in cells]
            else:
                found.append((number, self._record(cells)))
        return found

    def _record(self, cells: list[str]) -> Record | DataError:
        row: list[str | None] = [*cells]
        if self._missing:
            row = [None if cell in self._missing else cell for cell in cells]
        if self._names is None:
            return row
        if len(row) != len(self._names):
            return DataError(f"expected {len(self._names)} cells, got {len(row)}")
        return dict(zip(self._names, row, strict=True))

    def _records(self, *, is_end: bool) -> Iterator[tuple[int, list[str] | DataError]]:
        """The records that are whole, each with the number of its first line."""
        waiting = self._waiting
        while waiting:
            number, line = waiting[0]
            if not line or line.isspace():
                waiting.popleft()
            elif '"' not in line and "\r" not in line:
                waiting.popleft()
                yield number, line.split(self._separator)
            else:
                taken = _Taken(waiting)
                try:
                    cells: list[str] | DataError = next(csv.reader(taken, delimiter=self._separator))
                except csv.Error as error:
                    cells = DataError(
                        f"expected cells separated by {self._separator!r}, got a line that cannot be cut: {error}"
                    )
                if taken.is_open and not is_end and taken.count < _MOST_LINES:
                    return
                if taken.is_open:
                    taken.count = 1
                    cells = DataError("expected the quote that opens a cell to be closed, got none that closes it")
                for _ in range(taken.count):
                    waiting.popleft()
                yield number, cells


class _Taken(Iterator[str]):
    """Hands lines to `csv.reader`, which takes a further one as long as a quote is open."""

    def __init__(self, lines: deque[Line]) -> None:
        self._lines = lines
        self.count = 0
        self.is_open = False  # more was asked for than there is

    def __next__(self) -> str:
        if self.count == len(self._lines) or self.count == _MOST_LINES:
            self.is_open = True
            raise StopIteration
        self.count += 1
        return self._lines[self.count - 1][1] + "\n"
