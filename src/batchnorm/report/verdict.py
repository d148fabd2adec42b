"""The verdict: what normalization bought, in plain sentences with the numbers in them."""

from __future__ import annotations

import math

import numpy as np

from batchnorm.report import wording
from batchnorm.training.record import Curve, Record, Residuals, Run

ALIKE_R2 = 0.005  # closer than this, two R2 read as the same


def verdict(record: Record) -> tuple[str, ...]:
    """One to five sentences: the result on the test rows, the way there, what a step costs, what broke down."""
    if not record.runs:
        return ("No run was recorded.",)
    main, twin = record.runs[0], twin_of(record)
    if record.rows_test == 0:
        untested = f"No rows were set aside for testing, so there is no test {record.metric_name}."
        sentences = [untested, *(_broke_down(run) for run in record.runs)]
    elif twin is None:
        sentences = [_result(main, record), _way(main, record), _broke_down(main)]
    else:
        normalized, plain = (main, twin) if main.norm == "batch" else (twin, main)
        sentences = [
            _comparison(normalized, plain, record),
            _ways(normalized, plain, record),
            _cost(normalized, plain),
            _broke_down(normalized),
            _broke_down(plain),
        ]
    if not any(run.traces or run.statistics for run in record.runs):
        sentences.append("No hidden layer was recorded, so nothing is shown of what normalization does inside.")
    return tuple(sentence for sentence in sentences if sentence)


def twin_of(record: Record) -> Run | None:
    """The first run that differs from the main one in having, or not having, normalization."""
    return next((run for run in record.runs[1:] if run.norm != record.runs[0].norm), None)


def broke_down_at(curve: Curve) -> int | None:
    """The step of the evaluation from which on the training loss was no number; None if it ended well."""
    # The entry at step 0, if there is one, has no mini-batch behind it: its loss is NaN in a healthy run too.
    entries = [(step, loss) for step, loss in zip(curve.steps, curve.train_loss, strict=False) if step > 0]
    start = None
    for step, loss in reversed(entries):
        if math.isfinite(loss):
            break
        start = step
    return start


def seconds_to_goal(run: Run) -> float | None:
    """Training seconds until `run.steps_to_goal`; None where the goal was not reached or no clock was kept."""
    if run.steps_to_goal is None:
        return None
    clock = zip(run.curve.steps, run.curve.seconds, strict=False)
    return next((seconds for step, seconds in clock if step >= run.steps_to_goal), None)


def name_of(run: Run) -> str:
    """The run in the middle of a sentence."""
    return "with batch normalization" if run.norm == "batch" else "without batch normalization"


def _result(run: Run, record: Record) -> str:
    if not math.isfinite(run.test_metric):
        return f"The network {name_of(run)} has no {record.metric_name}: its predictions are not numbers."
    rows = wording.plural(record.rows_test, "test row")
    if record.task == "classification":
        return f"The network {name_of(run)} calls {wording.percent(run.test_metric)} of {rows} correctly."
    reached = wording.metric(run.test_metric, record.task)
    return f"The network {name_of(run)} reaches R2 {reached} on {rows}{_in_words(run)}."


def _in_words(run: Run) -> str:
    if run.test_metric < 0:
        return ", worse than always answering the mean"
    return f": it explains {wording.percent(run.test_metric)} of their variance"


def _comparison(normalized: Run, plain: Run, record: Record) -> str:
    rows = wording.plural(record.rows_test, "test row")
    ours, theirs = normalized.test_metric, plain.test_metric
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return f"{_result(normalized, record)} {_result(plain, record)}"
    ours_written, theirs_written = wording.metric(ours, record.task), wording.metric(theirs, record.task)
    if record.task == "classification":
        figures = f"{ours_written} of {rows} are called correctly with it, {theirs_written} without it"
    else:
        figures = f"R2 on {rows} is {ours_written} with it, {theirs_written} without it"
    if abs(ours - theirs) <= _indistinguishable(normalized, plain, record):
        return f"In the end batch normalization makes no difference here: {figures}, closer than {rows} can tell apart."
    if ours > theirs:
        return f"Batch normalization pays here: {figures}."
    return f"Batch normalization does not pay here: {figures}."


