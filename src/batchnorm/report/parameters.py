"""gamma and beta: what the network made of the freedom to undo its normalization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batchnorm.report import wording
from batchnorm.report.axes import Axis, axis, span
from batchnorm.report.chart_json import drawable, numbers
from batchnorm.report.charts import Figure, Panel, grid_html
from batchnorm.report.layer_points import most_telling, neuron_name, per_layer
from batchnorm.report.page import Section
from batchnorm.report.theme import CLEAR, INK, STYLES
from batchnorm.report.traces import Trace, level, line, points
from batchnorm.training.record import LayerStatistics, Record

GOLDEN = 0.6180339887498949  # its multiples modulo 1 spread evenly however many there are
COLUMNS = 10  # layers; a deeper network is drawn as bands over its depth
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Values = Callable[[LayerStatistics], Sequence[float]]


def parameters(record: Record) -> Section | None:
    """Two charts, gamma and beta, layer by layer; None without normalization."""
    layers = next((run.statistics for run in record.runs if run.statistics), ())
    if not layers:
        return None
    figures = [
        _figure("gamma", "γ per layer", lambda layer: layer.gamma, 1.0, layers),
        _figure("beta", "β per layer", lambda layer: layer.beta, 0.0, layers),
    ]
    return Section("parameters", "γ and β", _finding(layers), grid_html(figures))


def _figure(identifier: str, title: str, values: Values, start: float, layers: Sequence[LayerStatistics]) -> Figure:
    symbol = title[0]
    if len(layers) <= COLUMNS:
        traces = [trace for i, layer in enumerate(layers) for trace in _column(i, layer, values(layer), layers)]
        shown = [v for layer in layers for v in values(layer)]
        reading = (
            "One point per neuron; the box holds the middle half, its line is the median, the whiskers reach from the "
            f"5th to the 95th percentile; dotted: {start:g}, where every {symbol} began."
        )
    else:
        traces, shown = _bands(values, layers)
        reading = (
            "From the first layer to the last: the line is the median over a layer's neurons, the inner band their "
            "middle half, the outer reaches from the 5th to the 95th percentile; dotted: "
            f"{start:g}, where every {symbol} began."
        )
    vertical = axis(symbol, bounds=span([*shown, start]))
    hover = "" if len(layers) <= COLUMNS else "layer %{x}"
    panel = Panel(
        identifier, tuple(traces), _layer_axis(layers), vertical, hover=hover, shapes=(level(start),), height=320
    )
    return Figure(title, reading, (panel,))


def _column(
    index: int, layer: LayerStatistics, values: Sequence[float], layers: Sequence[LayerStatistics]
) -> list[Trace]:
    """A layer's neurons, set apart sideways so that equal ones do not hide each other, and a box of their quantiles."""
    quantiles = _quantiles(values)
    if quantiles is None:
        return []
    chosen = most_telling(values, per_layer(layers))
    x = [index + 1 + 0.5 * ((k * GOLDEN) % 1 - 0.5) for k in range(len(chosen))]
    hover = [f"{neuron_name(layer, i)}: {wording.number(values[i])}" for i in chosen]
    ends = zip(("lowerfence", "q1", "median", "q3", "upperfence"), quantiles, strict=True)
    box: dict[str, Any] = {name: numbers([value]) for name, value in ends}
    box |= {
        "type": "box",
        "name": "",
        "x": [index + 1],
        "width": 0.7,
        "line": {"color": INK, "width": 1.25},
        "fillcolor": CLEAR,
        "hoverinfo": "skip",
    }
    return [points(x, [values[i] for i in chosen], name=layer.name, style=STYLES[0], hover=hover, size=5), box]


def _bands(values: Values, layers: Sequence[LayerStatistics]) -> tuple[list[Trace], list[float]]:
    """Quantiles over depth: two bands and the median; and every number drawn."""
    depth = [float(i + 1) for i in range(len(layers))]
    lost = (math.nan,) * len(QUANTILES)
    low, first, median, third, high = zip(*(_quantiles(values(layer)) or lost for layer in layers), strict=True)
    style = STYLES[0]
    band = {"fill": "tonexty", "fillcolor": style.fill}
    traces = [
        line(depth, low, name="5 %", style=style, width=0.5),
        line(depth, high, name="95 %", style=style, width=0.5) | band,
        line(depth, first, name="25 %", style=style, width=0.5),
        line(depth, third, name="75 %", style=style, width=0.5) | band,
        line(depth, median, name="median", style=style, width=2.25),
    ]
    return traces, [*low, *high]


def _quantiles(values: Sequence[float]) -> tuple[float, ...] | None:
    """The five quantiles of the finite values; None where there is none."""
    finite = list(filter(drawable, values))
    return tuple(float(q) for q in np.quantile(finite, QUANTILES)) if finite else None


def _layer_axis(layers: Sequence[LayerStatistics]) -> Axis:
    step = max(1, math.ceil(len(layers) / 12))
    ticks = [(i + 1, str(i + 1)) for i in range(0, len(layers), step)]
    return axis("hidden layer", bounds=(0.4, len(layers) + 0.6), ticks=ticks, showgrid=False)


def _finding(layers: Sequence[LayerStatistics]) -> str:
    gamma = _range([v for layer in layers for v in layer.gamma])
    beta = _range([v for layer in layers for v in layer.beta])
    if not gamma or not beta:
        return "No finite γ or β is left: training broke down."
    return f"γ scales and β shifts what was normalized. Every γ began at 1, {gamma}; every β began at 0, {beta}."


def _range(values: Sequence[float]) -> str:
    """Where the values lie now; of few all, of many nine in ten, so that one outlier does not speak for them."""
    finite = list(filter(drawable, values))
    if not finite:
        return ""
    many = len(finite) >= 20
    low, high = (float(q) for q in np.quantile(finite, [0.05, 0.95] if many else [0, 1]))
    ends = f"{wording.number(low, digits=2)} and {wording.number(high, digits=2)}"
    return f"{'nine in ten' if many else 'all'} now lie between {ends}"
