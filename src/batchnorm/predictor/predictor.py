"""Predictions from a model file, one row or many: NumPy alone, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.data.encode_records import ColumnwiseEncoder
from batchnorm.errors import DataError, SettingsError, quoted
from batchnorm.model_file import ModelFile, read_model_file
from batchnorm.predictor.folded import Array, fold
from batchnorm.predictor.network import Network
from batchnorm.predictor.quiet import quiet

_BLOCK = 256  # rows in flight: what lies between two layers stays in the cache; changes no result


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of N rows."""

    values: NDArray[Any]  # (N,): class values as in the data, or numbers in the user's units
    probabilities: Array | None  # (N, classes) in the order of `schema.target.classes`; None for numbers


class Predictor:
    """A trained network that is ready to predict.

    A row gets the same alone and within any batch, to the last bit, whatever the number of threads. The arithmetic is
    in the dtype that the network was trained in, but for the inputs' normalization, the softmax and the units of a
    number, which are in float64.

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
        self._network = Network(fold(model_file))
        if not self.is_classifier:
            self._unit, self._zero = (float(model_file.tensors[f"target.{name}"]) for name in ("std", "mean"))
        self._ones = np.ones(self.network.outputs)
        self._classes = _class_values(model_file.schema.target.classes)

    def decision_scores(self, x: ArrayLike) -> Array:
        """The head's outputs, (N, outputs): before the softmax, or in standard deviations of the target.

        Args:
            x: (N, F) encoded features in the order of `schema.feature_names`, any real dtype; N may be 0.

        Raises:
            DataError: not such a matrix, or a row holds NaN, infinity or values too large to compute with.
        """
        rows = self._matrix(x)
        if len(rows) <= _BLOCK:
            scores = self._network.scores(rows)
        else:
            starts = range(0, len(rows), _BLOCK)
            scores = np.concatenate([self._network.scores(rows[start : start + _BLOCK]) for start in starts])
        sums = scores.dot(self._ones)  # not finite where a score is not
        if not (isfinite(sums[0]) if len(sums) == 1 else np.isfinite(sums).all()):
            self._refuse_not_finite(rows)
            _refuse_too_large(scores)
        return scores

    def predict_proba(self, x: ArrayLike) -> Array:
        """Probabilities (N, classes) in the order of `schema.target.classes`; argument and errors as `decision_scores`.

        Raises:
            SettingsError: the network predicts a number.
        """
        if not self.is_classifier:
            name = self.schema.target.name
            raise SettingsError(
                f"predict_proba expected a target with classes, got the number {quoted(name)}: use predict"
            )
        return quiet().run(_softmax, self.decision_scores(x))

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Class values or numbers in the user's units, (N,); argument and errors as `decision_scores`."""
        return self._values(self.decision_scores(x))

    def predictions(self, x: ArrayLike) -> Predictions:
        """`predict` and `predict_proba` in one pass."""
        scores = self.decision_scores(x)
        return Predictions(self._values(scores), quiet().run(_softmax, scores) if self.is_classifier else None)

    def predict_records(self, records: Iterable[Mapping[str, Any] | Sequence[Any]]) -> Predictions:
        """The same for rows as they come: each a mapping from column names to cells, or cells in the columns' order.

        Raises:
            DataError: a record lacks columns, or a cell does not fit its column: it names the record, counted from 1.
        """
        rows = list(records)
        x = self._encoder.encode(rows)
        return self.predictions(self.schema.encode_records(rows) if x is None else x)

    def describe(self) -> dict[str, Any]:
        """Layers, shapes, statistics, schema and training as JSON values: see `description.describe`."""
        from batchnorm.predictor.description import describe

        return describe(self.model_file)

    @cached_property
    def _encoder(self) -> ColumnwiseEncoder:
        return ColumnwiseEncoder(self.schema.columns, self.schema.na)

    def __reduce__(self) -> tuple[type[Predictor], tuple[ModelFile]]:
        return Predictor, (self.model_file,)

    def _values(self, scores: Array) -> NDArray[Any]:
        if self.is_classifier:
            labels: NDArray[Any] = self._classes[scores.argmax(axis=1)]
            return labels
        numbers = quiet().run(self._in_units, scores)
        _refuse_too_large(numbers)
        return numbers

    def _in_units(self, scores: Array) -> Array:
        return scores[:, 0] * self._unit + self._zero

    def _matrix(self, x: ArrayLike) -> NDArray[Any]:
        inputs = self.network.inputs
        if type(x) is np.ndarray and x.ndim == 2 and x.shape[1] == inputs and x.dtype.kind in "biuf":
            return x
        expected = f"expected a matrix of numbers of shape (N, {inputs})"
        try:
            rows = np.asarray(x)
            if rows.dtype.kind == "O" and not any(isinstance(value, str) for value in rows.flat):
                rows = rows.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{expected}, got something else ({error})") from error
        if rows.ndim != 2:
            hint = "; put a single row in brackets" if rows.ndim == 1 else ""
            raise DataError(f"{expected}, got shape {rows.shape}{hint}")
        if rows.shape[1] != inputs:
            names = self.schema.feature_names
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise DataError(f"expected {len(names)} features in each row, got {rows.shape[1]}: give {listed}")
        if rows.dtype.kind not in "biuf":
            raise DataError(f"{expected}, got dtype {rows.dtype}: predict_records takes rows as they come")
        return rows

    def _refuse_not_finite(self, rows: NDArray[Any]) -> None:
        for start in range(0, len(rows), _BLOCK):
            block = quiet().run(
                rows[start : start + _BLOCK].astype, np.float64
            )  # in which a long double may be infinite
            for row, column in np.argwhere(~np.isfinite(block)):
                name, got = quoted(self.schema.feature_names[column]), block[row, column]
                raise DataError(f"row {start + row} expected finite numbers, got {got} for {name}: fill it in first")


def load(path: str | os.PathLike[str]) -> Predictor:
    """Read a model file and make it ready to predict; errors as `model_file.read_model_file`."""
    return Predictor(read_model_file(path))


def _refuse_too_large(computed: Array) -> None:
    for row in np.argwhere(~np.isfinite(computed))[:, 0]:
        raise DataError(f"row {row} expected values like those trained on, got some too large to compute with")


def _softmax(scores: Array) -> Array:
    powers: Array = np.exp(scores - np.maximum.reduce(scores, axis=1, keepdims=True))
    powers /= np.add.reduce(powers, axis=1, keepdims=True)
    return powers


def _class_values(classes: tuple[Any, ...]) -> NDArray[Any]:
    """Classes as an array that gives each of them back as it is: of Python objects where they are of several kinds."""
    if len({type(value) for value in classes}) == 1:
        array = np.array(classes)
        if array.tolist() == list(classes):
            return array
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array
