"""What one cell says: missing, a number, true or false, a text. Files, frames and records are read by these rules."""

from __future__ import annotations

import re

SPACE = " \t\r\n\f\v\u00a0"
"""What surrounds a cell without being part of it."""

MISSING_TEXTS = frozenset({"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "null", "NULL"})
"""Texts that mean "missing" without being told; `na=` adds others."""

TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
"""Texts of a boolean feature, in lower case."""

_number = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII).fullmatch


def plain(text: str) -> str:
    """`text` without the blanks around it and without one pair of quotes around the rest.

    >>> plain(" 'yes' "), plain("it's")
    ('yes', "it's")
    """
    text = text.strip(SPACE)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].strip(SPACE)
    return text


def is_number(text: str) -> bool:
    """Is `text` a decimal number? Underscores, "inf", "nan", hexadecimal and digits beyond ASCII are not.

    >>> [is_number(text) for text in ("-1.5e3", ".28", "1_000", "inf", "")]
    [True, True, False, False, False]
    """
    return _number(text) is not None


def number(value: object) -> float:
    """The number that a cell holds; NaN where it is a number that is not there.

    Args:
        value: a text that has been through `plain`, or an int, float, bool or NumPy scalar.

    Raises:
        ValueError: the cell is no finite number; without a message, for the caller knows the column and the row.

    >>> number("1e3"), number(True)
    (1000.0, 1.0)
    """
    if isinstance(value, str):
        if _number(value) is None:
            raise ValueError
        result = float(value)
    else:
        try:
            result = float(value)  # type: ignore[arg-type]
        except (TypeError, OverflowError):
            raise ValueError from None
        if result != result:
            return result
    if result - result != 0.0:
        raise ValueError
    return result


def truth(value: object) -> float:
    """1.0 or 0.0 for a cell of a boolean column: true/false and yes/no in any case, 1 and 0.

    Raises:
        ValueError: the cell is none of these; without a message.

    >>> truth("Yes"), truth(False), truth("0")
    (1.0, 0.0, 0.0)
    """
    if isinstance(value, str):
        said = TRUTHS.get(value.lower())
        if said is not None:
            return float(said)
    result = number(value)
    if result not in (0.0, 1.0) and result == result:
        raise ValueError
    return result


def text(value: object) -> str:
    """A cell of a category column as text: 3, 3.0 and True are "3", "3" and "true".

    >>> text(3.0), text(0.1), text("a")
    ('3', '0.1', 'a')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value)
