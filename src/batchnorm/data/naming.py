"""How messages speak of columns: what the user may have meant, and what to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence with the names close to `name`, or nothing.

    >>> suggestion("Age", ["age", "sex"])
    " Did you mean 'age'?"
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = [by_lower[match] for match in get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def listing(names: Sequence[object], *, most: int = 8) -> str:
    """`names` in quotes, shortened after `most`.

    >>> listing(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def columns_of(columns: Sequence[str], *, header: bool) -> str:
    """What columns there are, said so that one of them can be picked."""
    if header:
        return f"The columns are {listing(columns)}."
    return f"Columns are known by number, 0 to {len(columns) - 1}."


def flag(option: str, value: str) -> str:
    """The option as it is typed in a shell.

    >>> flag("--drop", "signup date")
    "--drop 'signup date'"
    """
    return f"{option} {shlex.quote(value)}"


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
