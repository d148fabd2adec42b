"""The folded network against the same network in torch.nn, float64, evaluation mode."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.model_cases import TRAINED, classes, model, number_schema

import batchnorm
from batchnorm.data.column import Column, Target
from batchnorm.data.schema import Schema
from batchnorm.errors import DataError, ModelFileError, SettingsError
from batchnorm.model_file import ModelFile
from batchnorm.model_file.spec import ACTIVATIONS
from batchnorm.predictor import Predictor
from batchnorm.predictor.activations import activate
from batchnorm.predictor.description import describe_schema

ORACLES: dict[str, torch.nn.Module] = {
    "relu": torch.nn.ReLU(),
    "leaky_relu": torch.nn.LeakyReLU(0.01),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
}


def oracle(model_file: ModelFile) -> torch.nn.Sequential:
    """The network unfolded, in torch's own layers."""
    spec, modules = model_file.network, []
    widths = [spec.inputs, *spec.hidden]
    for number, (before, after) in enumerate(pairwise(widths)):
        layer: dict[str, torch.nn.Module] = {
            "linear": torch.nn.Linear(before, after, bias=spec.norm is None),
            "act": ORACLES[spec.activation],
        }
        if spec.norm == "batch":
            layer["norm"] = torch.nn.BatchNorm1d(after, eps=spec.eps)
        for part in ("linear", "norm"):
            if part in layer:
                prefix = f"layers.{number}.{part}."
                state = {k.removeprefix(prefix): v for k, v in model_file.tensors.items() if k.startswith(prefix)}
                layer[part].load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        order = ["linear", "norm", "act"] if spec.placement == "before" else ["linear", "act", "norm"]
        modules += [layer[part] for part in order if part in layer]
    head = torch.nn.Linear(widths[-1], spec.outputs)
    head.load_state_dict({name: torch.tensor(model_file.tensors[f"head.{name}"]) for name in ("weight", "bias")})
    return torch.nn.Sequential(*modules, head).double().eval()


def oracle_scores(model_file: ModelFile, x: NDArray[Any]) -> NDArray[np.float64]:
    rows = torch.tensor(x, dtype=torch.float64)
    if model_file.network.input_norm:
        mean, std = (torch.tensor(model_file.tensors[f"input_norm.{name}"]) for name in ("mean", "std"))
        rows = torch.where(std > 0, (rows - mean) / std, torch.zeros(()).double())
    with torch.no_grad():
        found: NDArray[np.float64] = oracle(model_file)(rows).numpy()
    return found


def inputs(rows: int, features: int = 5, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(rows, features)) * 3


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("input_norm", [True, False])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictor_agrees_with_torch(
    activation: str, placement: str, norm: str | None, input_norm: bool, regression: bool
) -> None:
    for hidden in [(), (7,), (7, 4, 6)]:
        choices = {"activation": activation, "placement": placement, "norm": norm, "input_norm": input_norm}
        file = model(len(hidden), regression=regression, hidden=hidden, **choices)
        x = inputs(33)
        expected = oracle_scores(file, x)
        predictor = Predictor(file)
        np.testing.assert_allclose(predictor.decision_scores(x), expected, rtol=1e-12, atol=1e-12)
        if regression:
            mean, std = float(file.tensors["target.mean"]), float(file.tensors["target.std"])
            np.testing.assert_allclose(predictor.predict(x), expected[:, 0] * std + mean, rtol=1e-12, atol=1e-12)
        else:
            chances = torch.softmax(torch.tensor(expected), dim=1).numpy()
            np.testing.assert_allclose(predictor.predict_proba(x), chances, rtol=1e-11, atol=1e-14)
            assert predictor.predict(x).tolist() == [f"class {number}" for number in expected.argmax(axis=1)]


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 10.0])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_predictor_with_any_eps_and_variances_of_zero_agrees_with_torch(eps: float, placement: str) -> None:
    file = model(eps=eps, placement=placement, activation="tanh")
    file.tensors["layers.0.norm.running_var"][:3] = 0
    found = Predictor(file).decision_scores(inputs(20))
    np.testing.assert_allclose(found, oracle_scores(file, inputs(20)), rtol=1e-9, atol=1e-9)


def test_predictor_with_inputs_far_from_zero_keeps_their_differences() -> None:
    """Mean 1e9, standard deviation 1e-3: float32, or folding the input normalization away, would lose every digit."""
    file = model()
    file.tensors["input_norm.mean"][:] = 1e9
    file.tensors["input_norm.std"][:] = 1e-3
    x = 1e9 + np.arange(20.0).reshape(4, 5) * 2.0**-9
    np.testing.assert_allclose(Predictor(file).decision_scores(x), oracle_scores(file, x), rtol=1e-12, atol=1e-12)


