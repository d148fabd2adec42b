"""What the networks answer on the test rows: confusion matrices or residuals, and rows predicted one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchnorm.report import wording
from batchnorm.report.confusion import confusion_html
from batchnorm.report.page import Section
from batchnorm.report.residuals import residuals_html
from batchnorm.report.tables import table_html
from batchnorm.training.record import Record, SinglePrediction

_COUNTED = "test row, counted from 1"


def mistakes(record: Record) -> Section | None:
    """Confusion matrices where classes were predicted, residuals where numbers were; None where neither was kept."""
    if record.task == "classification":
        finding, body = confusion_html(record)
        return (
            Section("mistakes", "Which classes are mistaken for which", finding, body, short="Mistakes")
            if body
            else None
        )
    finding, body = residuals_html(record)
    return Section("mistakes", "How far the predictions are off", finding, body, short="Residuals") if body else None


def singles(record: Record) -> Section | None:
    """Test rows that the main network was given alone, one at a time."""
    if not record.singles:
        return None
    name = wording.shorten(record.target_name, 40)
    if record.task == "classification":
        right = f"{sum(s.true == s.predicted for s in record.singles)} of {len(record.singles)}"
        finding = f"Each row was given alone, as after deployment: {right} called correctly (✓), the others not (✗)."
        header = [_COUNTED, f"true {name}", "predicted", "probability"]
        rows = [_class_row(single) for single in record.singles]
    else:
        finding = "Each row was given alone, as after deployment."
        header = [_COUNTED, f"true {name}", "predicted", "off by"]
        rows = [_number_row(single) for single in record.singles]
    return Section("singles", "One row at a time", finding, table_html("Single predictions", header, rows))


def _class_row(single: SinglePrediction) -> Sequence[str]:
    probability = "" if single.probability is None else wording.percent(single.probability)
    mark = "✓" if single.true == single.predicted else "✗"
    true, predicted = (wording.shorten(name, 44) for name in (single.true, single.predicted))
    return wording.count(single.row), true, f"{mark} {predicted}", probability


def _number_row(single: SinglePrediction) -> Sequence[str]:
    try:
        true, predicted = float(single.true), float(single.predicted)
    except ValueError:
        return wording.count(single.row), single.true, single.predicted, ""
    off = predicted - true
    sign = "+" if off > 0 and math.isfinite(off) else ""
    digits = wording.digits_apart(true, predicted, least=6)
    written = (wording.number(value, digits=digits) for value in (true, predicted))
    return wording.count(single.row), *written, f"{sign}{wording.number(off)}"
