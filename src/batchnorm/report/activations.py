"""What enters the activations: the picture of Ioffe & Szegedy (2015), Fig. 1 b and c, for every hidden layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchnorm.report import wording
from batchnorm.report.axes import axis, from_zero, span
from batchnorm.report.chart_json import numbers
from batchnorm.report.charts import Figure, Panel, grid_html
from batchnorm.report.legend import KeyEntry, key_html
from batchnorm.report.page import Section
from batchnorm.report.theme import CLEAR, Style, run_styles
from batchnorm.report.traces import Trace, line
from batchnorm.training.record import LayerTrace, Record, Run

SHOWN = 6  # layers; of a deeper network the first and the last are shown and the others fold away
APART = 8.0  # panels whose spans differ by more than this factor get each its own scale

Traced = tuple[Run, Style, LayerTrace]


def activations(record: Record) -> Section | None:
    """One figure per hidden layer with a panel per run; None where no layer was traced."""
    depth = max((len(run.traces) for run in record.runs), default=0)
    if depth == 0:
        return None
    figures = [_layer(index, _traced(record, index)) for index in range(depth)]
    body = key_html(_key(record)) + _unfolded(figures)
    return Section("activations", "What enters the activations", _finding(record), body, short="Activations")


def _traced(record: Record, index: int) -> list[Traced]:
    return [
        (run, style, run.traces[index])
        for run, style in zip(record.runs, run_styles(record.runs), strict=True)
        if index < len(run.traces)
    ]


def _layer(index: int, traced: Sequence[Traced]) -> Figure:
    spans = [span((*trace.p15, *trace.p50, *trace.p85)) for _, _, trace in traced]
    lengths = [high - low for low, high in filter(None, spans)]
    apart = len(lengths) > 1 and max(lengths) > APART * min(lengths)
    shared = span([bound for bounds in filter(None, spans) for bound in bounds], pad=0)
    panels = tuple(
        Panel(
            f"trace-{index + 1}-{position + 1}",
            _percentiles(trace, style),
            axis("mini-batch steps", bounds=from_zero(trace.steps)),
            axis("input of the activation", bounds=own if apart else shared),
            label=run.label if len(traced) > 1 else "",
            color=style.color,
            hover="step %{x}",
            height=240,
        )
        for position, ((run, style, trace), own) in enumerate(zip(traced, spans, strict=True))
    )
    reading = "Middle line: median over rows and neurons; the band reaches from the 15th to the 85th percentile"
    scale = "; mind that each panel has its own scale. " if apart else ". "
    caption = reading + scale + _wandered(traced)
    return Figure(f"Hidden layer {index + 1}", caption, panels, wide=len(traced) > 1)


def _percentiles(trace: LayerTrace, style: Style) -> tuple[Trace, ...]:
    """Three lines, the outer two thin with the band between them."""
    low = line(trace.steps, trace.p15, name="15 %", style=style, dash="solid", width=1)
    high = line(trace.steps, trace.p85, name="85 %", style=style, dash="solid", width=1)
    high |= {"fill": "tonexty", "fillcolor": style.fill}
    middle = line(trace.steps, trace.p50, name="median", style=style, dash="solid", width=2.25)
    if all(value is None for value in numbers(trace.p15)):
        high["fillcolor"] = CLEAR
    return low, high, middle


def _wandered(traced: Sequence[Traced]) -> str:
    """How far the median travelled, per run."""
    ways = [
        f"{wording.number(way, digits=2)} {run.label}" for run, _, trace in traced if (way := _way(trace)) is not None
    ]
    return f"The median moved over a range of {', '.join(ways)}." if ways else "No finite value was recorded."


def _way(trace: LayerTrace) -> float | None:
    finite = [value for value in trace.p50 if math.isfinite(value)]
    return max(finite) - min(finite) if finite else None


def _finding(record: Record) -> str:
    """The spread at the end compared with the spread at the start, in the last hidden layer, as the paper shows it."""
    parts = []
    for run in record.runs:
        if not run.traces:
            continue
        last = run.traces[-1]
        widths = [p85 - p15 for p15, p85 in zip(last.p15, last.p85, strict=False) if math.isfinite(p85 - p15)]
        if len(widths) > 1:
            first, final = wording.number(widths[0], digits=2), wording.number(widths[-1], digits=2)
            parts.append(f"from {first} to {final} ({run.label})")
    if not parts:
        return ""
    return f"In the last hidden layer the distance between the 15th and the 85th percentile went {'; '.join(parts)}."


def _key(record: Record) -> list[KeyEntry]:
    return [
        KeyEntry(run.label, style.color, dash="solid")
        for run, style in zip(record.runs, run_styles(record.runs), strict=True)
        if run.traces
    ]


def _unfolded(figures: Sequence[Figure]) -> str:
    """All layers of a shallow network; of a deep one the first two and the last two, the rest folded away."""
    if len(figures) <= SHOWN:
        return grid_html(figures)
    middle = figures[2:-2]
    title = f"Layers 3 to {len(figures) - 2}"
    folded = f"<details><summary>{title}</summary>{grid_html(middle)}</details>"
    return grid_html(figures[:2]) + folded + grid_html(figures[-2:])