def test_predictor_maps_a_constant_feature_to_zero_whatever_comes() -> None:
    file = model()
    file.tensors["input_norm.std"][2] = 0
    x = inputs(6)
    other = x.copy()
    other[:, 2] = [0, 1, -1e9, 1e30, file.tensors["input_norm.mean"][2], 1e-30]
    assert np.array_equal(Predictor(file).decision_scores(x), Predictor(file).decision_scores(other))
    np.testing.assert_allclose(Predictor(file).decision_scores(x), oracle_scores(file, x), rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    hidden=st.lists(st.integers(1, 70), max_size=3),
    features=st.integers(1, 40),
    placement=st.sampled_from(["before", "after"]),
    activation=st.sampled_from(["relu", "sigmoid", "tanh"]),
)
def test_predictor_gives_a_row_alone_what_it_gets_in_any_batch(
    seed: int, rows: int, hidden: list[int], features: int, placement: str, activation: str
) -> None:
    predictor = Predictor(model(seed, inputs=features, hidden=hidden, placement=placement, activation=activation))
    x = inputs(rows, features, seed)
    together, labels = predictor.decision_scores(x), predictor.predict(x)
    for row in range(rows):
        np.testing.assert_allclose(predictor.decision_scores(x[[row]])[0], together[row], rtol=1e-6, atol=1e-9)
        assert predictor.predict(x[[row]])[0] == labels[row]
    order = np.random.default_rng(seed).permutation(rows)
    np.testing.assert_allclose(predictor.decision_scores(x[order]), together[order], rtol=1e-6, atol=1e-9)


def test_predictor_of_many_rows_gives_what_it_gives_in_parts() -> None:
    predictor = Predictor(model())
    x = inputs(10_000)
    parts = np.concatenate([predictor.predict_proba(x[start : start + 999]) for start in range(0, 10_000, 999)])
    np.testing.assert_allclose(predictor.predict_proba(x), parts, rtol=1e-12, atol=1e-15)


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


def test_predictor_of_values_too_large_to_compute_with_names_the_row() -> None:
    x = inputs(3)
    x[1] = 1e308
    with pytest.raises(DataError, match="row 1 expected values like those trained on, got some too large"):
        Predictor(model(activation="relu")).predict(x)
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        with pytest.raises(DataError, match="row 0 expected finite numbers, got inf"):
            Predictor(model()).predict(np.full((1, 5), np.finfo(np.longdouble).max))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_at_large_values_is_quiet_and_right(activation: str) -> None:
    z = np.array([[-1e308, -1e4, -800.0, -40.0, -1.0, -0.0, 0.0, 1e-300, 1.0, 40.0, 800.0, 1e4, 1e308]])
    with np.errstate(all="raise"):
        found = activate(z, activation)
    expected = ORACLES[activation](torch.tensor(z)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-14)


@pytest.mark.parametrize("z", [-30.0, -12.0, -8.0, -3.0, -0.5])
def test_activation_keeps_its_digits_in_the_lower_tail(z: float) -> None:
    """1 + erf and 1 - sigmoid lose them all there."""
    exact = {"gelu": 0.5 * z * math.erfc(-z / math.sqrt(2)), "silu": z * math.exp(z) / (1 + math.exp(z))}
    for activation, expected in exact.items():
        assert activate(np.array([[z]]), activation)[0, 0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictor_at_large_values_is_quiet(activation: str) -> None:
    predictor = Predictor(model(activation=activation))
    for scale in (1e4, 1e30):
        with np.errstate(all="raise", under="warn"):
            assert np.isfinite(predictor.predict_proba(inputs(50) * scale)).all()


def test_predictor_probabilities_far_apart_are_zero_and_one() -> None:
    file = model(hidden=(), input_norm=False)
    file.tensors["head.weight"][:] = np.eye(3, 5, dtype=np.float32)
    file.tensors["head.bias"][:] = 0
    found = Predictor(file).predict_proba([[1e300, 0, -1e300, 0, 0], [5, 5, 5, 0, 0], [-9e4, -9e4, -1e5, 0, 0]])
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


def test_predictor_of_records_agrees_with_the_encoded_matrix() -> None:
    predictor = Predictor(model())
    x = inputs(4)
    records = [{"ignored": 1, **{f"x{column}": value for column, value in reversed(list(enumerate(row)))}} for row in x]
    found = predictor.predict_records(records)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, predictor.predict_proba(x), rtol=1e-12, atol=1e-15)
    assert found.values.tolist() == predictor.predict(x).tolist()


