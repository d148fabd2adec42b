"""A fitted estimator pickled, copied, saved as a model file, or changed by hand."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.estimators.problems import DIABETES, IRIS, classifier, raw, regressor

import batchnorm

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
BOTH = pytest.mark.parametrize(("make", "problem"), [(classifier, IRIS), (regressor, DIABETES)])
CHOICES = [{}, {"norm": None}, {"placement": "after", "input_norm": False}, {"hidden_layer_sizes": ()}]


@BOTH
@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copied_estimator_predicts_the_same_and_goes_on_alike(make: Any, problem: Any, way: Any) -> None:
    x, y = problem
    model = make().fit(x, y)
    model.predict(x)
    other = way(model)
    assert (raw(other, x) == raw(model, x)).all()
    assert (raw(other.partial_fit(x, y), x) == raw(model.partial_fit(x, y), x)).all()


def test_pickle_holds_none_of_the_rows() -> None:
    x, y = DIABETES
    few, many = regressor().fit(x, y), regressor().fit(np.tile(x, (50, 1)), np.tile(y, 50))
    many.predict(x)
    assert abs(len(pickle.dumps(few)) - len(pickle.dumps(many))) < 1000


@BOTH
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saved_estimator_predicts_bitwise_the_same(
    make: Any, problem: Any, choice: dict[str, Any], dtype: Any, tmp_path: Any
) -> None:
    x, y = problem[0].astype(dtype), problem[1]
    model = make(**choice).fit(x, y)
    batchnorm.save(model, tmp_path / "model.safetensors")
    loaded = batchnorm.load(tmp_path / "model.safetensors")
    assert (loaded.predict(x) == model.predict(x)).all()
    if make is classifier:
        assert (loaded.predict_proba(x) == model.predict_proba(x)).all()


@BOTH
def test_model_file_agrees_with_the_torch_module(make: Any, problem: Any) -> None:
    x, y = problem
    model = make().fit(x, y)
    with torch.no_grad():
        scores = model.network_(torch.from_numpy(x))
    if make is classifier:
        np.testing.assert_allclose(model.predict_proba(x), scores.softmax(1).numpy(), rtol=1e-6)
    else:
        np.testing.assert_allclose(model.predict(x), scores[:, 0].numpy() * y.std() + y.mean(), rtol=1e-6)


def test_model_file_has_the_names_of_the_columns() -> None:
    x, y = IRIS
    named = pd.DataFrame(x, columns=["sepal length", "sepal width", "y", "y_"])
    schema = classifier().fit(named, y).model_file.schema
    assert schema.names == tuple(named.columns)
    assert (schema.header, schema.target.name, schema.target.classes) == (True, "y__", (0, 1, 2))
    unnamed = classifier().fit(x, y).model_file.schema
    assert unnamed.names == ("x0", "x1", "x2", "x3")
    assert (unnamed.header, unnamed.target.name) == (False, "y")


def test_loaded_model_takes_records_by_name(tmp_path: Any) -> None:
    x, y = IRIS
    table = pd.DataFrame(x, columns=list("abcd"))
    model = classifier().fit(table, y)
    batchnorm.save(model, tmp_path / "model.safetensors")
    loaded = batchnorm.load(tmp_path / "model.safetensors")
    record = dict(zip("dcba", x[0, ::-1], strict=True))
    assert loaded.predict_records([record, x[0].tolist()]).values.tolist() == model.predict(table[:1]).tolist() * 2
    missing = loaded.predict_records([record | {"a": None}, record | {"a": x[:, 0].mean()}]).probabilities
    np.testing.assert_allclose(missing[0], missing[1])


@BOTH
def test_notes_of_a_model_file_are_json_and_say_how(make: Any, problem: Any) -> None:
    model = make().fit(*problem)
    notes = json.loads(json.dumps(dict(model.model_file.trained), allow_nan=False))
    assert notes["estimator"] == type(model).__name__
    assert notes["settings"]["hidden"] == [8]
    assert notes["epochs"] == 20


@BOTH
def test_predictions_follow_a_network_changed_in_place(make: Any, problem: Any) -> None:
    x, y = problem
    model = make().fit(x, y)
    said = raw(model, x)
    with torch.no_grad():
        model.network_.head.bias[0] += 1
    assert (raw(model, x) != said).all()
    with torch.no_grad():
        model.network_.head.bias[0] -= 1
    np.testing.assert_allclose(raw(model, x), said)
    model.network_.head.bias = torch.nn.Parameter(2 * model.network_.head.bias.detach() + 1)
    assert (raw(model, x) != said).any()


@BOTH
def test_fitted_network_is_at_rest(make: Any, problem: Any) -> None:
    network = make().fit(*problem).network_
    assert not network.training
    assert all(p.grad is None for p in network.parameters())
