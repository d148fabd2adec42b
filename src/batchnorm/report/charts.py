"""Charts: plotly figures as plain dictionaries, and the HTML that holds them until charts.js draws them.

A `Figure` is one or more `Panel`s under one title, with one sentence that says how to read them. Nothing here imports
plotly; the figures follow its JSON schema, with `var(--name)` wherever a colour stands (see theme.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from batchnorm.report import wording
from batchnorm.report.theme import CARD, CLEAR, GRID, INK, LINE, MUTED, Style

Trace = dict[str, Any]
Axis = dict[str, Any]

LARGEST = 1e300  # beyond it the browser's own arithmetic on axis ranges overflows
POINTS = 2000  # per line: more cannot be told apart on a screen


@dataclass(frozen=True)
class Panel:
    """One set of axes; `id` is unique within the page."""

    id: str
    traces: tuple[Trace, ...]
    x: Axis
    y: Axis
    label: str = ""  # shown above the panel where a figure has several
    color: str = MUTED  # of the mark beside the label
    unified: bool = False  # one hover box for all traces at an x
    shapes: tuple[dict[str, Any], ...] = ()
    height: int = 300


@dataclass(frozen=True)
class Figure:
    """Panels side by side (below one another on a phone) with a title and a sentence on how to read them."""

    title: str
    reading: str
    panels: tuple[Panel, ...]
    wide: bool = False  # takes the whole row of a grid


@dataclass(frozen=True)
class KeyEntry:
    """One entry of a legend: a line (`dash`), a marker (`symbol`) or a ramp of colours (`ramp`)."""

    label: str
    color: str = MUTED
    dash: str | None = None
    symbol: str | None = None
    ramp: tuple[str, ...] = ()


def numbers(values: Iterable[float]) -> list[float | None]:
    """Values for a chart: six significant digits, a gap (None) where a value is not finite or beyond drawing.

    >>> numbers([1 / 3, float("nan"), float("inf"), -2.0])
    [0.333333, None, None, -2.0]
    """
    return [float(f"{v:.6g}") if math.isfinite(v) and abs(v) <= LARGEST else None for v in map(float, values)]


def evenly(length: int, most: int) -> list[int]:
    """At most `most` of the positions 0..length-1, evenly spaced, the first and the last among them.

    >>> evenly(5, 10), evenly(100, 4)
    ([0, 1, 2, 3, 4], [0, 33, 66, 99])
    """
    if length <= most:
        return list(range(length))
    return [round(i * (length - 1) / (most - 1)) for i in range(most)]


def text(value: str) -> str:
    """Text for a place where plotly reads its own markup (`<b>`, `%{x}`, `$x^2$`): shown as it is, read as nothing.

    >>> text("<b>%{x} $y$</b>")
    '&lt;b&gt;&#37;{x} &#36;y&#36;&lt;/b&gt;'
    """
    return escape(value, quote=False).replace("%", "&#37;").replace("$", "&#36;")


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
        "title": {"text": text(title), "standoff": 8},
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
        result["tickformat"] = ".0%" if bounds is None or bounds[1] - bounds[0] > 0.06 else ".1%"
    if ticks:
        result |= {"tickmode": "array", "tickvals": [t for t, _ in ticks], "ticktext": [text(t) for _, t in ticks]}
    return result | plotly


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


def line(
    x: Sequence[float], y: Sequence[float], *, name: str, style: Style, dash: str | None = None, width: float = 2
) -> Trace:
    """A line through finite points with gaps elsewhere; few points are marked too, or one would be invisible."""
    kept = evenly(min(len(x), len(y)), POINTS)
    few = sum(value is not None for value in numbers(y[i] for i in kept)) <= 2
    return {
        "type": "scatter",
        "mode": "lines+markers" if few else "lines",
        "name": text(name),
        "x": numbers(x[i] for i in kept),
        "y": numbers(y[i] for i in kept),
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
        "name": text(name),
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


def span(values: Iterable[float], *, pad: float = 0.06) -> tuple[float, float] | None:
    """The smallest interval with every finite value in it, widened by `pad` of its length; None without any."""
    finite = [v for v in values if math.isfinite(v) and abs(v) <= LARGEST / 10]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    extra = pad * (high - low) or pad * abs(high) or 1.0
    return low - extra, high + extra


def from_zero(values: Iterable[float]) -> tuple[float, float]:
    """Bounds from 0 to a little beyond the largest finite value, for steps and seconds."""
    last = max((value for value in values if math.isfinite(value)), default=0.0)
    return 0.0, 1.03 * last if last > 0 else 1.0


def figure_html(figure: Figure) -> str:
    """The figure with its data, drawn by charts.js when it comes near the screen."""
    panels = "".join(_panel_html(figure, panel) for panel in figure.panels)
    kind = "figure wide" if figure.wide else "figure"
    return (
        f'<figure class="{kind}"><h3>{escape(figure.title)}</h3><div class="panels">{panels}</div>'
        f'<figcaption id="{escape(figure.panels[0].id)}-reading">{escape(figure.reading)}</figcaption></figure>'
    )


def grid_html(figures: Sequence[Figure]) -> str:
    """Figures in two columns, in one on a phone."""
    return f'<div class="grid">{"".join(map(figure_html, figures))}</div>' if figures else ""


def key_html(entries: Sequence[KeyEntry]) -> str:
    """One legend for all charts of a section: outside the charts, so that it can never cover a curve."""
    items = "".join(f"<li>{_swatch(entry)}<span>{escape(entry.label)}</span></li>" for entry in entries)
    return f'<ul class="key" aria-label="Legend">{items}</ul>'


def json_for_script(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup, whatever texts it holds."""
    encoded = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _panel_html(figure: Figure, panel: Panel) -> str:
    data = json_for_script({"data": panel.traces, "layout": _layout(panel)})
    name = f"{figure.title}: {panel.label}" if panel.label else figure.title
    label = ""
    if panel.label:
        label = f'<p class="label"><span style="background:{escape(panel.color)}"></span>{escape(panel.label)}</p>'
    identifier, described = escape(panel.id), escape(f"{figure.panels[0].id}-reading")
    return (
        f'<div class="panel">{label}<div class="chart" id="{identifier}" role="img" aria-label="{escape(name)}" '
        f'aria-describedby="{described}" style="height:{panel.height}px" data-chart></div>'
        f'<script type="application/json" id="{identifier}-data">{data}</script></div>'
    )


