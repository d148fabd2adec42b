"""Every choice is checked when it is made, and the message says which, what was expected and what came."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from batchnorm.errors import SettingsError
from batchnorm.training.settings import ACTIVATIONS, LEARNING_RATES, Settings

NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"hidden": (10, 0)}, r"hidden expected sizes >= 1, such as 100,100, got \(10, 0\)"),
    ({"hidden": (-3,)}, "hidden expected sizes >= 1"),
    ({"activation": "softplus"}, "activation expected one of relu, leaky_relu, .*, got softplus"),
    ({"placement": "around"}, "placement expected before or after, got around"),
    ({"norm": "layer"}, "norm expected batch or none, got layer"),
    ({"optimizer": "lion"}, "optimizer expected one of gd, momentum, rmsprop, adam, got lion"),
    ({"class_weight": "fair"}, "class_weight expected balanced or none"),
    ({"class_weight": (1.0, -1.0)}, "class_weight expected"),
    ({"class_weight": (1.0, math.nan)}, "class_weight expected"),
    ({"class_weight": ()}, "class_weight expected"),
    *(({"eps": value}, "eps expected a number > 0") for value in (0.0, -1e-5, math.nan, math.inf)),
    *(({"momentum": value}, r"momentum expected a number in \[0, 1\]") for value in (-0.1, 1.1, math.nan)),
    *(({"dropout": value}, r"dropout expected a number in \[0, 1\)") for value in (-0.1, 1.0, math.nan)),
    *(({"weight_decay": value}, "weight_decay expected a number >= 0") for value in (-1.0, math.nan, math.inf)),
    *(
        ({name: value, "input_norm": False}, f"{name} expected a number > 0")
        for name in ("weight_scale", "learning_rate", "divide_by")
        for value in (0.0, -1.0, math.nan, math.inf)
    ),
    ({"batch_size": 1}, r"batch_size expected at least 2 \(a batch of one row has no variance\), got 1"),
    ({"batch_size": 0, "norm": None}, "batch_size expected at least 1, got 0"),
    ({"batch_size": -60}, "batch_size expected at least 2"),
    *(
        ({name: value}, f"{name} expected a whole number >= 1, got {value}")
        for name in ("epochs", "steps", "patience", "evaluate_every")
        for value in (0, -1)
    ),
    ({"epochs": None}, "epochs expected a whole number >= 1, got None"),
    ({"seed": -1}, "seed expected a whole number in"),
    ({"seed": 2**32}, "seed expected a whole number in"),
    *(
        ({"divide_by": value, "input_norm": False}, "divide_by expected a number from 1e-150 to 1e150")
        for value in (1e-200, 1e300)
    ),
    ({"hidden": (0,) * 10_000}, r"hidden expected sizes >= 1, .{50,90}…$"),
    ({"activation": "x" * 10_000}, "activation expected one of .*, got x{40}…$"),
    ({"divide_by": 16.0}, r"divide_by expected input_norm off \(--no-input-norm\)"),
]


@pytest.mark.parametrize(("nonsense", "message"), NONSENSE, ids=lambda value: str(value)[:60])
def test_nonsense_is_refused_by_name(nonsense: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Settings(**nonsense)
    assert str(caught.value.called("--name")).startswith("--name expected ")


@pytest.mark.parametrize(
    "unusual",
    [
        {"hidden": ()},
        {"hidden": (1,)},
        {"batch_size": 1, "norm": None},
        {"batch_size": 1, "hidden": ()},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"dropout": 0.999},
        {"steps": 1, "patience": None, "evaluate_every": None},
        {"class_weight": (1.0, 0.0)},
        {"seed": 2**32 - 1},
        {"divide_by": 255.0, "input_norm": False},
    ],
    ids=str,
)
def test_the_unusual_is_allowed(unusual: dict[str, Any]) -> None:
    Settings(**unusual)


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_each_optimizer_brings_its_learning_rate(name: Any) -> None:
    assert Settings(optimizer=name).rate == LEARNING_RATES[name]
    assert Settings(optimizer=name, learning_rate=0.25).rate == 0.25


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_to_dict_is_strict_json_with_the_rate_in_force(activation: str) -> None:
    settings = Settings(activation=activation, optimizer="rmsprop", class_weight=(1.0, 2.0))
    values = settings.to_dict()
    assert values["learning_rate"] == 0.001
    again = Settings(
        **json.loads(json.dumps(values, allow_nan=False)) | {"hidden": settings.hidden, "class_weight": (1.0, 2.0)}
    )
    assert again.to_dict() == values
