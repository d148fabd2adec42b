"""Numbers in words: how a report writes counts, shares, durations and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

NO_BREAK = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def count(value: int) -> str:
    """A whole number with thousands set apart.

    >>> count(1437000)
    '1,437,000'
    """
    return f"{value:,}".replace("-", MINUS)


def number(value: float, *, digits: int = 3) -> str:
    """A measured number with `digits` significant digits; what is not finite is said in words.

    >>> number(0.123456), number(-1234.5, digits=6), number(3.2e-9), number(float("nan"))
    ('0.123', '−1,234.5', '3.2e−9', 'not a number')
    """
    value = float(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    rounded = float(f"{value:.{digits}g}")
    if math.isinf(rounded):  # 1.798e308 rounded up
        rounded = value
    if rounded != 0 and not 1e-4 <= abs(rounded) < max(1e7, 10.0**digits):
        mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    whole = f"{rounded:,.0f}"
    if rounded == float(whole.replace(",", "")):
        return whole.replace("-0", "0").replace("-", MINUS) if rounded == 0 else whole.replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".rstrip("0").rstrip(".").replace("-", MINUS)


def percent(share: float, *, decimals: int = 1) -> str:
    """A share between 0 and 1 as a percentage.

    >>> percent(0.9722).replace(NO_BREAK, " "), percent(0.95, decimals=0).replace(NO_BREAK, " ")
    ('97.2 %', '95 %')
    """
    if not math.isfinite(share):
        return number(share)
    return f"{100 * share:.{decimals}f}{NO_BREAK}%".replace("-", MINUS)


def duration(seconds: float) -> str:
    """A duration in the unit that suits it.

    >>> [duration(s).replace(NO_BREAK, " ") for s in (0.0042, 0.42, 12.34, 200, 7260)]
    ['4.2 ms', '0.42 s', '12.3 s', '3 min 20 s', '2 h 1 min']
    """
    if not math.isfinite(seconds):
        return number(seconds)
    if 0 < seconds < 0.1:
        return f"{number(1000 * seconds, digits=2)}{NO_BREAK}ms"
    if seconds < 59.95:
        return f"{number(seconds, digits=2 if seconds < 1 else 3)}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min" + (f" {rest}{NO_BREAK}s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)}{NO_BREAK}h" + (f" {minutes}{NO_BREAK}min" if minutes else "")


def metric(value: float, task: Literal["classification", "regression"]) -> str:
    """An accuracy as a percentage, an R2 with three decimals.

    >>> metric(0.77, "regression"), metric(0.77, "classification").replace(NO_BREAK, " ")
    ('0.770', '77.0 %')
    """
    if task == "classification":
        return percent(value)
    return f"{value:.3f}".replace("-", MINUS) if abs(value) < 10 else number(value)


def goal(value: float, task: Literal["classification", "regression"]) -> str:
    """A goal as it was set: without decimals that nobody typed."""
    if task == "regression":
        return f"R2 {number(value)}"
    return f"{number(100 * value, digits=4)}{NO_BREAK}%"


def plural(amount: int, singular: str, many: str | None = None) -> str:
    """The count and its noun.

    >>> plural(1, "row"), plural(1500, "row"), plural(2, "class", "classes")
    ('1 row', '1,500 rows', '2 classes')
    """
    return f"{count(amount)} {singular if amount == 1 else many or singular + 's'}"


def digits_apart(first: float, second: float, *, least: int) -> int:
    """Significant digits that tell two numbers apart, with two digits of their difference; not beyond what they hold.

    >>> digits_apart(151.2, 143.9, least=6), digits_apart(1_000_000.0123, 1_000_000.0156, least=6)
    (6, 11)
    """
    difference, size = abs(first - second), max(abs(first), abs(second))
    if not (math.isfinite(difference) and difference > 0):
        return least
    return min(15, max(least, math.floor(math.log10(size)) - math.floor(math.log10(difference)) + 2))


def in_natural_order(texts: Sequence[str]) -> list[int]:
    """Positions of `texts` in the order a person has them: c2 before c10. Numbers keep the order they come in.

    >>> in_natural_order(["c0", "c10", "c2"]), in_natural_order(["-2", "-1", "0.5"])
    ([0, 2, 1], [0, 1, 2])
    """
    if all(map(_is_number, texts)):
        return list(range(len(texts)))
    return sorted(range(len(texts)), key=lambda position: _pieces(texts[position]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pieces(text: str) -> list[tuple[int, str]]:
    """Texts and numbers by turns; a number goes by its length first, so that it may be of any."""
    pieces = re.split(r"([0-9]+)", text)
    numbers = [piece.lstrip("0") for piece in pieces[1::2]]
    pieces[1::2] = numbers
    return [(len(piece) if at % 2 else 0, piece) for at, piece in enumerate(pieces)]


def shorten(text: str, length: int) -> str:
    """`text` cut to at most `length` characters, the last an ellipsis where something was cut.

    >>> shorten("NEAR BAY", 20), shorten("an uncommonly long name", 12)
    ('NEAR BAY', 'an uncommon…')
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
