"""Residuals: predicted against true test targets, and how the differences are distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchnorm.report import wording
from batchnorm.report.axes import axis, origin, span
from batchnorm.report.chart_json import drawable, numbers, text
from batchnorm.report.charts import Figure, Panel, grid_html
from batchnorm.report.legend import KeyEntry, key_html
from batchnorm.report.theme import Style, run_styles
from batchnorm.report.traces import Trace, evenly, points, reference
from batchnorm.training.record import Record, Run

DRAWN = 1500  # points per run
MOST_BINS = 40

Kept = tuple[Run, Style, list[tuple[float, float]]]  # (true, predicted), drawable


def residuals_html(record: Record) -> tuple[str, str]:
    """A finding in words, a scatter on the diagonal and a histogram."""
    kept = [
        (run, style, _drawable_pairs(run))
        for run, style in zip(record.runs, run_styles(record.runs), strict=True)
        if run.residuals is not None and run.residuals.true
    ]
    if not kept:
        return "", ""
    key = [KeyEntry(run.label, style.color, symbol=style.symbol) for run, style, _ in kept]
    figures = [_scatter(kept, record.target_name), _histogram(kept, record.target_name)]
    return _finding(kept), key_html(key) + grid_html(figures)


def _drawable_pairs(run: Run) -> list[tuple[float, float]]:
    assert run.residuals is not None
    pairs = zip(run.residuals.true, run.residuals.predicted, strict=False)
    return [(t, p) for t, p in pairs if drawable(t) and drawable(p)]


def _scatter(kept: Sequence[Kept], target: str) -> Figure:
    true = span([t for _, _, pairs in kept for t, _ in pairs]) or (0.0, 1.0)
    # A network that went astray predicts anything: the picture keeps to the true targets and says what lies outside.
    reach = true[1] - true[0]
    window = (true[0] - 0.5 * reach, true[1] + 0.5 * reach)
    predicted = [p for _, _, pairs in kept for _, p in pairs]
    inside = span([p for p in predicted if window[0] <= p <= window[1]]) or true
    bounds = min(true[0], inside[0]), max(true[1], inside[1])
    outside = sum(not bounds[0] <= p <= bounds[1] for p in predicted)
    start = origin((min(true[0], bounds[0]), max(true[1], bounds[1])))
    traces = []
    for run, style, pairs in reversed(kept):  # the main run on top
        chosen = [pairs[i] for i in evenly(len(pairs), DRAWN)]
        hover = [f"{_told(t, p)} ({run.label})" for t, p in chosen]
        x, y = [t - start for t, _ in chosen], [p - start for _, p in chosen]
        traces.append(points(x, y, name=run.label, style=style, hover=hover, size=5))
    note = f"; {wording.plural(outside, 'prediction')} far outside is not drawn" if outside == 1 else ""
    note = f"; {wording.plural(outside, 'prediction')} far outside are not drawn" if outside > 1 else note
    reading = f"One point per test row: across, the true target; up, the prediction; on the diagonal they agree{note}."
    less = f" − {wording.number(abs(start), digits=15)}" if start > 0 else ""
    less = f" + {wording.number(abs(start), digits=15)}" if start < 0 else less
    name = wording.shorten(target, max(8, min(30, 38 - len(less))))  # an axis cuts what is longer than its title may be
    across, up = (true[0] - start, true[1] - start), (bounds[0] - start, bounds[1] - start)
    panel = Panel(
        "predicted-true",
        tuple(traces),
        axis(f"true {name}{less}", bounds=across),
        axis(f"predicted{less}", bounds=up),
        shapes=(reference(across, across),),
        height=380,
    )
    return Figure("Predicted against true", reading, (panel,))


def _told(true: float, predicted: float) -> str:
    digits = wording.digits_apart(true, predicted, least=4)
    return f"true {wording.number(true, digits=digits)}, predicted {wording.number(predicted, digits=digits)}"


def _histogram(kept: Sequence[Kept], target: str) -> Figure:
    edges = _edges([p - t for t, p in kept[0][2]])
    traces = [_bins(run, style, pairs, edges, first=i == 0) for i, (run, style, pairs) in enumerate(kept)]
    reading = (
        "How many test rows are off by how much: right of 0 the prediction is too high; "
        "narrow and centred on 0 is good; the outermost bins hold everything beyond."
    )
    name = wording.shorten(target, 30)
    panel = Panel(
        "residuals",
        tuple(traces),
        axis(f"predicted − true {name}", bounds=(float(edges[0]), float(edges[-1]))),
        axis("test rows", rangemode="tozero"),
        hover="off by %{x}",
        shapes=(reference((0, 0), (0, 1)) | {"yref": "paper"},),
        height=380,
    )
    return Figure("Residuals", reading, (panel,))


def _edges(residuals: Sequence[float]) -> np.ndarray:
    """(bins + 1,) edges around 0, wide enough for 99 of 100 of the main run's residuals; few bins for few rows."""
    bins = min(MOST_BINS, max(8, round(1.5 * math.sqrt(len(residuals)))))
    reach = float(np.quantile(np.abs(residuals), 0.99)) if residuals else 1.0
    reach = 1.1 * reach if reach > 0 else 1.0
    return np.linspace(-reach, reach, bins + 1)


def _bins(run: Run, style: Style, pairs: Sequence[tuple[float, float]], edges: np.ndarray, *, first: bool) -> Trace:
    """Bars for the main run, a stepped outline for the others."""
    middles = (edges[:-1] + edges[1:]) / 2
    clipped = np.clip([p - t for t, p in pairs], edges[0], edges[-1])
    counts = np.histogram(clipped, bins=edges)[0]
    shared = {"name": text(wording.shorten(run.label, 44)), "x": numbers(middles), "y": [int(c) for c in counts]}
    if first:
        return shared | {
            "type": "bar",
            "marker": {"color": style.fill, "line": {"color": style.color, "width": 1}},
            "width": float(edges[1] - edges[0]),
        }
    return shared | {
        "type": "scatter",
        "mode": "lines",
        "line": {"color": style.color, "shape": "hvh", "width": 2},
    }


def _finding(kept: Sequence[Kept]) -> str:
    parts = []
    for run, _, pairs in kept:
        if pairs:
            median = float(np.median([abs(p - t) for t, p in pairs]))
            parts.append(f"{wording.number(median)} ({run.label})")
    return (
        f"Half of the predictions are off by less than {'; '.join(parts)}."
        if parts
        else "No prediction is a finite number."
    )
