"""Learning curves: loss and validation metric over steps and over seconds, all runs on the same axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from batchnorm.report import wording
from batchnorm.report.axes import Axis, axis, from_zero, log_span, span
from batchnorm.report.chart_json import drawable
from batchnorm.report.charts import Figure, Panel, grid_html
from batchnorm.report.legend import KeyEntry, key_html
from batchnorm.report.page import Section
from batchnorm.report.tables import paragraph_html
from batchnorm.report.theme import INK, Style, run_styles
from batchnorm.report.traces import Trace, level, line
from batchnorm.report.verdict import broke_down_at
from batchnorm.training.record import Curve, Record, Run

LOG_FROM = 30.0  # a loss that spans more than this factor is drawn on a logarithmic axis
LOWEST_R2 = -0.5  # far below 0 an R2 says only "useless", and drawing it would flatten everything above

Clock = Literal["steps", "seconds"]
HOVER: dict[Clock, str] = {"steps": "step %{x}", "seconds": "%{x} s"}
CLOCKS: tuple[Clock, ...] = ("steps", "seconds")


def learning_curves(record: Record) -> Section:
    """Four charts: (loss, metric) x (steps, seconds); the losses alone where no rows were kept for validation."""
    heading = "Learning curves"
    if not any(run.curve.steps for run in record.runs):
        return Section("learning", heading, "No evaluation was recorded, so there is no curve to draw.", "")
    pictures = [_loss, _metric] if _validated(record) else [_loss]
    figures = [picture(record, clock) for clock in CLOCKS for picture in pictures]
    return Section("learning", heading, _finding(record), key_html(_key(record)) + grid_html(figures) + _remark(record))


def _loss(record: Record, clock: Clock) -> Figure:
    traces = [
        trace
        for run, style in zip(record.runs, run_styles(record.runs), strict=True)
        for trace in _loss_traces(run, style, clock)
    ]
    losses = [loss for run in record.runs for loss in (*run.curve.train_loss, *run.curve.valid_loss)]
    reading = {
        "steps": "Lower is better; where the dotted line of the validation rows rises while the other falls, "
        "the network learns the training rows by heart."
        if _validated(record)
        else "Lower is better: the mean over the mini-batches since the evaluation before.",
        "seconds": "The same losses over the time spent training: what a step's higher price leaves of the gain.",
    }
    return Figure(
        f"Loss over {clock}",
        reading[clock],
        (
            Panel(
                f"loss-{clock}",
                tuple(traces),
                _time_axis(clock, record.runs),
                _loss_axis(losses),
                hover=HOVER[clock],
            ),
        ),
    )


def _loss_traces(run: Run, style: Style, clock: Clock) -> Iterable[Trace]:
    x = _times(run.curve, clock)
    yield line(x, run.curve.train_loss, name=f"training, {run.label}", style=style)
    yield line(x, run.curve.valid_loss, name=f"validation, {run.label}", style=style, dash="dot", width=1.75)


def _metric(record: Record, clock: Clock) -> Figure:
    traces: list[Trace] = []
    for run, style in zip(record.runs, run_styles(record.runs), strict=True):
        x = _times(run.curve, clock)
        traces.append(line(x, run.curve.valid_metric, name=run.label, style=style))
        traces += _kept(run, x, style)
    values = [value for run in record.runs for value in run.curve.valid_metric]
    reading = {
        "steps": f"Higher is better: {record.metric_name} on the validation rows, a star where the weights were kept.",
        "seconds": "The same curves over the time spent training: the one further left learns faster by the clock.",
    }
    return Figure(
        f"Validation {record.metric_name} over {clock}",
        reading[clock],
        (
            Panel(
                f"metric-{clock}",
                tuple(traces),
                _time_axis(clock, record.runs),
                _metric_axis(values, record),
                hover=HOVER[clock],
                shapes=tuple(map(level, _goals(record))),
            ),
        ),
    )


def _kept(run: Run, x: Sequence[float], style: Style) -> list[Trace]:
    """A star at the evaluation whose weights were kept."""
    curve = run.curve
    if run.best_step not in curve.steps:
        return []
    i = curve.steps.index(run.best_step)
    if i >= min(len(x), len(curve.valid_metric)) or not math.isfinite(curve.valid_metric[i]):
        return []
    star = line(x[i : i + 1], curve.valid_metric[i : i + 1], name=f"kept, {run.label}", style=style)
    return [
        star | {"mode": "markers", "marker": {"color": style.color, "symbol": "star", "size": 12}, "hoverinfo": "skip"}
    ]


def _validated(record: Record) -> bool:
    return any(run.curve.valid_metric for run in record.runs)


def _goals(record: Record) -> list[float]:
    """The goal as a line to draw, where there is one."""
    return [record.goal] if record.goal is not None and drawable(record.goal) else []


def _times(curve: Curve, clock: Clock) -> Sequence[float]:
    return curve.steps if clock == "steps" else curve.seconds


def _time_axis(clock: Clock, runs: Sequence[Run]) -> Axis:
    title = "mini-batch steps" if clock == "steps" else "seconds spent training"
    return axis(title, bounds=from_zero(t for run in runs for t in _times(run.curve, clock)))


def _loss_axis(losses: Sequence[float]) -> Axis:
    drawn = list(filter(drawable, losses))
    positive = [loss for loss in drawn if loss > 0]
    if positive and min(drawn) >= 0 and max(positive) / min(positive) > LOG_FROM:
        return axis("loss per row", bounds=log_span(positive), log=True)
    return axis("loss per row", rangemode="tozero")


def _metric_axis(values: Sequence[float], record: Record) -> Axis:
    shown = [*values, *_goals(record)]
    if record.task == "regression" and any(value > LOWEST_R2 for value in shown):
        shown = [max(value, LOWEST_R2) for value in shown if drawable(value)]
    low, high = span(shown) or (0.0, 1.0)
    high = min(high, 1.0 + 0.03 * (1.0 - min(low, 0.97)))  # a little air, but no room for what cannot be
    if record.task == "classification":
        return axis(record.metric_name, bounds=(max(low, -0.02), high), percent=True)
    return axis(record.metric_name, bounds=(low, high))


def _key(record: Record) -> list[KeyEntry]:
    entries = [
        KeyEntry(run.label, style.color, dash=style.dash)
        for run, style in zip(record.runs, run_styles(record.runs), strict=True)
    ]
    if not _validated(record):
        return entries
    entries += [KeyEntry("loss on the validation rows", INK, dash="dot"), KeyEntry("weights kept", INK, symbol="star")]
    entries += [KeyEntry(f"goal {wording.goal(goal, record.task)}", dash="dot") for goal in _goals(record)]
    return entries


def _finding(record: Record) -> str:
    """Where each run's validation metric was highest."""
    parts = []
    for run in record.runs:
        pairs = [(v, s) for s, v in zip(run.curve.steps, run.curve.valid_metric, strict=False) if math.isfinite(v)]
        if pairs:
            best, step = max(pairs, key=lambda pair: (pair[0], -pair[1]))
            parts.append(f"{wording.metric(best, record.task)} at step {wording.count(step)} ({run.label})")
    return f"Best {record.metric_name} on the validation rows: {'; '.join(parts)}." if parts else ""


def _remark(record: Record) -> str:
    """What the charts cannot show."""
    remarks = [
        f"{run.label}: from step {wording.count(step)} on the loss is not finite, so its line ends there."
        for run in record.runs
        if (step := broke_down_at(run.curve)) is not None
    ]
    values = [value for run in record.runs for value in run.curve.valid_metric]
    if record.task == "regression" and any(v < LOWEST_R2 for v in values) and any(v > LOWEST_R2 for v in values):
        remarks.append(f"R2 below {wording.number(LOWEST_R2)} lies under the picture.")
    return paragraph_html(" ".join(remarks), kind="note")
