"""Neurons as points: which to draw of very many, how to name them, and how to tell layers apart."""

from __future__ import annotations

from collections.abc import Sequence

from batchnorm.report.chart_json import drawable
from batchnorm.report.legend import KeyEntry
from batchnorm.report.theme import DEPTH, STYLES, Style
from batchnorm.report.traces import Trace, evenly, points
from batchnorm.training.record import LayerStatistics

DRAWN = 2400  # neurons per chart, all layers together


def most_telling(ranks: Sequence[float], most: int) -> list[int]:
    """At most `most` positions, evenly spaced in the order of `ranks`, both extremes among them; the lost left out.

    >>> most_telling([0.3, 9.0, float("nan"), 0.1], 2)
    [1, 3]
    """
    order = sorted((i for i, rank in enumerate(ranks) if drawable(rank)), key=lambda i: ranks[i])
    return sorted(order[i] for i in evenly(len(order), max(2, most)))


def per_layer(layers: Sequence[LayerStatistics]) -> int:
    """How many neurons of each layer a chart may draw."""
    return max(2, DRAWN // max(1, len(layers)))


def neuron_name(layer: LayerStatistics, neuron: int) -> str:
    """A neuron in a hover text: counted from 1, as the layers are."""
    return f"{layer.name}, neuron {neuron + 1}"


def layer_points(
    depth: int, index: int, x: Sequence[float], y: Sequence[float], *, name: str, hover: Sequence[str]
) -> Trace:
    """Markers of layer `index`: its own hue and shape in a shallow network, its place on a ramp in a deep one."""
    if depth <= len(STYLES):
        return points(x, y, name=name, style=STYLES[index], hover=hover)
    trace = points(x, y, name=name, style=STYLES[0], hover=hover, size=5)
    # The ramp's colours are looked up in the browser, so the layer is given as a number on it.
    trace["marker"] |= {"color": [index] * len(x), "cmin": 0, "cmax": depth - 1, "colorscale": DEPTH}
    return trace


def layer_key(layers: Sequence[LayerStatistics]) -> list[KeyEntry]:
    """The legend of `layer_points`."""
    if len(layers) <= len(STYLES):
        return [KeyEntry(layer.name, _style(i).color, symbol=_style(i).symbol) for i, layer in enumerate(layers)]
    return [KeyEntry(f"{layers[0].name} to {layers[-1].name}", ramp=tuple(color for _, color in DEPTH))]


def _style(index: int) -> Style:
    return STYLES[index]
