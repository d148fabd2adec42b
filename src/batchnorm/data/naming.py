"""How messages speak of columns: what the user may have meant, and what to type.

Names come from files: each is shown clipped and with its control characters escaped, see `errors.quoted`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from batchnorm.errors import clipped, quoted

_COMPARED = 100  # characters of a name: longer ones are nobody's slip, and comparing them takes long


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence with the names close to `name`, or nothing.

    >>> suggestion("Age", ["age", "sex"])
    " Did you mean 'age'?"
    """
    if len(name) > _COMPARED:
        return ""
    by_lower = {candidate.lower(): candidate for candidate in known if len(candidate) <= _COMPARED}
    close = [by_lower[match] for match in get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(map(quoted, close))}?" if close else ""


def listing(names: Sequence[object], *, most: int = 8) -> str:
    """`names` in quotes, shortened after `most`.

    >>> listing(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(quoted, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def columns_of(columns: Sequence[str], *, header: bool) -> str:
    """What columns there are, said so that one of them can be picked."""
    if header:
        return f"The columns are {listing(columns)}."
    return f"Columns are known by number, 0 to {len(columns) - 1}."


def flag(option: str, value: str) -> str:
    """The option as it is typed in a shell; in bash or zsh where `value` holds control characters.

    >>> flag("--drop", "signup date")
    "--drop 'signup date'"
    >>> print(flag("--drop", "signup\\ndate"))
    --drop $'signup\\u000adate'
    """
    shown = clipped(value)
    if shown.isprintable():
        return f"{option} {shlex.quote(shown)}"
    return f"{option} $'{''.join(map(_in_dollar_quotes, shown))}'"


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _in_dollar_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    number = ord(character)
    return character if character.isprintable() else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"
