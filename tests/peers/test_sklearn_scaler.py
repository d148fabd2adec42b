"""scikit-learn's tests of StandardScaler and scale(), the functions themselves, run against InputNorm.

The functions come from the wheel (sklearn/preprocessing/tests/test_data.py); the two names in that module are
replaced by the adapter of `scaler.py` while one runs. Every test there that uses one of the names is either run or
listed in NOT_APPLICABLE with the reason; a test that a later scikit-learn adds fails
`test_every_test_that_uses_the_scaler_is_run_or_explained`.
"""

# X is scikit-learn's name for it.
# ruff: noqa: N803, N806
from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sklearn.preprocessing
import torch
from sklearn.preprocessing.tests import test_data as theirs
from tests.peers import scaler, subject

ARRAY_API = (
    "drives array-API dispatch inside scikit-learn's own estimator (namespaces, devices), which the adapter has not"
)
SPARSE = "all of it is about sparse matrices, which InputNorm does not take"
NOT_APPLICABLE = {
    "test_standard_scaler_sample_weight_array_api": ARRAY_API,
    "test_standard_scaler_array_api_compliance": ARRAY_API,
    "test_scaler_without_centering": SPARSE,
    "test_partial_fit_sparse_input": SPARSE,
    "test_scale_sparse_with_mean_raise_exception": SPARSE,
    "test_scale_function_without_centering": SPARSE,
    "test_standard_scaler_sparse_partial_fit_finite_variance": SPARSE,
    "test_standard_scaler_numerical_stability": (
        "demands two warnings of scikit-learn's, one for a rounding error that InputNorm does not make; its data and "
        "the results it asks for are in test_numerical_stability_without_the_warnings"
    ),
    "test_scale_input_finiteness_validation": (
        "demands the text of scikit-learn's validator; that infinity is refused is in test_infinite_values_are_refused"
    ),
    "test_standard_scaler_raise_error_for_1d_input": (
        "demands the text of scikit-learn's validator; that one axis is refused is in test_one_axis_is_refused"
    ),
    "test_standard_scaler_callback_support": "about the callback protocol of scikit-learn's estimators",
    "test_scaler_return_identity": "with_mean=False and with_std=False leave nothing for InputNorm to do",
    "test_fit_cold_start": "with_mean=False and with_std=False leave nothing for InputNorm to do",
    "test_power_transformer_1d": "about PowerTransformer; scale() is only its oracle",
    "test_power_transformer_2d": "about PowerTransformer; scale() is only its oracle",
    "test_kernelcenterer_non_linear_kernel": "about KernelCenterer of a kernel without features",
}


class Dense(np.ndarray):
    """Handed to a test where it wants a container for sparse data: the dense array, with the one method it then
    calls."""

    def __new__(cls, values: Any) -> Dense:
        return np.array(values).view(cls)

    def toarray(self) -> np.ndarray:
        return np.asarray(self)


# Tests whose sparse part makes as much sense of a dense array get one; None is scikit-learn's own word for dense.
DENSE_CONTAINER = {
    "test_standard_scaler_partial_fit_numerical_stability": Dense,
    "test_scaler_without_copy": Dense,
    "test_scaler_int": Dense,
}


def _uses_the_scaler(function: types.FunctionType) -> bool:
    source = inspect.getsource(function)
    return (
        "StandardScaler" in function.__code__.co_names
        or "StandardScaler(" in source
        or "scale" in function.__code__.co_names
    )


FUNCTIONS = {
    name: function
    for name, function in vars(theirs).items()
    if name.startswith("test_") and inspect.isfunction(function) and _uses_the_scaler(function)
}


def _parameters(function: types.FunctionType) -> Iterator[dict[str, Any]]:
    """The product of a test's parametrize marks, as pytest would call it."""
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    choices = []
    for mark in marks:
        names, values = mark.args[0], mark.args[1]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        values = [getattr(value, "values", value) if hasattr(value, "marks") else value for value in values]
        choices.append([dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values])
    for combination in itertools.product(*choices):
        yield {name: value for choice in combination for name, value in choice.items()}


