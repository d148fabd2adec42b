"""Predictions from a model file, one row or many: NumPy alone, float64 throughout, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.errors import DataError, SettingsError
from batchnorm.model_file import ModelFile, read_model_file
from batchnorm.predictor.activations import Array
from batchnorm.predictor.folded import fold

_BLOCK = 4096  # rows in flight: bounds the memory, changes no result


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of N rows."""

    values: NDArray[Any]  # (N,): class values as in the data, or numbers in the user's units
    probabilities: Array | None  # (N, classes) in the order of `schema.target.classes`; None for numbers


class Predictor:
    """A trained network that is ready to predict.

    A row gets the same alone and within any batch to the rounding of float64; so does its class, unless two tie.

    Example:
        >>> from batchnorm.data.column import Column, Target
        >>> from batchnorm.data.schema import Schema
        >>> from batchnorm.model_file.spec import NetworkSpec
        >>> spec = NetworkSpec(inputs=1, hidden=(), outputs=2, activation="relu", placement="before", norm="batch",
        ...                    eps=1e-5, input_norm=False)
        >>> schema = Schema((Column("age", "number", fill=40.0),), Target("sold", "class", ("no", "yes")))
        >>> head = {"head.weight": np.array([[0.0], [1.0]]), "head.bias": np.array([0.0, -20.0])}
        >>> predictor = Predictor(ModelFile(tensors=head, network=spec, schema=schema, trained={}))
        >>> predictor.predict([[3.0], [30.0]]).tolist()
        ['no', 'yes']
    """

    def __init__(self, model_file: ModelFile) -> None:
        self.model_file = model_file
        self.network = model_file.network
        self.schema = model_file.schema
        self.is_classifier = model_file.schema.target.kind == "class"
        self._folded = fold(model_file)
        self._classes = _class_values(model_file.schema.target.classes)

    def decision_scores(self, x: ArrayLike) -> Array:
        """The head's outputs, (N, outputs): before the softmax, or in standard deviations of the target.

        Args:
            x: (N, F) encoded features in the order of `schema.feature_names`, any real dtype; N may be 0.

        Raises:
            DataError: not such a matrix, or a row holds NaN, infinity or values too large to compute with.
        """
        rows = self._matrix(x)
        scores = np.empty((len(rows), self.network.outputs))
        for start in range(0, len(rows), _BLOCK):
            with np.errstate(over="ignore"):  # a long double may become infinite: refused below
                block = rows[start : start + _BLOCK].astype(np.float64)
            self._refuse_not_finite(block, start)
            scores[start : start + len(block)] = self._folded.scores(block)
        _refuse_too_large(np.isfinite(scores).all(axis=1))
        return scores

    def predict_proba(self, x: ArrayLike) -> Array:
        """Probabilities (N, classes) in the order of `schema.target.classes`; argument and errors as `decision_scores`.

        Raises:
            SettingsError: the network predicts a number.
        """
        if not self.is_classifier:
            name = self.schema.target.name
            raise SettingsError(f"predict_proba expected a target with classes, got the number {name!r}: use predict")
        return _softmax(self.decision_scores(x))

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Class values or numbers in the user's units, (N,); argument and errors as `decision_scores`."""
        return self._values(self.decision_scores(x))

    def predictions(self, x: ArrayLike) -> Predictions:
        """`predict` and `predict_proba` in one pass."""
        scores = self.decision_scores(x)
        return Predictions(self._values(scores), _softmax(scores) if self.is_classifier else None)

    def predict_records(self, records: Iterable[Mapping[str, Any] | Sequence[Any]]) -> Predictions:
        """The same for rows as they come: each a mapping from column names to cells, or cells in the columns' order.

        Raises:
            DataError: a record lacks columns, or a cell does not fit its column: it names the record, counted from 1.
        """
        return self.predictions(self.schema.encode_records(records))

    def describe(self) -> dict[str, Any]:
        """Layers, shapes, statistics, schema and training as JSON values: see `description.describe`."""
        from batchnorm.predictor.description import describe

        return describe(self.model_file)

    def _values(self, scores: Array) -> NDArray[Any]:
        if self.is_classifier:
            labels: NDArray[Any] = self._classes[scores.argmax(axis=1)]
            return labels
        tensors = self.model_file.tensors
        with np.errstate(over="ignore"):
            numbers = scores[:, 0] * float(tensors["target.std"]) + float(tensors["target.mean"])
        _refuse_too_large(np.isfinite(numbers))
        return numbers

    def _matrix(self, x: ArrayLike) -> NDArray[Any]:
        expected = f"expected a matrix of numbers of shape (N, {self.network.inputs})"
        try:
            rows = np.asarray(x)
            if rows.dtype.kind == "O" and not any(isinstance(value, str) for value in rows.flat):
                rows = rows.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{expected}, got something else ({error})") from error
        if rows.ndim != 2:
            hint = "; put a single row in brackets" if rows.ndim == 1 else ""
            raise DataError(f"{expected}, got shape {rows.shape}{hint}")
        if rows.shape[1] != self.network.inputs:
            names = self.schema.feature_names
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise DataError(f"expected {len(names)} features in each row, got {rows.shape[1]}: give {listed}")
        if rows.dtype.kind not in "biuf":
            raise DataError(f"{expected}, got dtype {rows.dtype}: predict_records takes rows as they come")
        return rows

    def _refuse_not_finite(self, block: Array, start: int) -> None:
        for row, column in np.argwhere(~np.isfinite(block)):
            name, got = self.schema.feature_names[column], block[row, column]
            raise DataError(f"row {start + row} expected finite numbers, got {got} for {name!r}: fill it in first")


def load(path: str | os.PathLike[str]) -> Predictor:
    """Read a model file and make it ready to predict; errors as `model_file.read_model_file`."""
    return Predictor(read_model_file(path))


def _refuse_too_large(is_finite: NDArray[np.bool_] | np.bool_) -> None:
    for row in np.flatnonzero(~is_finite):
        raise DataError(f"row {row} expected values like those trained on, got some too large to compute with")


def _softmax(scores: Array) -> Array:
    with np.errstate(under="ignore", over="ignore"):  # a difference beyond float64 is a probability of 0
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _class_values(classes: tuple[Any, ...]) -> NDArray[Any]:
    """Classes as an array that gives each of them back as it is: of Python objects where they are of several kinds."""
    if len({type(value) for value in classes}) == 1:
        array = np.array(classes)
        if array.tolist() == list(classes):
            return array
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array
