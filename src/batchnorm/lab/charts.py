"""Charts as plain data: what is to be seen, in the units it was measured in. Drawn in report/ alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["with", "without", "other"]
"""With normalization is always drawn in one style, without in another, everything else in turn."""


@dataclass(frozen=True)
class Axis:
    """What an axis says.

    bounds: in the data's units; None fits the data. percent: values are shares, 0.5 is shown as 50 %. names: of the
    positions 0, 1, 2, ..., where an axis has no numbers.
    """

    title: str
    log: bool = False
    percent: bool = False
    bounds: tuple[float, float] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One line, or one cloud of points; low and high, where given, are the ends of a band or of whiskers around y.

    Values that are not finite leave a gap.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    role: Role = "other"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Level:
    """A thin line across at height y (or, upright, at x) to compare with: a threshold, a prediction.

    name: what the legend says; empty: it is not in the legend.
    """

    at: float
    name: str
    upright: bool = False


@dataclass(frozen=True)
class Lines:
    """Lines over x; marked: each measured point is shown as well."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    marked: bool = False
    label: str = ""
    role: Role = "other"


@dataclass(frozen=True)
class Points:
    """Points that nothing joins."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    label: str = ""
    role: Role = "other"


@dataclass(frozen=True)
class Bar:
    """One bar per group, heights and, where given, half lengths of whiskers."""

    name: str
    heights: tuple[float, ...]
    spreads: tuple[float, ...] = ()
    role: Role = "other"


@dataclass(frozen=True)
class Bars:
    """Bars side by side in named groups."""

    groups: tuple[str, ...]
    y: Axis
    bars: tuple[Bar, ...]
    levels: tuple[Level, ...] = ()
    label: str = ""
    role: Role = "other"


@dataclass(frozen=True)
class HeatMap:
    """values[i][j] at rows[i], columns[j], coloured from low to high; `value` says what the colours are."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    x: str
    y: str
    values: tuple[tuple[float, ...], ...]
    low: float
    high: float
    value: str
    percent: bool = False
    label: str = ""
    role: Role = "other"


@dataclass(frozen=True)
class Contour:
    """heights[i][j] at x_at[j], y_at[i] as contour lines, with paths over them."""

    x: Axis
    y: Axis
    x_at: tuple[float, ...]
    y_at: tuple[float, ...]
    heights: tuple[tuple[float, ...], ...]
    value: str
    paths: tuple[Series, ...] = ()
    label: str = ""
    role: Role = "other"


Panel: TypeAlias = Lines | Points | Bars | HeatMap | Contour


@dataclass(frozen=True)
class Chart:
    """Panels side by side under one title, with a sentence on how to read them."""

    title: str
    reading: str
    panels: tuple[Panel, ...]


def over_seeds(name: str, x: Sequence[float], runs: Sequence[Sequence[float]], *, role: Role = "other") -> Series:
    """The mean over the seeds, in a band from the lowest to the highest; runs: (seeds, len(x)).

    >>> series = over_seeds("loss", (1, 2), [(3.0, 2.0), (5.0, 2.0)])
    >>> series.y, series.low, series.high
    ((4.0, 2.0), (3.0, 2.0), (5.0, 2.0))
    """
    columns = list(zip(*runs, strict=True))
    band = {"low": tuple(map(min, columns)), "high": tuple(map(max, columns))} if len(runs) > 1 else {}
    mean = tuple(math.fsum(column) / len(column) for column in columns)
    return Series(name, tuple(map(float, x)), mean, role, **band)