def _adapted(name: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters for InputNorm, or None where they ask for another estimator or for sparse data.

    Left out, too, is the test of nearly constant features in float64. It demands that a feature counts as constant
    whose standard deviation is below N * eps * mean, because scikit-learn's variance cannot be told from rounding
    there. InputNorm's can: its data are in `test_near_constant_features_in_float64_keep_their_exact_scale`.
    """
    if "sparse_container" in parameters and parameters["sparse_container"] is not None:
        return None
    if str(parameters.get("array_constructor", "")).startswith("sparse"):
        return None
    if name == "test_standard_scaler_near_constant_features" and parameters["dtype"] is np.float64:
        return None
    adapted = dict(parameters)
    if "scaler" in parameters:
        if type(parameters["scaler"]) is not sklearn.preprocessing.StandardScaler:
            return None
        adapted["scaler"] = scaler.StandardScaler(**parameters["scaler"].get_params())
    return adapted


def _cases() -> Iterator[Any]:
    for name, function in FUNCTIONS.items():
        if name in NOT_APPLICABLE:
            continue
        if name in DENSE_CONTAINER:
            yield pytest.param(function, {"sparse_container": DENSE_CONTAINER[name]}, id=f"{name}-dense")
            continue
        for number, parameters in enumerate(_parameters(function)):
            adapted = _adapted(name, parameters)
            if adapted is not None:
                yield pytest.param(function, adapted, id=f"{name}-{number}" if parameters else name)


CASES = list(_cases())


@pytest.fixture
def on_input_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of scikit-learn's test module stand for InputNorm."""
    monkeypatch.setattr(theirs, "StandardScaler", scaler.StandardScaler)
    monkeypatch.setattr(theirs, "scale", scaler.scale)
    monkeypatch.setattr(theirs, "mean_variance_axis", lambda X, axis: (np.mean(X, axis=axis), np.var(X, axis=axis)))
    monkeypatch.setattr(theirs, "rng", np.random.RandomState(0))


def test_scikit_learn_has_tests_to_run() -> None:
    """An empty list would pass everything below: 1.9 has 18 tests that apply, 44 cases."""
    assert len({case.values[0].__name__ for case in CASES}) >= 18
    assert len(CASES) >= 44


def test_every_test_that_uses_the_scaler_is_run_or_explained() -> None:
    run = {case.values[0].__name__ for case in CASES}
    assert set(FUNCTIONS) == run | (set(NOT_APPLICABLE) & set(FUNCTIONS))
    assert not run & set(NOT_APPLICABLE)


@pytest.mark.usefixtures("on_input_norm")
@pytest.mark.parametrize(("function", "parameters"), CASES)
def test_of_scikit_learn_passes(function: Callable[..., None], parameters: dict[str, Any]) -> None:
    function(**parameters)


@pytest.mark.parametrize(
    ("value", "rows"),
    [(np.log(1e-5), 8), (np.log(1e-5), 10), (1e-100, 10), (1e100, 10)],
    ids=["8-equal", "10-equal", "tiny", "huge"],
)
def test_numerical_stability_without_the_warnings(value: float, rows: int) -> None:
    """The data of test_standard_scaler_numerical_stability: equal values come out 0 exactly, and nothing warns."""
    x = np.full(rows, value, dtype=np.float64)
    assert np.array_equal(scaler.scale(x), np.zeros(rows))
    assert np.array_equal(scaler.scale(x, with_std=False), np.zeros(rows))


@pytest.mark.parametrize("rows", [10, 100, 10_000])
@pytest.mark.parametrize("average", [1e-10, 1, 1e10])
def test_near_constant_features_in_float64_keep_their_exact_scale(rows: int, average: float) -> None:
    """The data of test_standard_scaler_near_constant_features: constant is what cannot vary by more than a few
    roundings."""
    scales = 10.0 ** np.arange(-30, 20)
    signs = np.where(np.arange(rows) < rows // 2, 1.0, -1.0)
    X = average + signs[:, None] * scales
    fitted = scaler.StandardScaler().fit(X)

    exact = np.abs(X[0] - X[-1]) / 2
    step = np.finfo(np.float64).eps * np.abs(X).max(axis=0)
    assert np.array_equal(fitted.scale_[exact == 0], np.ones((exact == 0).sum()))
    assert np.array_equal(fitted.transform(X)[:, exact == 0], np.zeros((rows, (exact == 0).sum())))
    varying = exact > 8 * step
    assert varying.sum() > 15
    np.testing.assert_allclose(fitted.scale_[varying], exact[varying], rtol=1e-2)
    np.testing.assert_allclose(fitted.scale_[exact > 1e4 * step], exact[exact > 1e4 * step], rtol=1e-7)


def test_one_axis_is_refused() -> None:
    """The data of test_standard_scaler_raise_error_for_1d_input."""
    fitted = subject.InputNorm(theirs.n_features).fit(theirs.X_2d)
    with pytest.raises(ValueError, match="expected features"):
        fitted.inverse(torch.from_numpy(theirs.X_2d[:, 0]))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_refused(value: float) -> None:
    """The data of test_scale_input_finiteness_validation."""
    with pytest.raises(ValueError, match="infinite"):
        subject.InputNorm(5).fit(np.array([[value, 5, 6, 7, 8]]))
