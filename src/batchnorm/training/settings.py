"""What a network and its training are made of: every choice a user has, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from batchnorm.errors import SettingsError, clipped

Optimizer = Literal["gd", "momentum", "rmsprop", "adam"]

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")
LEARNING_RATES: dict[str, float] = {"gd": 0.1, "momentum": 0.02, "rmsprop": 0.001, "adam": 0.003}


@dataclass(frozen=True)
class Settings:
    """Everything that decides, with the data, what a training run computes.

    Attributes:
        hidden: neurons per hidden layer; none at all is logistic or linear regression.
        activation: of every hidden layer.
        placement: normalization "before" the activation, on z, or "after" it, on a.
        norm: "batch", or None for the same network without (then with biases).
        input_norm: normalize the inputs by the training rows' mean and standard deviation.
        divide_by: divide the inputs by a constant instead; only with input_norm=False.
        eps, momentum: the layers'; momentum is the weight of the new batch.
        warm_statistics: the running statistics begin as the plain average of the first 1 / momentum batches, instead of
            with mean 0 and variance 1, so that a network can be judged and used from its first steps on.
        weight_scale: standard deviation of the initial weights; None: sqrt(gain / inputs) per layer.
        dropout: share of each hidden layer's outputs dropped in training, in [0, 1).
        weight_decay: L2, on weights only: never on gamma, beta or biases.
        optimizer: "gd" (plain gradient descent), "momentum" (0.9), "rmsprop", "adam".
        learning_rate: None: the optimizer's usual one.
        batch_size: rows per step; a last batch of one row joins the one before it.
        epochs: passes over the training rows.
        steps: a number of steps instead; overrides `epochs`.
        patience: stop after this many evaluations without improvement; None: never.
        evaluate_every: steps between evaluations; None: once an epoch.
        class_weight: "balanced": each class weighs the same in the loss; or how much a row of each class weighs, in the
            order of the class numbers.
        seed: of initial weights, shuffling and dropout.
        device: "auto", or a torch device.
    """

    hidden: tuple[int, ...] = (100, 100, 100)
    activation: str = "relu"
    placement: Literal["before", "after"] = "before"
    norm: Literal["batch"] | None = "batch"
    input_norm: bool = True
    divide_by: float | None = None
    eps: float = 1e-5
    momentum: float = 0.1
    warm_statistics: bool = False
    weight_scale: float | None = None
    dropout: float = 0.0
    weight_decay: float = 0.0
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None
    batch_size: int = 64
    epochs: int = 100
    steps: int | None = None
    patience: int | None = 20
    evaluate_every: int | None = None
    class_weight: Literal["balanced"] | tuple[float, ...] | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise SettingsError for the first choice that makes no sense."""
        for size in self.hidden:
            _require(size >= 1, "hidden", "sizes >= 1, such as 100,100", self.hidden)
        _require(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", self.activation)
        _require(self.placement in ("before", "after"), "placement", "before or after", self.placement)
        _require(self.norm in ("batch", None), "norm", "batch or none", self.norm)
        _require(self.optimizer in LEARNING_RATES, "optimizer", f"one of {', '.join(LEARNING_RATES)}", self.optimizer)
        _require(_is_class_weight(self.class_weight), "class_weight", "balanced or none", self.class_weight)
        _require(math.isfinite(self.eps) and self.eps > 0, "eps", "a number > 0", self.eps)
        _require(0 <= self.momentum <= 1, "momentum", "a number in [0, 1], the weight of the new batch", self.momentum)
        _require(0 <= self.dropout < 1, "dropout", "a number in [0, 1)", self.dropout)
        _require(
            _finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "a number >= 0", self.weight_decay
        )
        for name in ("weight_scale", "learning_rate", "divide_by"):
            value = getattr(self, name)
            _require(value is None or (_finite(value) and value > 0), name, "a number > 0", value)
        squarable = self.divide_by is None or 1e-150 <= self.divide_by <= 1e150
        _require(squarable, "divide_by", "a number from 1e-150 to 1e150, whose square can be held", self.divide_by)
        least = 2 if self.norm == "batch" and self.hidden else 1
        hint = " (a batch of one row has no variance)" if least == 2 else ""
        _require(self.batch_size >= least, "batch_size", f"at least {least}{hint}", self.batch_size)
        for name in ("epochs", "steps", "patience", "evaluate_every"):
            value = getattr(self, name)
            optional = value is None and name != "epochs"
            _require(optional or (value is not None and value >= 1), name, "a whole number >= 1", value)
        _require(0 <= self.seed < 2**32, "seed", "a whole number in [0, 2**32)", self.seed)
        if self.input_norm and self.divide_by is not None:
            raise SettingsError(
                "divide_by expected input_norm off (--no-input-norm): a normalized input has no scale to divide away",
                setting="divide_by",
            )

    @property
    def rate(self) -> float:
        """The learning rate in force."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the learning rate as it is in force."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"hidden": list(self.hidden), "learning_rate": self.rate}


def _is_class_weight(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) > 0 and all(_finite(weight) and weight >= 0 for weight in value)
    return value in (None, "balanced")


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise SettingsError(f"{name} expected {expected}, got {clipped(str(got))}", setting=name)
