"""What a predictor tells of its model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.model_cases import TRAINED, classes, model, number_schema

from batchnorm.data.column import Column, Target
from batchnorm.data.schema import Schema
from batchnorm.predictor import Predictor
from batchnorm.predictor.description import describe_schema


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