def _indistinguishable(one: Run, other: Run, record: Record) -> float:
    """Two standard errors of the difference of the two test metrics: a smaller one may be chance."""
    if record.task == "regression":
        return max(ALIKE_R2, 2 * _standard_error_of_r2_difference(one.residuals, other.residuals))
    spread = sum(max(0.0, run.test_metric * (1 - run.test_metric)) for run in (one, other))
    return 2 * math.sqrt(spread / record.rows_test)


def _standard_error_of_r2_difference(one: Residuals | None, other: Residuals | None) -> float:
    """Of mean((e1^2 - e2^2)) / var(true), the rows paired; 0 where the rows were not kept or are not finite."""
    if one is None or other is None or one.true != other.true or len(one.true) < 2:
        return 0.0
    true, first, second = (np.asarray(values) for values in (one.true, one.predicted, other.predicted))
    with np.errstate(over="ignore", invalid="ignore"):
        differences = (first - true) ** 2 - (second - true) ** 2
        error = float(differences.std(ddof=1) / math.sqrt(len(true)) / max(true.var(), np.finfo(float).tiny))
    return error if math.isfinite(error) else 0.0


def _way(run: Run, record: Record) -> str:
    if record.goal is None or not run.curve.valid_metric:
        return ""
    goal = wording.goal(record.goal, record.task)
    if run.steps_to_goal is None:
        return f"It did not reach {goal} on the validation rows within {wording.plural(run.steps, 'step')}."
    return f"It reached {goal} on the validation rows after {_after(run)}."


def _ways(normalized: Run, plain: Run, record: Record) -> str:
    if record.goal is None or not (normalized.curve.valid_metric or plain.curve.valid_metric):
        return ""
    goal = wording.goal(record.goal, record.task)
    fast, slow = normalized.steps_to_goal, plain.steps_to_goal
    if fast is None and slow is None:
        within = wording.plural(max(normalized.steps, plain.steps), "step")
        return f"Neither reached {goal} on the validation rows within {within}."
    if slow is None:
        within = wording.plural(plain.steps, "step")
        reached = f"With it, {goal} on the validation rows came after {_after(normalized)}"
        return f"{reached}; without it, not within {within}."
    if fast is None:
        within = wording.plural(normalized.steps, "step")
        reached = f"Without it, {goal} on the validation rows came after {_after(plain)}"
        return f"{reached}; with it, not within {within}."
    both = f"{goal} on the validation rows came after {_after(normalized)} with it and {_after(plain)} without it"
    if fast == slow or not fast or not slow:
        return f"{both}."
    if fast < slow:
        return f"{both}: {wording.number(slow / fast, digits=2)} times fewer."
    return f"{both}: {wording.number(fast / slow, digits=2)} times as many."


def _after(run: Run) -> str:
    seconds = seconds_to_goal(run)
    clock = "" if seconds is None else f" ({wording.duration(seconds)})"
    return f"{wording.plural(run.steps_to_goal or 0, 'step')}{clock}"


def _cost(normalized: Run, plain: Run) -> str:
    """What a step costs more, where it is enough to speak of."""
    if min(normalized.steps, plain.steps) == 0 or not (normalized.seconds > 0 and plain.seconds > 0):
        return ""
    dear, cheap = normalized.seconds / normalized.steps, plain.seconds / plain.steps
    ratio = dear / cheap
    if not (math.isfinite(ratio) and ratio >= 1.1):
        return ""
    return (
        f"A step takes {wording.number(ratio, digits=2)} times as long with normalization "
        f"({wording.duration(dear)} against {wording.duration(cheap)})."
    )


def _broke_down(run: Run) -> str:
    step = broke_down_at(run.curve)
    if step is not None:
        return f"Training {name_of(run)} broke down: by step {wording.count(step)} the loss was no longer finite."
    return ""
