"""Texts that are no categories: dates, decimal commas, numbers with odd cells among them, identifiers, free text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchnorm.data.naming import count, flag, listing
from batchnorm.errors import DataError, legible, quoted

if TYPE_CHECKING:
    import polars as pl

FEWEST_ROWS = 20
"""Below this many rows a column is too short to tell identifiers from categories."""

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
DATE = (
    r"(?i)^(?:"
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ].*)?"  # 2024-01-31, 2024/1/31 12:00
    r"|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})(?: .*)?"  # 31.01.2024, 1/31/24
    rf"|\d{{1,2}}[- ]{_MONTH}\.?[-, ]+\d{{2,4}}(?: .*)?"  # 31-Jan-2024
    rf"|(?:[a-z]+,? )?{_MONTH}\.? \d{{1,2}},? \d{{4}}.*"  # Jan 31, 2024
    r"|\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[ap]m)?"  # 12:30:00
    r")$"
)
"""A date or a time, for Python's and for polars' regular expressions alike."""

_COMMA = r"^[+-]?(?:\d[\d.]*,\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?)$"


def dates_message(column: str, example: str, *, table: str) -> str:
    """What a column of dates is answered with."""
    return (
        f"{table}: column {quoted(column)} holds dates or times ({legible(example)}), which are not used as features: "
        f"leave it out with {flag('--drop', column)}, or put numbers in its place first, such as a year or days since "
        "a fixed day."
    )


def refuse_suspects(cells: pl.Series, numeric: int, *, table: str) -> None:
    """Raise where a text column is most likely no category.

    Args:
        cells: the texts that are there, in the training rows.
        numeric: how many of them are numbers.

    Raises:
        DataError: with the column's name and the options that settle it, `--categorical` always among them.
    """
    name, keep = cells.name, flag("--categorical", cells.name)
    if 2 * numeric >= len(cells):
        from batchnorm.data.frame import numbers

        odd = cells.filter(numbers(cells)[1])
        texts = odd.unique().sort().to_list()
        raise DataError(
            f"{table}: column {quoted(name)} holds numbers in {count(numeric, 'row')} and {listing(texts, most=3)} in "
            f"{count(len(odd), 'row')}: say {flag('--na', texts[0])} if that means missing, or {keep} if the numbers "
            "are categories."
        )
    if 2 * cells.str.contains(DATE).sum() > len(cells):
        raise DataError(dates_message(name, cells.filter(cells.str.contains(DATE))[0], table=table))
    if 2 * cells.str.contains(_COMMA).sum() > len(cells):
        example = cells.filter(cells.str.contains(_COMMA))[0]
        raise DataError(
            f"{table}: column {quoted(name)} holds numbers written with a comma ({legible(example)}): write them with "
            f"a point and no separator of thousands, or say {keep} if they are categories."
        )
    distinct = cells.n_unique()
    if len(cells) >= FEWEST_ROWS and 2 * distinct > len(cells):
        raise DataError(
            f"{table}: column {quoted(name)} holds {distinct:,} different texts in {count(len(cells), 'row')}, such as "
            f"{quoted(cells[0])}: identifiers or free text tell nothing about a new row. Leave it out with "
            f"{flag('--drop', name)}, or keep its most frequent texts with {keep}."
        )
