"""Confusion matrices: true classes downwards, predicted classes across, colour by share of the true class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from batchnorm.report import wording
from batchnorm.report.axes import Axis, axis
from batchnorm.report.chart_json import text
from batchnorm.report.charts import Figure, Panel, figure_html
from batchnorm.report.legend import KeyEntry, key_html
from batchnorm.report.tables import table_html
from batchnorm.report.theme import HEAT, HEAT_TEXT, INK, run_styles
from batchnorm.report.traces import Trace
from batchnorm.training.record import Confusion, Record

COUNTED = 12  # classes; with more the cells are too small for their counts
GAPS = 40  # classes; with more the gaps between cells would be wider than the cells
PALE = 0.3  # share of the true class up to which a cell is pale
TICKS = 16
LISTED = 8  # most frequent mistakes
DRAWN = 120  # classes; of more, those with most mistakes


def confusion_html(record: Record) -> tuple[str, str]:
    """A finding in words, and one matrix per run with a list of the main run's most frequent mistakes."""
    kept = [
        (position, run.label, style.color, run.confusion)
        for position, (run, style) in enumerate(zip(record.runs, run_styles(record.runs), strict=True))
        if run.confusion is not None and run.confusion.classes
    ]
    if not kept:
        return "", ""
    _, label, _, confusion = kept[0]
    drawn = _most_mistaken(confusion)
    panels = tuple(
        _panel(
            f"confusion-{position + 1}",
            matrix,
            drawn if matrix.classes == confusion.classes else _most_mistaken(matrix),
            label=name if len(kept) > 1 else "",
            color=color,
        )
        for position, name, color, matrix in kept
    )
    worst = _most_frequent_mistakes(confusion)
    every = wording.count(len(confusion.classes))
    of_many = f" (here the {DRAWN} of {every} with most mistakes)" if len(drawn) < len(confusion.classes) else ""
    reading = (
        f"Each line is a true class{of_many}, each column what its rows were called; "
        "a good network has colour on the diagonal only."
    )
    figure = Figure("Confusion matrix", reading, panels, wide=len(panels) > 1)
    listing = _listing(confusion, label, worst)
    if len(panels) > 1 or not listing:
        body = f'<div class="grid">{figure_html(figure)}</div>{listing}'
    else:  # one matrix leaves room beside it
        body = f'<div class="grid">{figure_html(figure)}{listing}</div>'
    return _finding(label, worst, confusion), key_html([_key()]) + body


def _panel(identifier: str, confusion: Confusion, drawn: Sequence[int], *, label: str, color: str) -> Panel:
    classes = [confusion.classes[i] for i in drawn]
    counts = [[confusion.counts[i][j] for j in drawn] for i in drawn]
    totals = [sum(confusion.counts[i]) for i in drawn]
    shares = [[c / total if total else None for c in row] for row, total in zip(counts, totals, strict=True)]
    hover = [
        [_cell(classes[i], classes[j], count, totals[i]) if count else "no row" for j, count in enumerate(row)]
        for i, row in enumerate(counts)
    ]
    trace = {
        "type": "heatmap",
        "z": [[None if share is None else round(share, 4) for share in row] for row in shares],
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorscale": HEAT,
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
    }
    few = len(classes) <= COUNTED
    if len(classes) <= GAPS:
        gap = 2 if few else 1
        trace |= {"xgap": gap, "ygap": gap}
    return Panel(
        identifier,
        (trace, *_counts(counts, shares)) if few else (trace,),
        _axis("called", classes, side="bottom", tickangle=_angle(classes)),
        _axis("true", classes, reversed=True),
        label=label,
        color=color,
        height=min(560, 300 + 14 * len(classes)),
    )


