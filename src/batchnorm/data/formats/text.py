"""CSV, TSV and other separated text: cells stay text here, for their kind is learnt from the training rows alone."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from batchnorm.data.cells import is_number, plain
from batchnorm.data.formats.content import content
from batchnorm.data.frame import clean, numbers
from batchnorm.data.naming import count, listing
from batchnorm.data.table import Table, refuse_data_as_header, refuse_duplicates
from batchnorm.errors import DataError, SettingsError, quoted

_SAMPLE = 1 << 18
"""How many characters are looked at to find the separator."""
_NAMED_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Dialect:
    """How a text is cut into cells."""

    separator: str
    quote: str = '"'


def read_text(
    path: Path, *, header: bool, separator: str | None = None, na: tuple[str, ...] = (), named: str | int | None = None
) -> Table:
    """A separated text file as a Table of texts.

    Args:
        path: the file; UTF-8 (a byte order mark is skipped) or UTF-16 with one; .gz is unpacked.
        header: whether the first line names the columns.
        separator: one character, or tab, comma, semicolon, pipe, space; None finds out which of the first four it is.
        na: texts that mean "missing" besides the usual ones.
        named: a column name that, when the first line has it, proves that line to be a header.

    Raises:
        DataError: the file is empty, no text, has rows of unequal length, or a header with repeated names or no rows.
        SettingsError: the separator is longer than one character.
    """
    text = _decoded(content(path), name=path.name)
    dialect = sniff(text, separator=_separator(separator, path))
    first = next(_records(text, dialect, name=path.name), None)
    if first is None:
        raise DataError(f"{path.name} is empty: expected a table, got only blank lines.")
    cells = _cells(text, dialect, width=len(first), name=path.name)
    columns = tuple(map(str, range(len(first))))
    if header:
        columns = tuple(plain(name) or f"column {position}" for position, name in enumerate(first))
        cells = cells.slice(1)
        if str(named) not in columns:
            refuse_data_as_header(columns, name=path.name)
        refuse_duplicates(columns, name=path.name)
        if not len(cells):
            raise DataError(
                f"{path.name} has a header line and no rows: expected at least one row below "
                f"{listing(columns, most=4)}."
            )
    cells.columns = list(columns)
    cells = clean(cells, na)
    if not header:
        _refuse_header_as_data(cells, name=path.name)
    return Table(path.name, columns, cells, header=header, na=na)


def sniff(text: str, *, separator: str | None = None) -> Dialect:
    """The dialect that cuts the first lines of `text` into equally many cells.

    Tab, semicolon, pipe and comma are tried in this order, the comma last because it also writes decimals; then the
    same with single quotes around cells. Where none fits, what cuts the most lines like the first.

    >>> sniff("a;b\\n1,5;2,5\\n")
    Dialect(separator=';', quote='"')
    """
    cut = len(text) > _SAMPLE
    sample = text[:_SAMPLE]
    best, best_share = Dialect(separator or ","), 0.0
    for quote in "\"'":
        for candidate in [separator] if separator else "\t;|,":
            dialect = Dialect(candidate, quote)
            try:
                widths = [len(record) for record in _records(sample, dialect)]
            except DataError:
                continue
            if cut and len(widths) > 1:
                widths.pop()
            if not widths or (widths[0] == 1 and not separator):
                continue
            share = widths.count(widths[0]) / len(widths)
            if share == 1.0:
                return dialect
            if share > best_share:
                best, best_share = dialect, share
    return best


def _refuse_header_as_data(cells: pl.DataFrame, *, name: str) -> None:
    """Raise where the first row is all words and some column has nothing but numbers below it."""
    first = cells.row(0)
    if len(cells) < 2 or any(cell is None or is_number(cell) for cell in first):
        return
    for column in cells.get_columns():
        below = column.slice(1)
        if below.null_count() < len(below) and not numbers(below)[1].any():
            raise DataError(
                f"{name}: expected rows of data only, got {listing(first, most=4)} in the first line above numbers: "
                "it looks like a header line, leave --no-header out."
            )


def _separator(wanted: str | None, path: Path) -> str | None:
    if wanted is None:
        return "\t" if {".tsv", ".tab"}.intersection(suffix.lower() for suffix in path.suffixes) else None
    return separator_of(wanted)


def separator_of(wanted: str) -> str:
    """The character that a user calls `wanted`: itself, or tab, comma, semicolon, pipe, space.

    Raises:
        SettingsError: it is longer than one character, or one that cannot separate.

    >>> separator_of("tab")
    '\\t'
    """
    found = _NAMED_SEPARATORS.get(wanted, wanted)
    if len(found) != 1 or found in "\"'\r\n" or not found.isascii():
        raise SettingsError(
            "separator: expected one character such as ';', or tab, comma, semicolon, pipe, space; got "
            f"{quoted(wanted)}.",
            setting="separator",
        )
    return found


def _decoded(data: bytes, *, name: str) -> str:
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise DataError(
            f"{name} is not {encoding.upper()}: expected text, got the byte 0x{data[problem.start]:02x} in line "
            f"{line}. If it is text in another encoding such as Latin-1, save it as UTF-8."
        ) from problem
    if "\0" in text:
        raise DataError(f"{name} is no text: it holds zero bytes. If it is UTF-16, save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _records(text: str, dialect: Dialect, *, name: str = "the text") -> Iterator[list[str]]:
    """The records of `text` that are not blank, cut by the standard library; a lone pair of quotes is a cell."""
    reader = csv.reader(io.StringIO(text), delimiter=dialect.separator, quotechar=dialect.quote)
    try:
        for record in reader:
            if len(record) > 1 or (record and (not record[0] or record[0].strip())):
                yield record
    except csv.Error as problem:
        raise DataError(f"{name} cannot be cut into cells in line {reader.line_num}: {problem}.") from problem


def _cells(text: str, dialect: Dialect, *, width: int, name: str) -> pl.DataFrame:
    """All records, the first included, as text columns "0", "1", ...

    polars is an order of magnitude faster than the standard library but fills short rows up in silence and stops at
    a stray quote: it is used where the rows are known to be whole, and the standard library where they may not be.
    """
    schema = {str(position): pl.String for position in range(width)}
    quoted = dialect.quote in text
    if not quoted:
        _refuse_ragged_lines(text, dialect, width=width, name=name)
        text = re.sub(r"\n[ \r]*(?=\n|\Z)", "", "\n" + text)[1:]
    try:
        frame = pl.read_csv(
            text.encode(),
            has_header=False,
            schema=schema,
            separator=dialect.separator,
            quote_char=dialect.quote if quoted else None,
            infer_schema=False,
        )
        if not quoted or frame[str(width - 1)].null_count() == 0:
            return frame
    except pl.exceptions.PolarsError:
        pass
    return _cells_by_record(text, dialect, schema, name=name)


def _cells_by_record(text: str, dialect: Dialect, schema: dict[str, type[pl.String]], *, name: str) -> pl.DataFrame:
    rows = []
    for number, record in enumerate(_records(text, dialect, name=name), start=1):
        if len(record) != len(schema):
            raise DataError(_ragged(name, f"record {number}", len(record), len(schema), dialect))
        rows.append(record)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _refuse_ragged_lines(text: str, dialect: Dialect, *, width: int, name: str) -> None:
    """Count the separators of every line of a text without quotes, all at once."""
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.flatnonzero(data == 0x0A)
    if not len(data) or data[-1] != 0x0A:
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    separators = np.flatnonzero(data == ord(dialect.separator))
    found = np.searchsorted(separators, ends) - np.searchsorted(separators, starts) + 1
    for line in np.flatnonzero(found != width):
        if bytes(data[starts[line] : ends[line]]).strip(b" \r"):
            raise DataError(_ragged(name, f"line {line + 1}", int(found[line]), width, dialect))


def _ragged(name: str, where: str, found: int, expected: int, dialect: Dialect) -> str:
    separator = {"\t": "tab", " ": "space"}.get(dialect.separator, dialect.separator)
    return (
        f"{name}: expected {count(expected, 'cell')} in every row, as in the first line, got {found} in {where}. "
        f"Repair that line, or name the separator with --separator if it is not {separator!r}."
    )
