"""Heat maps and contours: a value over two others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchnorm.lab.charts import Contour, HeatMap
from batchnorm.report import wording
from batchnorm.report.axes import axis, log_span, span
from batchnorm.report.chart_json import numbers, text
from batchnorm.report.charts import Panel
from batchnorm.report.legend import KeyEntry
from batchnorm.report.theme import HEAT_TEXT, INK, MUTED, Style
from batchnorm.report.traces import Trace, line

_HEATS = tuple(f"var(--heat-{i})" for i in range(5))
_SCALE = tuple((i / 4, color) for i, color in enumerate(_HEATS))
_NAMED = 90  # cells up to which each is given its value
_DARK = 0.6  # share of the range from which on a cell is dark


def heat_panel(identifier: str, heat: HeatMap, color: str) -> Panel:
    """Cells in rows and columns, the first row at the bottom."""
    few = len(heat.rows) * len(heat.columns) <= _NAMED
    trace: Trace = {
        "type": "heatmap",
        "z": [numbers(row) for row in heat.values],
        "hovertext": [
            [text(f"{heat.y} {row}, {heat.x} {column}: {_said(value, heat)}") for column, value in _pairs(heat, i)]
            for i, row in enumerate(heat.rows)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorscale": _SCALE,
        "zmin": heat.low,
        "zmax": heat.high,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    return Panel(
        identifier,
        (trace, *(_values(heat) if few else ())),
        _named(heat.x, heat.columns),
        _named(heat.y, heat.rows),
        label=heat.label,
        color=color,
        height=110 + 38 * len(heat.rows),
    )


def heat_key(heat: HeatMap) -> KeyEntry:
    """The ramp of colours and what it says."""
    low, high = (_said(value, heat) for value in (heat.low, heat.high))
    return KeyEntry(f"{heat.value}, from {low} to {high}", ramp=_HEATS)


def contour_panel(identifier: str, contour: Contour, color: str, styles: Sequence[Style]) -> Panel:
    """Lines of equal height over a plane, and paths on it."""
    surface: Trace = {
        "type": "contour",
        "x": numbers(contour.x_at),
        "y": numbers(contour.y_at),
        "z": [numbers(row) for row in contour.heights],
        "colorscale": _SCALE[::-1],
        "ncontours": 18,
        "line": {"width": 0.7, "color": MUTED},
        "showscale": False,
        "hovertemplate": f"{text(contour.value)} %{{z:.4~g}}<extra></extra>",
    }
    paths = [
        line(path.x, path.y, name=path.name, style=style, width=2.25) | {"mode": "lines+markers"}
        for path, style in zip(contour.paths, styles, strict=True)
    ]
    for path in paths:
        path["marker"] = {**path["marker"], "size": 5}
    x, y = contour.x, contour.y
    return Panel(
        identifier,
        (surface, *paths),
        axis(x.title, bounds=x.bounds or (log_span if x.log else span)(contour.x_at), log=x.log),
        axis(y.title, bounds=y.bounds or (log_span if y.log else span)(contour.y_at), log=y.log),
        label=contour.label,
        color=color,
        height=340,
    )


def _pairs(heat: HeatMap, row: int) -> list[tuple[str, float]]:
    return list(zip(heat.columns, heat.values[row], strict=True))


def _values(heat: HeatMap) -> Iterator[Trace]:
    """The values in their cells, in the colour that can be read on the cell's."""
    cells = [(i, j, v) for i, row in enumerate(heat.values) for j, v in enumerate(row) if math.isfinite(v)]
    split = heat.low + _DARK * (heat.high - heat.low)
    for color, chosen in ((INK, [c for c in cells if c[2] < split]), (HEAT_TEXT, [c for c in cells if c[2] >= split])):
        yield {
            "type": "scatter",
            "mode": "text",
            "x": [j for _, j, _ in chosen],
            "y": [i for i, _, _ in chosen],
            "text": [f"{100 * v:.0f}" if heat.percent else wording.number(v, digits=2) for _, _, v in chosen],
            "textfont": {"color": color, "size": 11},
            "hoverinfo": "skip",
        }


def _named(title: str, names: Sequence[str]) -> dict[str, object]:
    return axis(title, bounds=(-0.5, len(names) - 0.5), ticks=list(enumerate(names)), showgrid=False)


def _said(value: float, heat: HeatMap) -> str:
    return wording.percent(value, decimals=0) if heat.percent else wording.number(value)
