"""scikit-learn's own suite for estimators, whole, none of its checks expected to fail."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from batchnorm import BatchNormClassifier, BatchNormRegressor

SMALL: dict[str, Any] = {"hidden_layer_sizes": (16,), "max_iter": 100}
CHOICES: list[dict[str, Any]] = [
    {},
    SMALL | {"early_stopping": True},
    SMALL | {"norm": None},
    SMALL | {"placement": "after"},
    SMALL | {"input_norm": False, "activation": "logistic"},
    SMALL | {"batch_size": 32, "dropout": 0.1, "alpha": 0.01, "solver": "momentum"},
]


@parametrize_with_checks([kind(**choice) for choice in CHOICES for kind in (BatchNormClassifier, BatchNormRegressor)])
@pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
def test_check_holds(estimator: Any, check: Any) -> None:
    check(estimator)
