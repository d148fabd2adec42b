"""Small problems with real data, and networks that learn them in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes, load_iris

from batchnorm import BatchNormClassifier, BatchNormRegressor

IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True, scaled=False)


def classifier(**choice: Any) -> BatchNormClassifier:
    return BatchNormClassifier(**{"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 0, **choice})


def regressor(**choice: Any) -> BatchNormRegressor:
    return BatchNormRegressor(**{"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 0, **choice})


def some(problem: tuple[np.ndarray, np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """`rows` rows of a problem, of all classes."""
    x, y = problem
    chosen = np.random.default_rng(5).permutation(len(x))[:rows]
    return x[chosen], y[chosen]


def raw(model: Any, x: Any) -> np.ndarray:
    """All that a model says of rows."""
    return model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)
