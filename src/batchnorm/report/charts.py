"""Charts: figures of one or more panels, and the HTML that holds them until charts.js draws them.

Nothing here imports plotly: a panel is plotly's JSON, with `var(--name)` wherever a colour stands (theme.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from batchnorm.report.axes import Axis
from batchnorm.report.chart_json import json_for_script
from batchnorm.report.legend import KeyEntry, key_html
from batchnorm.report.theme import CARD, INK, LINE, MUTED
from batchnorm.report.traces import Trace


@dataclass(frozen=True)
class Panel:
    """One set of axes; `id` is unique within the page."""

    id: str
    traces: tuple[Trace, ...]
    x: Axis
    y: Axis
    label: str = ""  # shown above the panel where a figure has several
    color: str = MUTED  # of the mark beside the label
    hover: str = ""  # title of one box for all traces at an x, such as "step %{x}"; empty: a box for each point
    shapes: tuple[dict[str, Any], ...] = ()
    height: int = 300


@dataclass(frozen=True)
class Figure:
    """Panels side by side (below one another on a phone) with a title and a sentence on how to read them."""

    title: str
    reading: str
    panels: tuple[Panel, ...]
    wide: bool = False  # takes the whole row of a grid
    key: tuple[KeyEntry, ...] = ()  # a legend of its own, where the section has none for all


def figure_html(figure: Figure) -> str:
    """The figure with its data, drawn by charts.js when it comes near the screen."""
    panels = "".join(_panel_html(figure, panel) for panel in figure.panels)
    kind = "figure wide" if figure.wide else "figure"
    return (
        f'<figure class="{kind}"><h3>{escape(figure.title)}</h3>{key_html(figure.key) if figure.key else ""}'
        f'<div class="panels">{panels}</div>'
        f'<figcaption id="{escape(figure.panels[0].id)}-reading">{escape(figure.reading)}</figcaption></figure>'
    )


def grid_html(figures: Sequence[Figure]) -> str:
    """Figures in two columns, in one on a phone."""
    return f'<div class="grid">{"".join(map(figure_html, figures))}</div>' if figures else ""


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
    font = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": MUTED}
    spike = {"spikecolor": MUTED, "spikethickness": 1, "spikedash": "dot"} if panel.hover else {}
    return {
        "xaxis": panel.x | spike | {"hoverformat": ",.7~g", "unifiedhovertitle": {"text": panel.hover}},
        "yaxis": panel.y,
        "shapes": panel.shapes,
        "showlegend": False,
        "hovermode": "x unified" if panel.hover else "closest",
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "paper_bgcolor": CARD,
        "plot_bgcolor": CARD,
        "font": font,
        # Names are shortened before they are escaped: plotly itself would cut an escape in two.
        "hoverlabel": {"bgcolor": CARD, "bordercolor": LINE, "font": font | {"color": INK}, "namelength": -1},
    }
