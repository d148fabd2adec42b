"""What `train` and `demo` print at the end: a table with and without, the files, three rows predicted alone."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.errors import legible

if TYPE_CHECKING:
    from batchnorm.cli.folder import RunFolder
    from batchnorm.training.record import Record, Run


def show(record: Record, folder: RunFolder, *, as_json: bool) -> None:
    """Print the outcome of one experiment."""
    if as_json:
        print(json.dumps(outcome(record, folder)))
        return
    Console(highlight=False, emoji=False).print(table([(record.title, record)]))
    for line in single_lines(record):
        print(line)
    print(f"model   {folder.model}")
    print(f"report  {folder.report}")


def say_finished(folder: RunFolder, *, as_json: bool) -> None:
    """Print where a run that was finished before has left its files."""
    files = {"model": str(folder.model), "report": str(folder.report), "record": str(folder.record)}
    if as_json:
        print(json.dumps({"finished": True, **files}))
        return
    print(f"{folder.path} is finished: nothing is left to resume")
    print(f"model   {folder.model}")
    print(f"report  {folder.report}")


def table(titled: list[tuple[str, Record]]) -> Table:
    """One row per network: test metric, steps to the goal, seconds; titled: (title, record) of each experiment."""
    first = titled[0][1]
    shown = Table(title=Text("" if len(titled) > 1 else first.title), title_justify="left")
    shown.add_column("network")
    shown.add_column(f"test {first.metric_name}", justify="right")
    if first.goal is not None:
        goal = f"{first.goal:.0%}" if first.task == "classification" else f"{first.goal:g}"
        shown.add_column(f"steps to {goal}", justify="right")
    shown.add_column("steps", justify="right")
    shown.add_column("seconds", justify="right")
    for title, record in titled:
        for run in record.runs:
            label = run.label if len(titled) == 1 else f"{title}, {run.label}"
            cells: list[str] = [label, _metric(run.test_metric, record)]
            if first.goal is not None:
                cells.append(_steps_to_goal(run))
            shown.add_row(*cells, str(run.steps), f"{run.seconds:.2f}")
    return shown


def single_lines(record: Record) -> list[str]:
    """Each row that was predicted alone, in a sentence."""
    lines = []
    for single in record.singles:
        sure = "" if single.probability is None else f" ({single.probability:.1%})"
        predicted, true = single.predicted, single.true
        if record.task == "regression":
            predicted, true = _told_apart(predicted, true)
        said, known, name = legible(predicted), legible(true), legible(record.target_name)
        lines.append(f"test row {single.row} alone: {name} {said}{sure}, true {known}")
    return lines


def _told_apart(first: str, second: str) -> tuple[str, str]:
    """Two numbers with as many digits as it takes; what is no number stays as it is."""
    from batchnorm.report.wording import digits_apart

    try:
        digits = digits_apart(float(first), float(second), least=6)
    except ValueError:
        return first, second
    return f"{float(first):.{digits}g}", f"{float(second):.{digits}g}"


def what_diverged(run: Run) -> str:
    """What became of a run that diverged, and what to do."""
    kept = f"the best evaluation before, at step {run.best_step}, is kept" if run.best_step else "nothing is kept of it"
    return f"training diverged by step {run.steps}; {kept}; a smaller --learning-rate may do better"


def outcome(record: Record, folder: RunFolder) -> dict[str, Any]:
    """The same as JSON values, without the curves: those are in record.json."""
    runs = [
        {
            "label": run.label,
            "norm": run.norm,
            f"test_{record.metric_name}": json_number(run.test_metric),
            "test_loss": json_number(run.test_loss),
            "steps": run.steps,
            "best_step": run.best_step,
            "ended": run.ended,
            "steps_to_goal": run.steps_to_goal,
            "seconds": run.seconds,
        }
        for run in record.runs
    ]
    files = {"model": str(folder.model), "report": str(folder.report), "record": str(folder.record)}
    singles = [
        {"row": s.row, "true": s.true, "predicted": s.predicted, "probability": s.probability} for s in record.singles
    ]
    return {
        "data": record.data_name,
        "task": record.task,
        "goal": record.goal,
        "runs": runs,
        "singles": singles,
        **files,
    }


def strict(value: Any) -> Any:
    """`value` with NaN and infinities as null, which is all that strict JSON has for them."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return json_number(value) if isinstance(value, float) else value


def json_number(value: float) -> float | None:
    """None for NaN and infinities."""
    return value if math.isfinite(value) else None


def _metric(value: float, record: Record) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.1%}" if record.task == "classification" else f"{value:.3f}"


def _steps_to_goal(run: Run) -> str:
    return "never" if run.steps_to_goal is None else str(run.steps_to_goal)
