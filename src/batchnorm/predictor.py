"""A trained network as one affine map and one activation per layer: NumPy alone, float64 throughout, no torch.

At test time batch normalization is an affine map with constants (Ioffe & Szegedy 2015, Algorithm 2, step 11):

    s = gamma / sqrt(running_var + eps)        norm(z) = s * z + (beta - s * running_mean)

so it disappears into a neighbour: placed before the activation into its own linear map, W' = diag(s) W; placed after it
into the next one, the head included, W' = W diag(s), b' = b + W (beta - s * running_mean).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.activations import Array, activate
from batchnorm.errors import DataError, ModelFileError, SettingsError
from batchnorm.model_file import ModelFile, read_model_file

_BLOCK = 4096  # rows in flight: bounds the memory, changes no result


@dataclass(frozen=True)
class Affine:
    """x: (N, F) -> x @ weight.T + bias: (N, C)."""

    weight: Array  # (C, F)
    bias: Array  # (C,)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of N rows."""

    values: NDArray[Any]  # (N,): class values as in the data, or numbers in the user's units
    probabilities: Array | None  # (N, classes) in the order of `schema.target.classes`; None where a number is predicted


class Predictor:
    """Predicts from a model file, one row or many.

    A row gives the same alone and within any batch, to the rounding of float64; so does its class, unless two classes tie.

    Example:
        >>> from batchnorm.data.schema import Column, Schema, Target
        >>> from batchnorm.network_spec import NetworkSpec
        >>> spec = NetworkSpec(inputs=1, hidden=(), outputs=2, activation="relu", placement="before", norm="batch",
        ...                    eps=1e-5, input_norm=False)
        >>> schema = Schema(columns=(Column("age", "number"),), target=Target("sold", "class", ("no", "yes")), header=True)
        >>> head = {"head.weight": np.array([[0.0], [1.0]]), "head.bias": np.array([0.0, -20.0])}
        >>> predictor = Predictor(ModelFile(tensors=head, network=spec, schema=schema, trained={}))
        >>> predictor.predict([[3.0], [30.0]]).tolist()
        ['no', 'yes']
    """

    def __init__(self, model_file: ModelFile) -> None:
        self.model_file = model_file
        self.schema = model_file.schema
        self.network = model_file.network
        self.is_classifier = model_file.schema.target.kind == "class"
        self._layers = fold_layers(model_file)
        self._centre, self._divisor = _input_constants(model_file)
        self._classes = _class_values(model_file.schema.target.classes)

    def decision_scores(self, x: ArrayLike) -> Array:
        """The head's outputs, (N, outputs): before the softmax, or in standard deviations of the target.

        Args:
            x: (N, F) encoded features in the order of `schema.feature_names`, any real dtype; N may be 0.

        Raises:
            DataError: not such a matrix, or a row holds NaN, infinity or values too large to compute with.
        """
        rows = self._check(x)
        scores = np.empty((len(rows), self.network.outputs))
        for start in range(0, len(rows), _BLOCK):
            block = self._check_finite(rows[start : start + _BLOCK], start)
            scores[start : start + len(block)] = self._forward(block, start)
        return scores

    def predict_proba(self, x: ArrayLike) -> Array:
        """Probabilities (N, classes) in the order of `schema.target.classes`; arguments and errors as `decision_scores`.

        Raises:
            SettingsError: the network predicts a number.
        """
        if not self.is_classifier:
            name = self.schema.target.name
            raise SettingsError(f"predict_proba expected a target with classes, got the number {name!r}: use predict")
        return _softmax(self.decision_scores(x))

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Class values or numbers in the user's units, (N,); arguments and errors as `decision_scores`."""
        return self._values(self.decision_scores(x))

    def predictions(self, x: ArrayLike) -> Predictions:
        """`predict` and `predict_proba` in one pass."""
        scores = self.decision_scores(x)
        return Predictions(self._values(scores), _softmax(scores) if self.is_classifier else None)

    def predict_records(self, records: Iterable[Mapping[str, Any]]) -> Predictions:
        """The same for rows as they come, each a mapping from column names to values.

        Raises:
            DataError: a record cannot be encoded (a column is missing, a value has the wrong kind); where there are
                several records it tells which, counting from 0.
        """
        return self.predictions(self.encode_records(records))

    def encode_records(self, records: Iterable[Mapping[str, Any]]) -> Array:
        """Rows as they come, encoded: (N, F) float64; errors as `predict_records`."""
        listed = list(records)
        encoded = np.empty((len(listed), self.network.inputs))
        for number, record in enumerate(listed):
            try:
                encoded[number] = self.schema.encode_record(record)[0]
            except DataError as error:
                raise (DataError(f"record {number}: {error}") if len(listed) > 1 else error) from error.__cause__
        return encoded

    def describe(self) -> dict[str, Any]:
        """Everything there is to know about the network, as JSON values: see `description.describe`."""
        from batchnorm.description import describe

        return describe(self.model_file)

    def _values(self, scores: Array) -> NDArray[Any]:
        if self.is_classifier:
            return self._classes[scores.argmax(axis=1)]
        tensors = self.model_file.tensors
        return scores[:, 0] * float(tensors["target.std"]) + float(tensors["target.mean"])

    def _forward(self, block: Array, start: int) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            a = (block - self._centre) / self._divisor
            *hidden, head = self._layers
            for layer in hidden:
                a = activate(a @ layer.weight.T + layer.bias, self.network.activation)
            scores: Array = a @ head.weight.T + head.bias
        for row in np.flatnonzero(~np.isfinite(scores).all(axis=1)):
            raise DataError(f"row {start + row} expected values like those trained on, got some too large to compute with")
        return scores

    def _check(self, x: ArrayLike) -> NDArray[Any]:
        rows = np.asarray(x)
        features = self.network.inputs
        if rows.ndim != 2:
            hint = "; put a single row in brackets" if rows.ndim == 1 else ""
            raise DataError(f"expected a matrix of shape (N, {features}), got shape {rows.shape}{hint}")
        if rows.shape[1] != features:
            raise DataError(f"expected {features} features in each row, got {rows.shape[1]}: they are {self._feature_list()}")
        if rows.dtype.kind == "O":
            rows = _numbers(rows)
        if rows.dtype.kind not in "biuf":
            raise DataError(f"expected a matrix of numbers, got dtype {rows.dtype}: predict_records takes rows as they come")
        return rows

    def _check_finite(self, block: NDArray[Any], start: int) -> Array:
        values = block.astype(np.float64)
        for row, column in np.argwhere(~np.isfinite(values)):
            name, got = self.schema.feature_names[column], values[row, column]
            raise DataError(f"row {start + row} expected finite numbers, got {got} for {name!r}: fill it in or leave the row out")
        return values

    def _feature_list(self) -> str:
        names = self.schema.feature_names
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def load(path: str | os.PathLike[str]) -> Predictor:
    """Read a model file and make it ready to predict; errors as `model_file.read_model_file`."""
    return Predictor(read_model_file(path))


