"""What `inspect` shows of a model file, to a person and to a program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.program import batchnorm, tensors_of


def test_a_person_sees_layers_schema_and_training(house_model: Path) -> None:
    answer = batchnorm("inspect", house_model)
    assert (answer.code, answer.err) == (0, "")
    for said in (
        *("InputNorm", "BatchNorm1d", "gamma", "beta", "running_mean", "running_var", "12x7", "relu"),
        *("predicts price: a number", "area", "garden", "boolean", "category", "Bonn, Köln, Ulm"),
        *("houses.csv", "optimizer", "adam", "seed: 0", "R2", "torch 2."),
    ):
        assert said in answer.out, said
    assert "\x1b" not in answer.out


def test_a_program_gets_everything_as_one_strict_json_value(wine_model: Path) -> None:
    answer = batchnorm("inspect", wine_model, "--json")
    assert (answer.code, answer.err) == (0, "")
    said = answer.json
    assert said["task"] == "classification"
    assert said["schema"]["target"]["classes"] == ["class_0", "class_1", "class_2"]
    assert said["trained"]["settings"]["optimizer"] == "adam"
    tensors = tensors_of(wine_model.parent)
    norm = next(layer for layer in said["layers"] if layer["kind"] == "BatchNorm1d")
    for shown, stored in (("gamma", "weight"), ("beta", "bias"), ("running_mean",) * 2, ("running_var",) * 2):
        np.testing.assert_array_equal(norm[shown]["values"], tensors[f"layers.0.norm.{stored}"].astype(np.float64))
    learnt = sum(t.size for name, t in tensors.items() if name.endswith(("weight", "bias")))
    assert said["parameters"] == learnt


@pytest.mark.parametrize("options", [("--hidden", "none"), ("--norm", "none"), ("--no-input-norm",)], ids=" ".join)
def test_networks_of_any_shape_can_be_inspected(options: tuple[str, ...]) -> None:
    assert batchnorm("train", "diabetes", "--epochs", "1", *options, "--out", "run").code == 0
    assert batchnorm("inspect", "run/model.safetensors").code == 0
    assert batchnorm("inspect", "run/model.safetensors", "--json").json["task"] == "regression"
