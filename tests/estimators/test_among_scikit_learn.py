"""Among scikit-learn's own tools, and with rows in frames."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from tests.estimators.problems import DIABETES, IRIS, classifier, raw, regressor

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
BOTH = pytest.mark.parametrize(("make", "problem"), [(classifier, IRIS), (regressor, DIABETES)])
FRAMES = pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
NAMES = ["length", "width", "petal length", "petal width"]


@BOTH
def test_pipeline_fits_and_scores(make: Any, problem: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(2), make(max_iter=60))
    assert pipeline.fit(*problem).score(*problem) > 0.5


def test_cross_validation_of_both() -> None:
    assert cross_val_score(classifier(max_iter=150), *IRIS, cv=3).mean() > 0.85
    assert cross_val_score(regressor(max_iter=60), *DIABETES, cv=3).mean() > 0.3
    assert cross_val_predict(classifier(), *IRIS, cv=3, method="predict_log_proba").shape == (150, 3)


def test_grid_search_over_what_batch_normalization_has_to_choose() -> None:
    grid = {"norm": ["batch", None], "placement": ["before", "after"], "hidden_layer_sizes": [(8,), (4, 4)]}
    search = GridSearchCV(classifier(max_iter=30), grid, cv=2).fit(*IRIS)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_estimator_.score(*IRIS) > 0.7


@BOTH
def test_clone_is_unfitted_with_the_same_parameters(make: Any, problem: Any) -> None:
    model = make(alpha=0.1).fit(*problem)
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not hasattr(other, "network_")


@FRAMES
def test_frame_gives_what_its_array_gives(frame: Any) -> None:
    x, y = IRIS
    table = frame(dict(zip(NAMES, x.T, strict=True)))
    model = classifier().fit(table, y)
    assert model.feature_names_in_.tolist() == NAMES
    assert (raw(model, table) == raw(classifier().fit(x, y), x)).all()


@FRAMES
def test_frame_of_whole_numbers_and_truths_is_numbers(frame: Any) -> None:
    x, y = IRIS
    table = frame({"whole": (10 * x[:, 0]).astype(int), "truth": x[:, 3] > 1})
    model = classifier().fit(table, y)
    assert model.predict(table[:5]).tolist() == model.predict(table).tolist()[:5]


@FRAMES
def test_frame_with_other_columns_raises(frame: Any) -> None:
    x, y = IRIS
    model = classifier().fit(frame(dict(zip(NAMES, x.T, strict=True))), y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame(dict(zip(NAMES[::-1], x.T, strict=True))))


def test_array_after_a_frame_warns() -> None:
    x, y = IRIS
    model = classifier().fit(pd.DataFrame(x, columns=NAMES), pd.Series(y))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(x)


def test_rows_that_may_not_be_written_are_taken_and_left() -> None:
    x, y = (part.copy() for part in DIABETES)
    x.flags.writeable = y.flags.writeable = False
    for choice in ({}, {"batch_size": 64}, {"input_norm": False}):
        regressor(**choice).fit(x, y)
    assert (x == DIABETES[0]).all()
