"""Rows as they come from a table, and as a network takes them: counted, normalized, standardized, weighed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.errors import DataError, SettingsError
from batchnorm.moments import Moments
from batchnorm.training.network import Network
from batchnorm.training.objective import Task
from batchnorm.training.run import Rows
from batchnorm.training.settings import Settings

Array = NDArray[Any]

LARGEST = 1e150
"""Numbers whose squares float64 can hold, with room for their sums."""
_MOST_COPIES = 2.0**53  # more cannot be counted one by one in float64


@dataclass(frozen=True)
class Examples:
    """Encoded rows as they come from a table. x: (N, F); y: (N,) class numbers or targets; weights: (N,) or None."""

    x: Array
    y: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def count(self) -> float:
        """How many rows they stand for."""
        return float(len(self) if self.weights is None else self.weights.sum())


def refuse_huge(values: Array, what: str, *, remedy: str, numbers: Array | None = None) -> None:
    """Raise DataError where a number's square would overflow float64.

    Args:
        values: (N,) finite numbers.
        what: they are, for the message.
        remedy: what to do about it.
        numbers: (N,) what the source calls each row.
    """
    largest = max(float(values.max()), -float(values.min()))
    if largest > LARGEST:
        row = int(np.argmax(np.abs(values)))
        where = "" if numbers is None else f" in row {numbers[row]}"
        raise DataError(
            f"{what} expected numbers up to {LARGEST:g}, whose squares can be computed with, got {values[row]:g}{where}"
            f": {remedy}"
        )


def refuse_vanishing(targets: Array, what: str) -> None:
    """Raise DataError where targets are not all the same, but the square of their differences is: 0 in float64.

    Args:
        targets: (N,) finite numbers.
        what: they are, for the message.
    """
    spread = float(targets.max()) - float(targets.min())
    if 0 < spread < 1 / LARGEST:
        raise DataError(
            f"{what} expected numbers that differ by {1 / LARGEST:g} or more, whose squares can be computed with, got "
            f"differences up to {spread:g}: change the unit"
        )


def counted(train: Examples) -> Examples:
    """Without the rows that count for nothing; weights that are no whole numbers scaled to a mean of 1.

    Whole weights are repetitions and must add up to as many rows; any other scale says only how rows compare.

    Raises:
        SettingsError: no such weights, none that counts, or more repetitions than can be counted; no rows at all.
    """
    if len(train) == 0:
        raise SettingsError("training expected at least one row, got none")
    if train.weights is None:
        return train
    weights = np.asarray(train.weights, dtype=np.float64)
    if weights.shape != (len(train),) or not np.isfinite(weights).all() or (weights < 0).any():
        raise SettingsError(
            f"sample_weight expected {len(train)} finite numbers >= 0, got shape {weights.shape}",
            setting="sample_weight",
        )
    kept = weights > 0
    if not kept.any():
        raise SettingsError(
            "sample_weight expected at least one row that counts, got only zeros", setting="sample_weight"
        )
    weights = weights[kept]
    if not (weights == np.round(weights)).all():
        weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))  # changes no digit, and their sum is finite
        weights = weights / weights.mean()
    elif float(weights.max()) > _MOST_COPIES / len(weights):
        raise SettingsError(
            "sample_weight expected whole numbers, which repeat rows, to add up to less than 2**53, got "
            f"{weights.max():g} among them: divide all by one number, so that they only say how rows compare",
            setting="sample_weight",
        )
    return Examples(train.x[kept], train.y[kept], None if (weights == 1).all() else weights)


def target_scale(train: Examples, task: Task) -> tuple[float, float]:
    """Mean and standard deviation of the training targets; a constant target keeps its units, classes have (0, 1)."""
    if task == "classification":
        return 0.0, 1.0
    weights = None if train.weights is None else torch.from_numpy(np.asarray(train.weights, dtype=np.float64))
    moments = Moments.of(torch.from_numpy(np.asarray(train.y, dtype=np.float64)), dims=0, weights=weights)
    std = float(moments.variance().sqrt())
    return float(moments.mean), std if std > 0 else 1.0


def lay_out(examples: Examples, network: Network, task: Task, target: tuple[float, float]) -> Rows:
    """`examples` where `network` is, inputs normalized as it does, targets standardized by `target`."""
    weight = network.head.weight
    x = torch.from_numpy(np.require(examples.x, requirements=["C", "W"]))
    x = x if x.is_floating_point() else x.double()
    if network.input_norm is not None:
        x = network.input_norm(x.to(weight.device).to(torch.float64 if x.dtype == torch.float64 else x.dtype))
    x = x.to(weight.device, weight.dtype)
    if task == "classification":
        y = torch.from_numpy(np.asarray(examples.y, dtype=np.int64))
    else:
        mean, std = target
        y = torch.from_numpy((np.asarray(examples.y, dtype=np.float64) - mean) / std).to(weight.dtype)
    weights = None
    if examples.weights is not None:
        weights = torch.from_numpy(np.asarray(examples.weights, dtype=np.float64)).to(weight.device, weight.dtype)
    return Rows(x, y.to(weight.device), weights)


def refuse_class_weight(settings: Settings, *, task: Task, outputs: int) -> None:
    """Raise SettingsError where there are no classes to weigh, or not so many."""
    if settings.class_weight is None:
        return
    if task != "classification":
        raise SettingsError(
            "class_weight expected a classification target, got a regression target", setting="class_weight"
        )
    if isinstance(settings.class_weight, tuple) and len(settings.class_weight) != outputs:
        raise SettingsError(
            f"class_weight expected {outputs} numbers, got {len(settings.class_weight)}", setting="class_weight"
        )


def row_losses(rows: Rows, settings: Settings, outputs: int) -> Tensor | None:
    """How much each row weighs in the loss alone, (N,): each class the same in total with class_weight="balanced"."""
    if settings.class_weight is None:
        return None
    own = torch.ones_like(rows.y, dtype=rows.x.dtype) if rows.weights is None else rows.weights
    if isinstance(settings.class_weight, tuple):
        return own * torch.tensor(settings.class_weight, dtype=own.dtype, device=own.device)[rows.y]
    per_class = torch.zeros(outputs, dtype=own.dtype, device=own.device).index_add_(0, rows.y, own)
    present = int((per_class > 0).sum())
    return own * (own.sum() / (present * per_class.clamp(min=1e-30)))[rows.y]