def _layout(panel: Panel) -> dict[str, Any]:
    return {
        "xaxis": panel.x,
        "yaxis": panel.y,
        "shapes": panel.shapes,
        "showlegend": False,
        "hovermode": "x unified" if panel.unified else "closest",
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": MUTED},
        "hoverlabel": {"bgcolor": CARD, "bordercolor": LINE, "font": {"color": INK, "size": 12}, "namelength": 40},
    }


_DASHES = {"dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "12 5"}
_MARKS = {
    "circle": '<circle cx="14" cy="7" r="4.5"/>',
    "diamond": '<path d="M14 1l6 6-6 6-6-6z"/>',
    "square": '<path d="M9.5 2.5h9v9h-9z"/>',
    "triangle-up": '<path d="M14 2l5.5 10h-11z"/>',
    "cross": '<path d="M12 2h4v3h3v4h-3v3h-4V9H9V5h3z"/>',
    "x": '<path d="M10.5 1.5L14 5l3.5-3.5 2 2L16 7l3.5 3.5-2 2L14 9l-3.5 3.5-2-2L12 7 8.5 3.5z"/>',
    "star": '<path d="M14 .5l1.9 4.3 4.6.4-3.5 3 1.1 4.6-4.1-2.4-4.1 2.4L11 8.2l-3.5-3 4.6-.4z"/>',
}


def _swatch(entry: KeyEntry) -> str:
    if entry.ramp:
        return f'<span class="ramp" style="background:linear-gradient(90deg,{escape(",".join(entry.ramp))})"></span>'
    if entry.symbol is not None:
        inner = f'<g style="fill:{escape(entry.color)}">{_MARKS[entry.symbol]}</g>'
    else:
        dashes = _DASHES.get(entry.dash or "solid", "none")
        stroke = f"stroke:{escape(entry.color)};stroke-width:2.5;stroke-dasharray:{dashes};fill:none"
        inner = f'<path d="M1 7h26" style="{stroke}"/>'
    return f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{inner}</svg>'
