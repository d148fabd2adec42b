"""Running statistics against the true ones, and what the difference does to the predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchnorm.report import wording
from batchnorm.report.axes import axis, log_span, span
from batchnorm.report.chart_json import drawable
from batchnorm.report.charts import Figure, Panel, grid_html
from batchnorm.report.layer_points import layer_key, layer_points, most_telling, neuron_name, per_layer
from batchnorm.report.legend import key_html
from batchnorm.report.page import Section
from batchnorm.report.tables import paragraph_html, table_html
from batchnorm.report.traces import Trace, reference
from batchnorm.training.record import LayerStatistics, Record, Run

ALIKE = {"classification": 0.005, "regression": 0.005}  # a smaller difference between the two ways is none


def running_statistics(record: Record) -> Section | None:
    """Two scatters on the diagonal and a table of the two ways to predict; None without normalization."""
    layers = next((run.statistics for run in record.runs if run.statistics), ())
    compared = [run for run in record.runs if run.test_metric_batch_statistics is not None]
    if not layers and not compared:
        return None
    body = key_html(layer_key(layers)) + grid_html([_means(layers), _variances(layers)]) if layers else ""
    if compared:
        body += _two_ways(compared, record)
    return Section("statistics", "Running statistics", _finding(layers), body)


def _means(layers: Sequence[LayerStatistics]) -> Figure:
    bounds = span([v for layer in layers for v in (*layer.running_mean, *layer.true_mean)]) or (-1.0, 1.0)
    traces = [_scatter(i, layer, layer.true_mean, layer.running_mean, layers) for i, layer in enumerate(layers)]
    reading = (
        "One point per neuron: across, the mean over the whole training set; up, the running average that predictions "
        "use; on the diagonal they agree."
    )
    panel = Panel(
        "running-mean",
        tuple(traces),
        axis("true mean", bounds=bounds),
        axis("running mean", bounds=bounds),
        shapes=(reference(bounds, bounds),),
        height=360,
    )
    return Figure("Means", reading, (panel,))


def _variances(layers: Sequence[LayerStatistics]) -> Figure:
    bounds = log_span([v for layer in layers for v in (*layer.running_var, *layer.true_var)]) or (0.1, 10.0)
    traces = [_scatter(i, layer, layer.true_var, layer.running_var, layers) for i, layer in enumerate(layers)]
    constant = sum(v == 0 for layer in layers for v in layer.true_var)
    left_out = f"; {wording.plural(constant, 'neuron')} of variance 0 cannot be drawn" if constant else ""
    reading = (
        "The same for the variances, on logarithmic axes: a point above the diagonal is a neuron whose predictions are "
        f"normalized by too large a variance{left_out}."
    )
    panel = Panel(
        "running-variance",
        tuple(traces),
        axis("true variance", bounds=bounds, log=True),
        axis("running variance", bounds=bounds, log=True),
        shapes=(reference(bounds, bounds),),
        height=360,
    )
    return Figure("Variances", reading, (panel,))


def _scatter(
    index: int,
    layer: LayerStatistics,
    true: Sequence[float],
    running: Sequence[float],
    layers: Sequence[LayerStatistics],
) -> Trace:
    ranks = [r - t for r, t in zip(running, true, strict=False)]
    chosen = most_telling(ranks, per_layer(layers))
    hover = [
        f"{neuron_name(layer, i)}: running {wording.number(running[i])}, true {wording.number(true[i])}" for i in chosen
    ]
    x, y = [true[i] for i in chosen], [running[i] for i in chosen]
    return layer_points(len(layers), index, x, y, name=layer.name, hover=hover)


def _finding(layers: Sequence[LayerStatistics]) -> str:
    """How far the running means are off in standard deviations, the running variances as a factor."""
    offs: list[tuple[float, str]] = []
    factors: list[float] = []
    for layer in layers:
        for i, (running, true, variance) in enumerate(
            zip(layer.running_mean, layer.true_mean, layer.true_var, strict=False)
        ):
            if variance > 0 and drawable(off := abs(running - true) / math.sqrt(variance)):
                offs.append((off, neuron_name(layer, i)))
        for running, true in zip(layer.running_var, layer.true_var, strict=False):
            if running > 0 and true > 0 and drawable(running / true):
                factors.append(max(running / true, true / running))
    if not offs or not factors:
        return "No finite statistics are left to compare: training broke down." if layers else ""
    worst, where = max(offs)
    off, factor = float(np.median([off for off, _ in offs])), float(np.median(factors))
    return (
        f"Half of the running means lie within {wording.number(off, digits=2)} standard deviations of the true mean, "
        f"the farthest is {wording.number(worst, digits=2)} away ({where}); half of the running variances are right "
        f"within a factor of {wording.number(factor)}."
    )


def _two_ways(runs: Sequence[Run], record: Record) -> str:
    rows = [
        [
            run.label,
            wording.metric(run.test_metric, record.task),
            wording.metric(run.test_metric_batch_statistics or 0.0, record.task),
        ]
        for run in runs
    ]
    caption = f"Test {record.metric_name} by the statistics used for normalizing"
    sentences = " ".join(_agreement(run, record) for run in runs)
    header = ["", "running statistics", "each batch's own"]
    return f'<div class="block">{table_html(caption, header, rows)}{paragraph_html(sentences, kind="note")}</div>'


def _agreement(run: Run, record: Record) -> str:
    own = run.test_metric_batch_statistics
    if own is None or not (math.isfinite(own) and math.isfinite(run.test_metric)):
        return ""
    difference = own - run.test_metric
    unit = "percentage points" if record.task == "classification" else "of R2"
    apart = wording.number(abs(difference) * (100 if record.task == "classification" else 1), digits=2)
    if abs(difference) <= ALIKE[record.task]:
        return "Both ways agree: the running statistics serve one row at a time as well as whole batches."
    if difference > 0:
        return (
            f"Each batch's own statistics do better by {apart} {unit}: the running ones have not caught up with the "
            "weights; train a little longer, raise the momentum, or recompute them over the training set."
        )
    return f"The running statistics do better by {apart} {unit}: a test batch alone is a noisier estimate."