def test_predictor_of_records_with_categories_uses_the_schema() -> None:
    age = Column("age", "number", fill=40.0, indicator=True)
    sea = Column("sea", "category", ("BAY", "INLAND"), other=True)
    plain = model()
    predictor = Predictor(ModelFile(plain.tensors, plain.network, Schema((age, sea), plain.schema.target), TRAINED))
    found = predictor.predict_records([{"sea": "INLAND", "age": "41.5"}, {"sea": "MOON", "age": None}])
    expected = predictor.predict_proba([[41.5, 0, 0, 1, 0], [40, 1, 0, 0, 1]])
    assert found.probabilities is not None
    assert np.array_equal(found.probabilities, expected)


def test_predictor_of_a_bad_record_says_which() -> None:
    predictor = Predictor(model())
    right = {f"x{column}": 1.0 for column in range(5)}
    with pytest.raises(DataError, match=r"^record 2: .*x3"):
        predictor.predict_records([right, {name: value for name, value in right.items() if name != "x3"}])
    with pytest.raises(DataError, match=r"^record 1: .*x2"):
        predictor.predict_records([{**right, "x2": "many"}])


def test_predictor_loaded_from_a_file_predicts_the_same(tmp_path: Path) -> None:
    batchnorm.save(Predictor(model()), tmp_path / "m")
    found = batchnorm.load(tmp_path / "m")
    assert np.array_equal(found.predict_proba(inputs(5)), Predictor(model()).predict_proba(inputs(5)))


def test_predictor_copied_or_pickled_predicts_the_same() -> None:
    predictor = Predictor(model())
    for twin in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert np.array_equal(twin.predict_proba(inputs(5)), predictor.predict_proba(inputs(5)))


def test_predictor_of_weights_that_float64_cannot_hold_folded_is_refused() -> None:
    file = model(eps=1e-300)
    file.tensors["layers.0.norm.running_var"][:] = 0
    wide = {**file.tensors, "layers.0.norm.weight": np.full(7, 1e300)}
    with pytest.raises(ModelFileError, match=r"layers\.0 expected weights that float64 can hold once normalized"):
        Predictor(ModelFile(wide, file.network, file.schema, {}))


@pytest.mark.parametrize("placement", ["before", "after"])
def test_describe_names_the_layers_in_the_order_that_a_row_passes_them(placement: str) -> None:
    found = Predictor(model(placement=placement)).describe()
    json.dumps(found, allow_nan=False)
    norm, activation = ("norm", "activation") if placement == "before" else ("activation", "norm")
    hidden = [f"layers.{number}.{part}" for number in (0, 1) for part in ("linear", norm, activation)]
    assert [layer["name"] for layer in found["layers"]] == ["input_norm", *hidden, "head"]
    assert found["task"] == "classification"
    assert found["parameters"] == 5 * 7 + 2 * 7 + 7 * 4 + 2 * 4 + 4 * 3 + 3
    assert found["schema"] == number_schema(5, classes(3)).to_dict()
    assert found["trained"] == TRAINED


def test_describe_names_units_where_names_do() -> None:
    columns = (Column("length (cm)", "number", fill=1.0), Column("age", "number", fill=1.0))
    schema = Schema(columns, Target("price [EUR]", "number"))
    values = describe_schema(schema)
    assert [column.get("unit") for column in values["columns"]] == ["cm", None]
    assert values["target"]["unit"] == "EUR"


def test_describe_holds_the_statistics_of_each_norm() -> None:
    file = model()
    layer = next(layer for layer in Predictor(file).describe()["layers"] if layer["name"] == "layers.1.norm")
    assert (layer["kind"], layer["eps"], layer["batches"]) == ("BatchNorm1d", 1e-5, 1234)
    for name, tensor in [("gamma", "weight"), ("beta", "bias"), ("running_mean",) * 2, ("running_var",) * 2]:
        expected = file.tensors[f"layers.1.norm.{tensor}"].astype(np.float64)
        assert layer[name]["values"] == expected.tolist()
        assert layer[name]["min"] == expected.min()
        assert layer[name]["mean"] == pytest.approx(expected.mean())


def test_describe_of_a_regression_without_norm_has_biases_and_units() -> None:
    found = Predictor(model(regression=True, norm=None, input_norm=False)).describe()
    assert found["task"] == "regression"
    assert [layer["kind"] for layer in found["layers"]][:2] == ["Linear", "relu"]
    assert found["layers"][0]["bias"]["shape"] == [7]
    assert found["layers"][0]["weight"]["shape"] == [7, 5]
    assert "values" not in found["layers"][0]["weight"]
    assert found["layers"][-1]["name"] == "target"


def test_predictor_import_loads_neither_torch_nor_scipy_nor_polars() -> None:
    code = "import sys, batchnorm.predictor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "polars", "sklearn", "scipy", "pandas", "plotly", "rich", "typer"} & set(loaded)
