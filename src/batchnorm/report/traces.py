"""Traces and shapes: what is drawn between the axes, as plotly's dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from batchnorm.report import wording
from batchnorm.report.chart_json import numbers, text
from batchnorm.report.theme import CARD, MUTED, Style

Trace = dict[str, Any]

POINTS = 2000  # per line: more cannot be told apart on a screen


def line(
    x: Sequence[float], y: Sequence[float], *, name: str, style: Style, dash: str | None = None, width: float = 2
) -> Trace:
    """A line through finite points with gaps elsewhere; points that nothing joins are marked, or none would show."""
    kept = evenly(min(len(x), len(y)), POINTS)
    heights = numbers(y[i] for i in kept)
    joined = any(left is not None and right is not None for left, right in pairwise(heights))
    return {
        "type": "scatter",
        "mode": "lines" if joined else "lines+markers",
        "name": text(wording.shorten(name, 44)),
        "x": numbers(x[i] for i in kept),
        "y": heights,
        "line": {"color": style.color, "dash": dash or style.dash, "width": width},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 7},
    }


def points(
    x: Sequence[float], y: Sequence[float], *, name: str, style: Style, hover: Sequence[str], size: int = 6
) -> Trace:
    """Markers, each with its own hover text."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(wording.shorten(name, 44)),
        "x": numbers(x),
        "y": numbers(y),
        "text": [text(h) for h in hover],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": style.color,
            "symbol": style.symbol,
            "size": size,
            "opacity": 0.75,
            "line": {"color": CARD, "width": 0.5},
        },
    }


def reference(x: tuple[float, float], y: tuple[float, float]) -> dict[str, Any]:
    """A thin dashed line to compare with: a goal, a diagonal, a start."""
    return {
        "type": "line",
        "x0": x[0],
        "x1": x[1],
        "y0": y[0],
        "y1": y[1],
        "line": {"color": MUTED, "dash": "dot", "width": 1.5},
        "layer": "below",
    }


def level(y: float) -> dict[str, Any]:
    """A reference line across the whole width at height `y`."""
    return reference((0, 1), (y, y)) | {"xref": "paper"}


def evenly(length: int, most: int) -> list[int]:
    """At most `most` of the positions 0..length-1, evenly spaced, the first and the last among them.

    >>> evenly(5, 10), evenly(100, 4)
    ([0, 1, 2, 3, 4], [0, 33, 66, 99])
    """
    if length <= most:
        return list(range(length))
    return [round(i * (length - 1) / (most - 1)) for i in range(most)]
