"""The summary: one large number per run, and a table of what each reached, when, and in how many seconds."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from batchnorm.report import wording
from batchnorm.report.page import Section
from batchnorm.report.tables import paragraph_html, table_html
from batchnorm.report.theme import Style, run_styles
from batchnorm.report.verdict import seconds_to_goal, twin_of
from batchnorm.training.record import Record, Run


def summary(record: Record) -> Section:
    """Test metric, steps and seconds to the goal, whole cost: a column per run."""
    header = ["", *(run.label for run in record.runs)]
    table = table_html("What each network reached, and what it cost", header, _rows(record), kind="compare")
    alone = record.runs[0].norm == "batch" and twin_of(record) is None
    hint = "Train with --compare to see the same network without normalization beside this one." if alone else ""
    body = f'<div class="tiles">{_tiles(record)}</div>{table}{paragraph_html(hint, kind="note")}'
    return Section("summary", "Summary", "", body)


def _tiles(record: Record) -> str:
    styles = run_styles(record.runs)
    return "".join(_tile(run, style, record) for run, style in zip(record.runs, styles, strict=True))


def _tile(run: Run, style: Style, record: Record) -> str:
    number, goal = _tested(record, wording.metric(run.test_metric, record.task)), _goal(run, record)
    return (
        f'<div class="tile" style="--tile:{style.color}"><strong>{escape(number)}</strong>'
        f"<span>test {escape(record.metric_name)}, {escape(run.label)}</span><small>{escape(goal)}</small></div>"
    )


def _rows(record: Record) -> list[list[str]]:
    runs = record.runs
    rows = [
        [
            f"test {record.metric_name}",
            *(_tested(record, wording.metric(run.test_metric, record.task)) for run in runs),
        ],
        ["test loss", *(_tested(record, wording.number(run.test_loss)) for run in runs)],
    ]
    if record.goal is not None and any(run.curve.valid_metric for run in runs):
        goal = wording.goal(record.goal, record.task)
        rows += [
            [f"steps to {goal}", *(_or_never(run.steps_to_goal, wording.count) for run in runs)],
            [f"seconds to {goal}", *(_or_never(seconds_to_goal(run), wording.duration) for run in runs)],
        ]
    return [
        *rows,
        ["steps in all", *(wording.count(run.steps) for run in runs)],
        ["weights kept from step", *(wording.count(run.best_step) for run in runs)],
        ["seconds in all", *(wording.duration(run.seconds) for run in runs)],
    ]


def _tested(record: Record, written: str) -> str:
    """A number over the test rows, where there are any: over none it is no number, but nothing is wrong with it."""
    return written if record.rows_test else "not tested"


def _or_never(value: float | None, written: Callable[[Any], str]) -> str:
    return "never" if value is None else written(value)


def _goal(run: Run, record: Record) -> str:
    if record.goal is None or not run.curve.valid_metric:
        return f"{wording.plural(run.steps, 'step')} in {wording.duration(run.seconds)}"
    goal = wording.goal(record.goal, record.task)
    if run.steps_to_goal is None:
        return f"never reached {goal} in {wording.plural(run.steps, 'step')}"
    seconds = seconds_to_goal(run)
    clock = "" if seconds is None else f", {wording.duration(seconds)}"
    return f"{goal} after {wording.plural(run.steps_to_goal, 'step')}{clock}"
