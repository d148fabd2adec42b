"""Axes: what they span, where their marks stand and what these say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from batchnorm.report import wording
from batchnorm.report.chart_json import drawable, text
from batchnorm.report.theme import GRID, LINE

Axis = dict[str, Any]

FAR = 1000.0  # lengths of an interval away from 0


def axis(
    title: str,
    *,
    bounds: tuple[float, float] | None = None,
    log: bool = False,
    percent: bool = False,
    ticks: Sequence[tuple[float, str]] | None = None,
    **plotly: Any,
) -> Axis:
    """An axis named `title`; bounds: in the data's units, on a logarithmic axis too; ticks: (position, text) pairs."""
    result: Axis = {
        "title": {"text": text(wording.shorten(title, 44)), "standoff": 8},
        "hoverformat": ".4~g",
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": LINE,
        "zeroline": False,
        "ticks": "",
    }
    if log:
        result["type"] = "log"
        ticks = ticks or log_ticks(bounds)
    if bounds is not None:
        result["range"] = [math.log10(b) if log else b for b in bounds]
    if percent:
        result["hoverformat"] = ".1%"
        result["tickformat"] = ".0%" if bounds is None or bounds[1] - bounds[0] > 0.06 else ".1%"
    if ticks:
        result |= {"tickmode": "array", "tickvals": [t for t, _ in ticks], "ticktext": [text(t) for _, t in ticks]}
    return result | plotly


def span(values: Iterable[float], *, pad: float = 0.06) -> tuple[float, float] | None:
    """The smallest interval with every finite value in it, widened by `pad` of its length; None without any."""
    finite = list(filter(drawable, values))
    if not finite:
        return None
    low, high = min(finite), max(finite)
    extra = pad * (high - low) or pad * abs(high) or 1.0
    return low - extra, high + extra


def log_span(values: Iterable[float]) -> tuple[float, float] | None:
    """`span` on a logarithmic axis, of the positive values."""
    exponents = span([math.log10(value) for value in values if value > 0 and drawable(value)])
    return None if exponents is None else (10 ** max(exponents[0], -300.0), 10 ** min(exponents[1], 300.0))


def origin(bounds: tuple[float, float]) -> float:
    """What to measure from where an interval is short and far from 0, so that marks on it stay short; 0 elsewhere.

    Charts hold six digits: 1,000,000.01 and 1,000,000.04 would be one point, between marks too long to stand apart.

    >>> origin((1_000_000.012, 1_000_000.047)), origin((2.0, 50.0)), origin((-3000.2, -2999.9))
    (1000000.0, 0.0, -3000.0)
    """
    low, high = bounds
    length = high - low
    if not 0 < length * FAR < max(abs(low), abs(high)):
        return 0.0
    # As round as the interval is long: no mark is lengthened by it, and the axis can name it.
    return round((low + high) / 2, -math.ceil(math.log10(length)))


def from_zero(values: Iterable[float]) -> tuple[float, float]:
    """Bounds from 0 to a little beyond the largest finite value, for steps and seconds."""
    last = max(filter(drawable, values), default=0.0)
    return 0.0, 1.03 * last if last > 0 else 1.0


def log_ticks(bounds: tuple[float, float] | None) -> list[tuple[float, str]]:
    """Readable marks on a logarithmic axis: 1, 2, 5 of each decade, in longer ones 1 and 3, decades, or some decades.

    >>> [text for _, text in log_ticks((0.03, 2.5))]
    ['0.05', '0.1', '0.2', '0.5', '1', '2']
    """
    if bounds is None:
        return []
    low, high = (math.log10(bound) for bound in bounds)
    every = max(1, math.ceil((high - low) / 7))
    factors = (1, 2, 5) if high - low <= 2 else (1, 3) if high - low <= 3.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    marks = [factor * 10.0**decade for decade in decades if decade % every == 0 for factor in factors]
    kept = [mark for mark in marks if bounds[0] <= mark <= bounds[1]]
    return [(mark, wording.number(mark)) for mark in kept] if len(kept) > 1 else []
