"""Predictions as JSON text, one object per row: {"prediction": ..., "probabilities": {class: ...}}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batchnorm.predictor import Predictions


class Answers:
    """Writes what `json.dumps` would, for all rows of a batch, in a fraction of its time.

    Args:
        classes: of the model; none where it predicts numbers.
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        names = ", ".join(json.dumps(str(c)).replace("%", "%%") + ": %r" for c in classes)
        self._probabilities = f'"probabilities": {{{names}}}}}'  # json.dumps writes a float as repr does
        self._beginnings = {c: f'{{"prediction": {json.dumps(c)}, ' for c in classes}

    def texts(self, predictions: Predictions) -> list[str]:
        """One JSON object per row, without line ends."""
        values = predictions.values.tolist()
        if predictions.probabilities is None:
            return [f'{{"prediction": {value!r}}}' for value in values]
        beginnings, ending = self._beginnings, self._probabilities
        rows = predictions.probabilities.tolist()
        return [beginnings[value] + ending % tuple(row) for value, row in zip(values, rows, strict=True)]
