"""The estimators' parameters: checked under scikit-learn's names, and said in the words of `training.Settings`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from batchnorm.errors import SettingsError, quoted
from batchnorm.training.settings import ACTIVATIONS, LEARNING_RATES, Settings

AUTO_ROWS = 200  # batch_size="auto", as in scikit-learn

SOLVERS = {"adam": "adam", "sgd": "gd", "momentum": "momentum", "rmsprop": "rmsprop"}
# What makes one network another: no later fit can go on with it once one of these has changed.
_OF_THE_NETWORK = ("hidden", "activation", "norm", "placement", "momentum", "eps", "dropout", "input_norm")
_AS_PARAMETER = {"hidden": "hidden_layer_sizes"}


def check(parameters: Mapping[str, Any]) -> None:
    """Raise SettingsError for the first parameter that makes no sense.

    >>> check({"alpha": -1})
    Traceback (most recent call last):
    batchnorm.errors.SettingsError: alpha expected a number >= 0, got -1
    """
    for name, value in parameters.items():
        holds, expected = _RULES.get(name, (_anything, ""))
        if not holds(value):
            raise SettingsError(f"{name} expected {expected}, got {quoted(value)}", setting=name)


def settings_of(
    parameters: Mapping[str, Any],
    *,
    rows: int,
    seed: int,
    class_weight: tuple[float, ...] | None,
    epochs: int | None = None,
) -> Settings:
    """What checked parameters mean for training.

    Args:
        rows: of training, for batch_size="auto".
        seed: drawn from random_state.
        class_weight: one for each class number.
        epochs: instead of max_iter.

    Raises:
        SettingsError: parameters that make sense alone do not make sense together.
    """
    p = parameters
    rate = p["learning_rate_init"]
    return Settings(
        hidden=_sizes(p["hidden_layer_sizes"]),
        activation=_activation(p["activation"]),
        placement=p["placement"],
        norm=p["norm"],
        input_norm=bool(p["input_norm"]),
        eps=float(p["eps"]),
        momentum=float(p["momentum"]),
        warm_statistics=True,
        dropout=float(p["dropout"]),
        weight_decay=float(p["alpha"]),
        optimizer=SOLVERS[p["solver"]],  # type: ignore[arg-type]
        learning_rate=None if rate is None else float(rate),
        batch_size=max(2, min(AUTO_ROWS, rows)) if is_auto(p["batch_size"]) else int(p["batch_size"]),
        epochs=int(p["max_iter"]) if epochs is None else epochs,
        patience=None,
        class_weight=class_weight,
        seed=seed,
        device=p["device"],
    )


def is_auto(batch_size: object) -> bool:
    """Whether the number of rows of a batch is left to us."""
    return isinstance(batch_size, str)


def refuse_another_network(before: Settings, now: Settings) -> None:
    """Raise SettingsError where a trained network cannot go on because a parameter asks for another one."""
    for field in fields(Settings):
        if field.name in _OF_THE_NETWORK and getattr(before, field.name) != getattr(now, field.name):
            name = _AS_PARAMETER.get(field.name, field.name)
            raise SettingsError(
                f"{name} expected {getattr(before, field.name)!r} as in the last fit, whose network is trained on, got "
                f"{getattr(now, field.name)!r}: set it back, or fit anew with warm_start=False"
            )


def _sizes(value: Any) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, Integral) else tuple(int(size) for size in value)


def _activation(name: str) -> str:
    return "sigmoid" if name == "logistic" else str(name)


def _anything(_: object) -> bool:
    return True


def _are_sizes(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    sizes = tuple(value) if isinstance(value, Iterable) else (value,)
    return all(_is_whole(size) and int(size) >= 1 for size in sizes)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not _is_bool(value)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _number(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, Real) and not _is_bool(v) and math.isfinite(v) and holds(float(v))


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda v: _is_whole(v) and int(v) >= least


def _one_of(*names: str | None) -> Callable[[Any], bool]:
    return lambda v: (v is None and None in names) or (isinstance(v, str) and v in names)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_layer_sizes": (_are_sizes, "whole numbers >= 1, such as (100, 100)"),
    "activation": (_one_of(*ACTIVATIONS, "logistic"), f"one of {', '.join(ACTIVATIONS)}"),
    "norm": (_one_of("batch", None), "'batch' or None"),
    "placement": (_one_of("before", "after"), "'before' or 'after'"),
    "momentum": (_number(lambda v: 0 <= v <= 1), "a number in [0, 1], the weight of the new batch"),
    "eps": (_number(lambda v: v > 0), "a number > 0"),
    "input_norm": (_is_bool, "True or False"),
    "dropout": (_number(lambda v: 0 <= v < 1), "a number in [0, 1)"),
    "solver": (_one_of(*SOLVERS), f"one of {', '.join(SOLVERS)}"),
    "alpha": (_number(lambda v: v >= 0), "a number >= 0"),
    "batch_size": (lambda v: v == "auto" if isinstance(v, str) else _whole(1)(v), "'auto' or a whole number >= 1"),
    "learning_rate_init": (lambda v: v is None or _number(lambda r: r > 0)(v), "None or a number > 0"),
    "max_iter": (_whole(1), "a whole number >= 1"),
    "early_stopping": (_is_bool, "True or False"),
    "validation_fraction": (_number(lambda v: 0 < v < 1), "a number between 0 and 1"),
    "n_iter_no_change": (_whole(1), "a whole number >= 1"),
    "tol": (_number(lambda v: v >= 0), "a number >= 0"),
    "class_weight": (
        lambda v: v is None or v == "balanced" if isinstance(v, str | None) else isinstance(v, Mapping),
        "None, 'balanced' or a dict from classes to weights",
    ),
    "verbose": (lambda v: _is_bool(v) or _whole(0)(v), "True, False or a whole number >= 0"),
    "warm_start": (_is_bool, "True or False"),
    "device": (lambda v: isinstance(v, str), "'cpu', 'auto' or the name of a torch device"),
}

assert set(SOLVERS.values()) == set(LEARNING_RATES)
