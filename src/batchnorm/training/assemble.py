"""From encoded rows and settings to a run that is ready to turn, and from a trained run to a model file's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.errors import SettingsError
from batchnorm.moments import Moments
from batchnorm.model_file import NetworkSpec
from batchnorm.nn import InputNorm
from batchnorm.training.loop import own_randomness
from batchnorm.training.network import Network
from batchnorm.training.objective import Objective, Task
from batchnorm.training.run import Rows, Run
from batchnorm.training.settings import Settings

Array = NDArray[np.generic]


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


@dataclass(frozen=True)
class Assembly:
    """A run with what is needed to hand it further rows and to read its scores.

    Attributes:
        run: ready to turn.
        target: mean and standard deviation of the training targets in regression; (0, 1) in classification.
    """

    run: Run
    target: tuple[float, float]

    @property
    def network(self) -> Network:
        """The network that the run trains."""
        return self.run.network

    def rows(self, examples: Examples) -> Rows:
        """`examples` normalized like the training rows, where the network is."""
        return _rows(examples, self.network, self.run.objective.task, self.target)


def assemble(
    train: Examples,
    valid: Examples | None,
    settings: Settings,
    *,
    task: Task,
    outputs: int,
    dtype: torch.dtype = torch.float32,
    traced: bool = True,
) -> Assembly:
    """Fit the input normalization, draw the network, and lay the rows out for training.

    Args:
        train: whose mean and standard deviation are used for all rows; rows of weight 0 are left out.
        valid: to judge by and stop early on; None or empty for neither.
        outputs: classes, or 1.
        dtype: of weights and activations.
        traced: whether the run looks at what enters its activations, which a report shows.

    Raises:
        SettingsError: fewer training rows than batch normalization needs; a device that is not there.
    """
    train = counted(train)
    device = find_device(settings.device)
    network = Network(train.x.shape[1], outputs, settings, input_norm=_input_norm(train, settings)).to(device, dtype)
    return carry_on(network, _target_scale(train, task), train, valid, settings, task=task, traced=traced)


def carry_on(
    network: Network,
    target: tuple[float, float],
    train: Examples,
    valid: Examples | None,
    settings: Settings,
    *,
    task: Task,
    traced: bool = True,
) -> Assembly:
    """Lay rows out for a network that exists; its input normalization stays as it is. Arguments as `assemble`.

    Args:
        network: on its device; it is trained in place.
        target: mean and standard deviation that targets are standardized by.
        settings: whose shape the network has.

    Raises:
        SettingsError: fewer training rows than batch normalization needs.
    """
    train = counted(train)
    if train.count < 2 and settings.norm == "batch" and settings.hidden:
        raise SettingsError(f"batch normalization expected at least 2 training rows, got n_samples={len(train)}")
    rows = _rows(train, network, task, target)
    valid_rows = _rows(valid, network, task, target) if valid is not None and len(valid) else None
    loss_weights = _loss_weights(rows, settings, task, network.head.out_features)
    run = Run(network, rows, valid_rows, Objective(task), settings, loss_weights=loss_weights, traced=traced)
    return Assembly(run, target)


def find_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" takes a GPU where there is one.

    Raises:
        SettingsError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(f"device expected auto, cpu or a device of this machine, got {name!r}") from error
    return device


def network_spec(network: Network, settings: Settings) -> NetworkSpec:
    """What a model file says of this network's shape."""
    return NetworkSpec(
        inputs=network.head.in_features if not settings.hidden else network.layers[0].linear.in_features,  # type: ignore[arg-type,union-attr]
        hidden=settings.hidden,
        outputs=network.head.out_features,
        activation=settings.activation,
        placement=settings.placement,
        norm=settings.norm,
        eps=settings.eps,
        input_norm=network.input_norm is not None,
        dropout=settings.dropout,
    )


def model_tensors(assembly: Assembly) -> dict[str, Array]:
    """The tensors of a model file: the network's state under torch's names, input and target scales in float64."""
    return network_tensors(assembly.network, assembly.target if assembly.run.objective.task == "regression" else None)


