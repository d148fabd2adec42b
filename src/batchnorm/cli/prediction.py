"""What `batchnorm predict` does once its arguments are known."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from batchnorm.cli.answers import Answers
from batchnorm.cli.lines import Stream
from batchnorm.cli.note import note
from batchnorm.cli.stream import answer_lines
from batchnorm.predictor import load

if TYPE_CHECKING:
    from batchnorm.predictor import Predictions, Predictor

FAILED = 1  # some lines could not be answered, the others were


def predict_rows(
    model: str,
    data: str,
    *,
    header: bool | None = None,
    separator: str | None = None,
    na: Sequence[str] = (),
    as_json: bool = False,
) -> int:
    """Answer a file, or standard input where `data` is "-", on standard output; returns the exit code.

    Raises:
        BatchnormError: the model or the file cannot be used.
    """
    predictor = load(model)
    if data == "-":
        stream = cast(Stream, sys.stdin.buffer)
        failed = answer_lines(predictor, stream, sys.stdout, header=header, separator=separator, na=tuple(na))
        if failed:
            which = "1 line" if failed == 1 else f"{failed:,} lines"
            note(f"{which} could not be answered: an error is in the place of each answer; the exit code is {FAILED}")
        return FAILED if failed else 0
    from batchnorm.data import read_features

    inputs = read_features(data, predictor.schema, header=header, separator=separator, na=na)
    for line in inputs.notes:
        note(line)
    _print(predictor, predictor.predictions(inputs.x), as_json=as_json)
    return 0


def _print(predictor: Predictor, predictions: Predictions, *, as_json: bool) -> None:
    if as_json:
        texts = Answers(predictor.schema.classes).texts(predictions)
        sys.stdout.writelines(f'{{"row": {row}, {text[1:]}\n' for row, text in enumerate(texts, start=1))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["prediction", *(f"p({c})" for c in predictor.schema.classes)])
    values = predictions.values.tolist()
    shares: list[list[float]] = [[]] * len(values)
    if predictions.probabilities is not None:
        shares = predictions.probabilities.tolist()
    writer.writerows([value, *(f"{p:.6g}" for p in row)] for value, row in zip(values, shares, strict=True))