def fold_layers(model_file: ModelFile) -> tuple[Affine, ...]:
    """The network's affine maps, hidden layers first, head last, with batch normalization folded in (see the module).

    Raises:
        ModelFileError: the folded values leave the range of float64.
    """
    network = model_file.network
    tensors = {name: array.astype(np.float64) for name, array in model_file.tensors.items()}
    layers = []
    carried: tuple[Array, Array] | None = None  # scale and shift (C,) that the layer before left for this one
    for name in [*(f"layers.{i}.linear" for i in range(len(network.hidden))), "head"]:
        weight = tensors[f"{name}.weight"]
        bias = tensors.get(f"{name}.bias", np.zeros(len(weight)))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if carried is not None:
                weight, bias = weight * carried[0], bias + weight @ carried[1]
                carried = None
            if name != "head" and network.norm == "batch":
                norm = name.replace("linear", "norm")
                scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + network.eps)
                shift = tensors[f"{norm}.bias"] - scale * tensors[f"{norm}.running_mean"]
                if network.placement == "after":
                    carried = scale, shift
                else:
                    weight, bias = scale[:, None] * weight, scale * bias + shift
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelFileError(f"{name} expected weights within the range of float64 once normalized, got larger: train again")
        layers.append(Affine(weight, bias))
    return tuple(layers)
