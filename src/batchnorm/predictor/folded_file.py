"""A model file whose batch normalization has become part of the weights: the same network with norm=None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import ModelFileError
from batchnorm.model_file import ModelFile
from batchnorm.predictor.folded import fold
from batchnorm.predictor.predictor import Predictor

ALLOWED = 1e-5
_ROWS = 256


def folded_file(model_file: ModelFile) -> ModelFile:
    """Fold gamma, beta, running statistics and eps into weights and biases.

    Raises:
        ModelFileError: there is no batch normalization to fold; folded values leave the range of the weights' dtype.
    """
    network = model_file.network
    if network.norm is None or not network.hidden:
        what = "no hidden layer" if not network.hidden else "no batch normalization"
        raise ModelFileError(f"fold expected a network with batch normalization, got one with {what}: nothing to fold")
    folded = fold(model_file)
    tensors: dict[str, NDArray[Any]] = {
        name: array for name, array in model_file.tensors.items() if name.startswith(("input_norm.", "target."))
    }
    names = [*(f"layers.{number}.linear" for number in range(len(network.hidden))), "head"]
    for name, layer in zip(names, folded.layers, strict=True):
        tensors[f"{name}.weight"] = layer.weight.astype(folded.dtype)
        tensors[f"{name}.bias"] = layer.bias.astype(folded.dtype)
    trained = {**model_file.trained, "folded": "batch normalization is part of weights and biases"}
    return ModelFile(tensors, replace(network, norm=None), model_file.schema, trained)


def typical_rows(model_file: ModelFile, count: int = _ROWS) -> NDArray[np.float64]:
    """Rows like those that the network was trained on, as far as it knows them: (count, F), the same each time."""
    tensors: Mapping[str, NDArray[Any]] = model_file.tensors
    rows = np.random.default_rng(0).normal(size=(count, model_file.network.inputs))
    if model_file.network.input_norm:
        rows = rows * tensors["input_norm.std"] + tensors["input_norm.mean"]
    return np.asarray(rows, dtype=np.float64)


def answers(predictor: Predictor, rows: NDArray[np.float64]) -> NDArray[Any]:
    """Probabilities (N, classes), or numbers (N,) in the target's units."""
    return predictor.predict_proba(rows) if predictor.is_classifier else predictor.predict(rows)


def largest_difference(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """In units of the largest of the expected values; inf where shapes differ or something is not finite."""
    if expected.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    peak = float(np.abs(expected).max(initial=0.0))
    apart = float(np.abs(expected - got).max(initial=0.0))
    return apart / peak if peak else apart
