"""What a predictor takes, what it gives back, and what it says of what it cannot take."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model_cases import model
from tests.predictor.unfolded import inputs, wide

import batchnorm
from batchnorm.data.column import Target
from batchnorm.errors import DataError, SettingsError
from batchnorm.model_file.spec import ACTIVATIONS
from batchnorm.predictor import Predictor


def test_predictor_of_no_rows_gives_no_rows() -> None:
    nothing = np.empty((0, 5))
    predictor = Predictor(model())
    assert predictor.decision_scores(nothing).shape == predictor.predict_proba(nothing).shape == (0, 3)
    assert predictor.predict(nothing).shape == (0,)
    assert Predictor(model(regression=True)).predict(nothing).shape == (0,)
    assert predictor.predict_records([]).values.shape == (0,)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "float16", "float32", "float64", "longdouble", "object"])
def test_predictor_takes_any_real_dtype_and_layout(dtype: str) -> None:
    predictor = Predictor(model())
    x = np.arange(20).reshape(4, 5)
    expected = predictor.decision_scores(x.astype(np.float64))
    assert np.array_equal(predictor.decision_scores(x.astype(dtype)), expected)
    assert np.array_equal(predictor.decision_scores(np.asfortranarray(x.astype(dtype))), expected)


def test_predictor_takes_lists_and_booleans_and_leaves_its_input_alone() -> None:
    predictor = Predictor(model())
    x = inputs(3)
    before = x.copy()
    assert np.array_equal(predictor.decision_scores(x.tolist()), predictor.decision_scores(x))
    assert np.array_equal(x, before)
    flags = x > 0
    assert np.array_equal(predictor.decision_scores(flags), predictor.decision_scores(flags.astype(float)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4)), "expected 5 features in each row, got 4: give x0, x1, x2, x3, x4"),
        (np.ones((2, 0)), "expected 5 features in each row, got 0"),
        (np.ones(5), r"expected a matrix of numbers of shape \(N, 5\), got shape \(5,\); put a single row in brackets"),
        (np.ones((1, 1, 5)), r"got shape \(1, 1, 5\)"),
        (3, r"got shape \(\)"),
        ([[1, 2, 3, 4, 5], [1, 2]], "got something else"),
        ([["1", "2", "3", "4", "5"]], "got dtype <U1: predict_records takes rows as they come"),
        (np.array([["1", 2, 3, 4, 5]], dtype=object), "got dtype object"),
        (np.array([[{}, 2, 3, 4, 5]], dtype=object), "got something else"),
        (np.ones((1, 5), complex), "got dtype complex128"),
        (np.zeros((1, 5), "datetime64[D]"), "got dtype datetime64"),
    ],
)
def test_predictor_of_what_is_no_such_matrix_says_what_it_expected(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictor(model()).predict(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2, 5000])
def test_predictor_of_a_row_that_is_not_finite_names_the_row_and_the_feature(bad: float, row: int) -> None:
    x = inputs(5001)
    x[row, 3] = bad
    with pytest.raises(DataError, match=f"row {row} expected finite numbers, got {bad} for 'x3': fill it in first"):
        Predictor(model()).predict_proba(x)


def test_predictor_of_a_missing_value_in_an_object_array_names_the_row() -> None:
    with pytest.raises(DataError, match="row 1 expected finite numbers, got nan for 'x4'"):
        Predictor(model()).predict(np.array([[1, 2, 3, 4, 5], [1, 2, 3, 4, None]], dtype=object))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("input_norm", [True, False])
def test_predictor_never_lets_an_activation_hide_what_is_not_finite(
    activation: str, bad: float, input_norm: bool
) -> None:
    """relu of -inf is 0, sigmoid of it too: the scores alone would look like any others."""
    file = model(activation=activation, input_norm=input_norm)
    file.tensors["layers.0.linear.weight"][:, 1] = -1.0
    x = inputs(1)
    x[0, 1] = bad
    with pytest.raises(DataError, match=f"row 0 expected finite numbers, got {bad} for 'x1'"):
        Predictor(file).predict(x)


def test_predictor_of_values_too_large_to_compute_with_names_the_row() -> None:
    x = inputs(3)
    x[1] = 1e308
    with pytest.raises(DataError, match="row 1 expected values like those trained on, got some too large"):
        Predictor(model(activation="relu")).predict(x)
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        with pytest.raises(DataError, match="row 0 expected finite numbers, got inf"):
            Predictor(model()).predict(np.full((1, 5), np.finfo(np.longdouble).max))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictor_at_large_values_is_quiet(activation: str) -> None:
    predictor = Predictor(model(activation=activation))
    for scale in (1e4, 1e30):
        with np.errstate(all="raise", under="warn"):
            assert np.isfinite(predictor.predict_proba(inputs(50) * scale)).all()


@pytest.mark.parametrize(("large", "narrow"), [(1e300, False), (1e30, True)])
def test_predictor_probabilities_far_apart_are_zero_and_one(large: float, narrow: bool) -> None:
    file = model(hidden=(), input_norm=False)
    file.tensors["head.weight"][:] = np.eye(3, 5, dtype=np.float32)
    file.tensors["head.bias"][:] = 0
    predictor = Predictor(file if narrow else wide(file))
    found = predictor.predict_proba([[large, 0, -large, 0, 0], [5, 5, 5, 0, 0], [-9e4, -9e4, -1e5, 0, 0]])
    np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-15)


@pytest.mark.parametrize(
    "values",
    [("no", "yes"), (0, 1), (3, -7), (0.5, 2.5), (False, True), ("a", "a\0"), ("", "ä"), (1, 2**70), (1, 2.5)],
)
def test_predictor_gives_back_the_classes_as_they_are(values: tuple[Any, ...]) -> None:
    file = model(outputs=2, target=Target("kind", "class", values), hidden=(), input_norm=False)
    file.tensors["head.weight"][:] = [[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]
    file.tensors["head.bias"][:] = 0
    found = Predictor(file).predict([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]).tolist()
    assert found == list(values)
    assert [type(value) for value in found] == [type(value) for value in values]


def test_predictor_of_a_constant_target_gives_its_mean() -> None:
    file = model(regression=True)
    file.tensors["target.std"][...] = 0
    file.tensors["target.mean"][...] = 42.5
    assert Predictor(file).predict(inputs(3)).tolist() == [42.5] * 3


def test_predictor_of_numbers_has_no_probabilities() -> None:
    predictor = Predictor(model(regression=True))
    with pytest.raises(SettingsError, match="expected a target with classes, got the number 'price': use predict"):
        predictor.predict_proba(inputs(2))
    assert predictor.predictions(inputs(2)).probabilities is None


def test_predictor_loaded_from_a_file_predicts_the_same(tmp_path: Path) -> None:
    batchnorm.save(Predictor(model()), tmp_path / "m")
    found = batchnorm.load(tmp_path / "m")
    assert np.array_equal(found.predict_proba(inputs(5)), Predictor(model()).predict_proba(inputs(5)))


@pytest.mark.parametrize("hidden", [(7, 4), (700,)])
def test_predictor_copied_or_pickled_predicts_the_same(hidden: tuple[int, ...]) -> None:
    predictor = Predictor(model(inputs=700, hidden=hidden))
    x = inputs(5, 700)
    for twin in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert twin.predict_proba(x).tobytes() == predictor.predict_proba(x).tobytes()


def test_predictor_import_loads_neither_torch_nor_scipy_nor_polars() -> None:
    code = "import sys, batchnorm.predictor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "polars", "sklearn", "scipy", "pandas", "plotly", "rich", "typer"} & set(loaded)
