from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from batchnorm.errors import ModelFileError, SettingsError
from batchnorm.model_file.spec import MAX_VALUES, NetworkSpec, check_tensors, expected_tensors

SPEC = NetworkSpec(
    inputs=4, hidden=(3, 2), outputs=2, activation="tanh", placement="after", norm="batch", eps=1e-5, input_norm=True
)


@pytest.mark.parametrize("changes", [{}, {"norm": None}, {"hidden": ()}, {"input_norm": False, "dropout": 0.5}])
def test_network_spec_to_dict_and_back_is_the_same(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **changes)
    assert NetworkSpec.from_dict(spec.to_dict()) == spec


def test_network_spec_takes_a_list_and_numpy_integers_as_sizes() -> None:
    spec = replace(SPEC, hidden=[np.int64(3), 2], inputs=np.int32(4))  # type: ignore[arg-type]
    assert spec == SPEC
    assert type(spec.hidden[0]) is type(spec.inputs) is int


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": 0}, "inputs expected a whole number from 1"),
        ({"inputs": True}, "inputs expected a whole number"),
        ({"inputs": 2.0}, "inputs expected a whole number"),
        ({"outputs": -1}, "outputs expected a whole number"),
        ({"hidden": (3, -2)}, "each hidden size expected a whole number .* got -2"),
        ({"hidden": "33"}, "hidden expected up to 1000 sizes"),
        ({"hidden": (1,) * 1001}, "hidden expected up to 1000 sizes"),
        ({"hidden": (MAX_VALUES, MAX_VALUES)}, "expected at most 1,073,741,824 weights"),
        ({"activation": "Relu"}, "activation expected one of relu, .* got 'Relu'"),
        ({"activation": ["relu"]}, "activation expected one of"),
        ({"placement": "between"}, "placement expected one of before, after"),
        ({"norm": "layer"}, "norm expected one of batch, None"),
        ({"input_norm": 1}, "input_norm expected one of True, False"),
        ({"eps": 0}, "eps expected a number above 0, got 0"),
        ({"eps": math.nan}, "eps expected a number above 0"),
        ({"eps": math.inf}, "eps expected a number above 0"),
        ({"eps": 10**400}, "eps expected a number above 0"),
        ({"eps": "1e-5"}, "eps expected a number above 0"),
        ({"dropout": 1}, "dropout expected a number from 0 to below 1"),
        ({"dropout": False}, "dropout expected a number"),
    ],
)
def test_network_spec_with_an_impossible_value_says_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(SPEC, **changes)


@pytest.mark.parametrize("values", [None, [], {}, {**SPEC.to_dict(), "more": 1}, {"inputs": 3}])
def test_network_spec_from_dict_with_other_keys_is_refused(values: object) -> None:
    with pytest.raises(SettingsError, match="a network expected exactly activation, dropout, eps"):
        NetworkSpec.from_dict(values)


def test_expected_tensors_of_a_network_without_norm_has_biases_and_no_statistics() -> None:
    names = set(expected_tensors(replace(SPEC, norm=None, input_norm=False), regression=False))
    layers = {f"layers.{number}.linear.{name}" for number in (0, 1) for name in ("weight", "bias")}
    assert names == layers | {"head.weight", "head.bias"}


def test_check_tensors_names_the_first_tensor_that_does_not_fit() -> None:
    right = {
        name: (tensor.dtypes[0], tensor.shape) for name, tensor in expected_tensors(SPEC, regression=False).items()
    }
    assert check_tensors(right, SPEC, regression=False) == expected_tensors(SPEC, regression=False)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"head.bias": None}, "'head.bias' is missing"),
        ({"extra": ("float32", (1,))}, "'extra' does not belong"),
        ({"head.bias": ("float32", (3,))}, r"'head.bias' expected shape \(2,\), got \(3,\)"),
        ({"head.bias": ("float32", (2.0,))}, r"'head.bias' expected shape \(2,\), got \(2.0,\)"),
        ({"head.bias": ("int64", (2,))}, "'head.bias' expected dtype float32 or float64, got 'int64'"),
        ({"input_norm.std": ("float32", (4,))}, "'input_norm.std' expected dtype float64, got 'float32'"),
    ]
    for changes, message in wrong:
        found = {name: entry for name, entry in {**right, **changes}.items() if entry is not None}
        with pytest.raises(ModelFileError, match=message):
            check_tensors(found, SPEC, regression=False)
