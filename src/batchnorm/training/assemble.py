"""From encoded rows and settings to a run that is ready to turn, and from a trained run to a model file's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from batchnorm.errors import SettingsError, quoted
from batchnorm.model_file import NetworkSpec
from batchnorm.nn import InputNorm
from batchnorm.training.examples import Array, Examples, counted, lay_out, refuse_class_weight, row_losses, target_scale
from batchnorm.training.loop import own_randomness
from batchnorm.training.network import Network
from batchnorm.training.objective import Objective, Task
from batchnorm.training.run import Rows, Run
from batchnorm.training.settings import Settings


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
        return lay_out(examples, self.network, self.run.objective.task, self.target)


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
    refuse_misfits(train, settings, task=task, outputs=outputs)  # sizes beyond all memory, before they are drawn
    device = find_device(settings.device)
    network = Network(train.x.shape[1], outputs, settings, input_norm=_input_norm(train, settings)).to(device, dtype)
    return carry_on(network, target_scale(train, task), train, valid, settings, task=task, traced=traced)


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
    outputs = network.head.out_features
    refuse_misfits(train, settings, task=task, outputs=outputs)
    rows = lay_out(train, network, task, target)
    valid_rows = lay_out(valid, network, task, target) if valid is not None and len(valid) else None
    weights = row_losses(rows, settings, outputs)
    run = Run(network, rows, valid_rows, Objective(task), settings, loss_weights=weights, traced=traced)
    return Assembly(run, target)


def refuse_misfits(train: Examples, settings: Settings, *, task: Task, outputs: int) -> None:
    """Raise SettingsError where settings and data, each fine in itself, do not go together."""
    if train.count < 2 and settings.norm == "batch" and settings.hidden:
        raise SettingsError(f"batch normalization expected at least 2 training rows, got n_samples={len(train)}")
    refuse_class_weight(settings, task=task, outputs=outputs)
    _spec(train.x.shape[1], outputs, settings)


def find_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" takes a GPU where there is one.

    Raises:
        SettingsError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" can hold it, not tell it
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's, each for another kind of name
        raise SettingsError(
            f"device expected auto, cpu or a device of this machine, got {quoted(name)}", setting="device"
        ) from error
    return device


def network_spec(network: Network, settings: Settings) -> NetworkSpec:
    """What a model file says of this network's shape."""
    first = network.layers[0].linear if settings.hidden else network.head
    assert isinstance(first, nn.Linear)
    return _spec(first.in_features, network.head.out_features, settings)


def _spec(inputs: int, outputs: int, settings: Settings) -> NetworkSpec:
    return NetworkSpec(
        inputs=inputs,
        hidden=settings.hidden,
        outputs=outputs,
        activation=settings.activation,
        placement=settings.placement,
        norm=settings.norm,
        eps=settings.eps,
        input_norm=settings.input_norm or settings.divide_by is not None,
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


def _input_norm(train: Examples, settings: Settings) -> InputNorm | None:
    features = train.x.shape[1]
    if settings.divide_by is not None:
        return InputNorm.from_constants(np.zeros(features), np.full(features, settings.divide_by))
    if not settings.input_norm:
        return None
    return InputNorm(features).fit(train.x, sample_weight=train.weights)


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
