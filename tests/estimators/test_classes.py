"""Classes of every kind, class weights, and targets that cannot be told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import recall_score
from tests.estimators.problems import IRIS, classifier, some

import batchnorm
from batchnorm.errors import DataError, ModelFileError, SettingsError

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    "names",
    [
        np.array(["setosa", "versicolor", "virginica"]),
        np.array(["setosa", "versicolor", "virginica"], dtype=object),
        np.array([10, -3, 7]),
        np.array([1.0, 2.0, 4.0]),
        np.array([False, True, True]),
    ],
    ids=lambda names: str(names.dtype),
)
def test_classes_of_any_kind_come_back_as_they_were(names: np.ndarray, tmp_path: Any) -> None:
    x, numbers = IRIS
    y = names[numbers]
    model = classifier(max_iter=200).fit(x, y)
    assert model.classes_.tolist() == sorted(set(names.tolist()))
    assert model.classes_.dtype == model.predict(x).dtype == names.dtype
    assert model.score(x, y) > 0.9
    batchnorm.save(model, tmp_path / "model.safetensors")
    assert batchnorm.load(tmp_path / "model.safetensors").predict(x).tolist() == model.predict(x).tolist()


def test_classes_in_lists_and_series_are_taken() -> None:
    x, y = IRIS
    names = ["a", "b", "c"]
    expected = classifier().fit(x, np.array(names)[y]).predict(x).tolist()
    assert classifier().fit(x.tolist(), [names[i] for i in y]).predict(x).tolist() == expected
    assert classifier().fit(x, pl.Series([names[i] for i in y])).predict(x).tolist() == expected


def test_class_of_rows_that_do_not_count_is_none() -> None:
    x, y = IRIS
    model = classifier().fit(x, y, sample_weight=(y != 1).astype(float))
    assert model.classes_.tolist() == [0, 2]
    with pytest.raises(DataError, match="at least two classes, got one class"):
        classifier().fit(x, y, sample_weight=(y == 1).astype(float))


def test_message_about_very_many_or_long_classes_is_short() -> None:
    x = np.arange(600.0).reshape(-1, 1)
    y = np.array([f"class {i % 300}" for i in range(600)])
    model = classifier(max_iter=1).fit(x, y)
    with pytest.raises(DataError, match=r"y expected classes among 'class 0', .* and 292 more, got 'xxx.*…'") as caught:
        model.partial_fit(x[:1], np.array(["x" * 100_000]))
    assert len(str(caught.value)) < 300


def test_classes_of_several_kinds_raise() -> None:
    x, _ = some(IRIS, 4)
    with pytest.raises(DataError, match="classes of one kind, texts or numbers, got several"):
        classifier().fit(x, np.array(["a", 1, "a", 1], dtype=object))


def test_numbers_that_are_no_classes_raise() -> None:
    x, y = IRIS
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier().fit(x, y + 0.1 * x[:, 0])


def test_classes_that_json_cannot_hold_are_refused_by_the_model_file_alone() -> None:
    x, y = IRIS
    model = classifier().fit(x, np.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="datetime64[D]")[y])
    assert model.predict(x).dtype.kind == "M"
    with pytest.raises(ModelFileError, match="texts, numbers or truths, got datetime"):
        _ = model.model_file


def unbalanced() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = np.vstack([random.normal(0, 1, (180, 2)), random.normal(0.8, 1, (20, 2))])
    return x, np.repeat(["many", "few"], [180, 20])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_class_weight_balanced_finds_the_rare_class(early_stopping: bool) -> None:
    x, y = unbalanced()
    plain, balanced = (
        classifier(class_weight=weight, early_stopping=early_stopping, max_iter=150).fit(x, y).predict(x)
        for weight in (None, "balanced")
    )
    assert recall_score(y, balanced, pos_label="few") > recall_score(y, plain, pos_label="few") + 0.2


def test_class_weight_as_a_dict_says_the_same_as_balanced() -> None:
    x, y = unbalanced()
    balanced = classifier(class_weight="balanced").fit(x, y)
    by_hand = classifier(class_weight={"many": 200 / (2 * 180), "few": 200 / (2 * 20)}).fit(x, y)
    np.testing.assert_allclose(balanced.predict_proba(x), by_hand.predict_proba(x), rtol=1e-9)


def test_class_of_weight_zero_teaches_nothing_but_counts_in_the_statistics() -> None:
    x, y = IRIS
    model = classifier(class_weight={0: 0.0, 1: 1.0, 2: 1.0}, batch_size=4, max_iter=30).fit(x, y)
    assert np.isfinite(model.loss_curve_).all()
    assert model.score(x[y > 0], y[y > 0]) > 0.85
    np.testing.assert_allclose(model.network_.input_norm.mean.numpy(), x.mean(0))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("equal", "class_weight expected None, 'balanced' or a dict"),
        (3, "class_weight expected None, 'balanced' or a dict"),
        ({0: 1, 9: 1}, "not in class_weight"),
    ],
)
def test_class_weight_that_is_none_raises(weight: Any, expected: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=expected):
        classifier(class_weight=weight).fit(*IRIS)