def network_tensors(network: Network, target: tuple[float, float] | None) -> dict[str, Array]:
    """The same of a network without its run. target: mean and standard deviation; None in classification."""
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("input_norm.")}
    tensors: dict[str, Array] = {k: v.detach().cpu().numpy().copy() for k, v in state.items()}
    if network.input_norm is not None:
        tensors["input_norm.mean"] = network.input_norm.mean.cpu().numpy().copy()
        tensors["input_norm.std"] = network.input_norm.std.cpu().numpy().copy()
    if target is not None:
        for name, value in zip(("mean", "std"), target, strict=True):
            tensors[f"target.{name}"] = np.array(value, dtype=np.float64)
    return tensors


def counted(train: Examples) -> Examples:
    """Without the rows that count for nothing; weights that are no whole numbers scaled to a mean of 1.

    Whole weights are repetitions and must add up to as many rows; any other scale says only how rows compare.

    Raises:
        SettingsError: no such weights, or none that counts; no rows at all.
    """
    if len(train) == 0:
        raise SettingsError("training expected at least one row, got none")
    if train.weights is None:
        return train
    weights = np.asarray(train.weights, dtype=np.float64)
    if weights.shape != (len(train),) or not np.isfinite(weights).all() or (weights < 0).any():
        raise SettingsError(f"sample_weight expected {len(train)} finite numbers >= 0, got shape {weights.shape}")
    kept = weights > 0
    if not kept.any():
        raise SettingsError("sample_weight expected at least one row that counts, got only zeros")
    weights = weights[kept]
    if not (weights == np.round(weights)).all():
        weights = weights / weights.mean()
    return Examples(train.x[kept], train.y[kept], None if (weights == 1).all() else weights)


def _input_norm(train: Examples, settings: Settings) -> InputNorm | None:
    features = train.x.shape[1]
    if settings.divide_by is not None:
        return InputNorm.from_constants(np.zeros(features), np.full(features, settings.divide_by))
    if not settings.input_norm:
        return None
    return InputNorm(features).fit(train.x, sample_weight=train.weights)


def _target_scale(train: Examples, task: Task) -> tuple[float, float]:
    if task == "classification":
        return 0.0, 1.0
    weights = None if train.weights is None else torch.from_numpy(np.asarray(train.weights, dtype=np.float64))
    moments = Moments.of(torch.from_numpy(np.asarray(train.y, dtype=np.float64)), dims=0, weights=weights)
    std = float(moments.variance().sqrt())
    return float(moments.mean), std if std > 0 else 1.0


def _rows(examples: Examples, network: Network, task: Task, target: tuple[float, float]) -> Rows:
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


def _loss_weights(rows: Rows, settings: Settings, task: Task, outputs: int) -> Tensor | None:
    """Row weights in the loss alone: each class the same in total with class_weight="balanced"."""
    if settings.class_weight is None:
        return None
    if task != "classification":
        raise SettingsError("class_weight expected a classification target, got a regression target")
    own = torch.ones_like(rows.y, dtype=rows.x.dtype) if rows.weights is None else rows.weights
    if isinstance(settings.class_weight, tuple):
        if len(settings.class_weight) != outputs:
            raise SettingsError(f"class_weight expected {outputs} numbers, got {len(settings.class_weight)}")
        return own * torch.tensor(settings.class_weight, dtype=own.dtype, device=own.device)[rows.y]
    per_class = torch.zeros(outputs, dtype=own.dtype, device=own.device).index_add_(0, rows.y, own)
    present = int((per_class > 0).sum())
    return own * (own.sum() / (present * per_class.clamp(min=1e-30)))[rows.y]


__all__ = [
    "Assembly",
    "Examples",
    "assemble",
    "carry_on",
    "counted",
    "find_device",
    "model_tensors",
    "network_spec",
    "network_tensors",
    "own_randomness",
]