def _counts(counts: Sequence[Sequence[int]], shares: Sequence[Sequence[float | None]]) -> Iterator[Trace]:
    """The counts in their cells, in the colour that can be read on the cell's."""
    cells = [(i, j, count, shares[i][j] or 0.0) for i, row in enumerate(counts) for j, count in enumerate(row) if count]
    for color, chosen in (
        (INK, [cell for cell in cells if cell[3] <= PALE]),
        (HEAT_TEXT, [cell for cell in cells if cell[3] > PALE]),
    ):
        yield {
            "type": "scatter",
            "mode": "text",
            "x": [j for _, j, _, _ in chosen],
            "y": [i for i, _, _, _ in chosen],
            "text": [wording.count(count) for _, _, count, _ in chosen],
            "textfont": {"color": color, "size": 12},
            "hoverinfo": "skip",
        }


def _axis(title: str, classes: Sequence[str], *, reversed: bool = False, **plotly: Any) -> Axis:
    step = math.ceil(len(classes) / TICKS)
    ticks = [(i, wording.shorten(classes[i], 14)) for i in range(0, len(classes), step)]
    ends = (-0.5, len(classes) - 0.5)
    return axis(title, bounds=ends[::-1] if reversed else ends, ticks=ticks, showgrid=False, **plotly)


def _angle(classes: Sequence[str]) -> int:
    longest = max(map(len, classes))
    return 0 if longest <= 3 and len(classes) <= COUNTED else -90 if len(classes) > COUNTED else -40


def _cell(true: str, called: str, count: int, total: int) -> str:
    share = wording.percent(count / total)
    names = [f"true: {wording.shorten(true, 44)}", f"called: {wording.shorten(called, 44)}"]
    return "<br>".join(map(text, [*names, f"{wording.count(count)} of {wording.count(total)} ({share})"]))


def _key() -> KeyEntry:
    return KeyEntry(
        "share of the true class, from 0 to 100 % (small shares are stretched)", ramp=tuple(c for _, c in HEAT)
    )


def _most_frequent_mistakes(confusion: Confusion) -> list[tuple[int, int, int]]:
    """(count, true, called) of every mistake that happened, most frequent first."""
    mistakes = [
        (count, i, j) for i, row in enumerate(confusion.counts) for j, count in enumerate(row) if i != j and count
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))


def _finding(label: str, worst: Sequence[tuple[int, int, int]], confusion: Confusion) -> str:
    total = sum(map(sum, confusion.counts))
    if not worst:
        return f"Not one of {wording.plural(total, 'test row')} is called wrongly ({label})."
    count, i, j = worst[0]
    wrong = sum(mistake[0] for mistake in worst)
    opening = f"{wording.count(wrong)} of {wording.plural(total, 'test row')} called wrongly ({label})"
    if count == 1:
        return f"{opening}, no two in the same way."
    true, called = (wording.shorten(confusion.classes[k], 40) for k in (i, j))
    return f"{opening}; most often “{true}” was called “{called}”, {wording.plural(count, 'time')}."


def _listing(confusion: Confusion, label: str, worst: Sequence[tuple[int, int, int]]) -> str:
    """The most frequent mistakes by name: what a matrix of many classes cannot show."""
    if not worst:
        return ""
    classes = [wording.shorten(name, 44) for name in confusion.classes]
    rows = [
        [classes[i], classes[j], wording.count(count), wording.percent(count / sum(confusion.counts[i]))]
        for count, i, j in worst[:LISTED]
    ]
    return table_html(f"Most frequent mistakes, {label}", ["true", "called", "rows", "share of the class"], rows)


def _most_mistaken(confusion: Confusion) -> list[int]:
    """All classes, or the `DRAWN` that take part in most mistakes, as a person orders their names."""
    order = wording.in_natural_order(confusion.classes)
    if len(confusion.classes) <= DRAWN:
        return order
    part = [0] * len(confusion.classes)
    for count, i, j in _most_frequent_mistakes(confusion):
        part[i] += count
        part[j] += count
    chosen = set(sorted(range(len(part)), key=lambda i: (-part[i], i))[:DRAWN])
    return [i for i in order if i in chosen]
