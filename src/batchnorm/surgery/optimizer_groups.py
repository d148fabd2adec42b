"""An optimizer that goes on after a model has lost parameters and got others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer


@dataclass(frozen=True, eq=False)
class Exchange:
    """Parameters that go and parameters that come in their place.

    Attributes:
        beside: the weight of the layer: the new ones join its group where none of those that go has one.
        gone: no longer in the model.
        new: by name, as in `model.named_parameters()`.
    """

    beside: nn.Parameter
    gone: tuple[nn.Parameter, ...] = ()
    new: Mapping[str, nn.Parameter] = field(default_factory=dict)


def check_optimizer(verb: str, optimizer: Any, model: nn.Module) -> None:
    """Raise for an optimizer that cannot be repaired.

    Raises:
        TypeError: no torch.optim.Optimizer.
        ValueError: it holds no parameter of the model; it keeps one state for all parameters.
    """
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{verb} expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"{verb} cannot repair LBFGS, which keeps one state for all parameters: make it anew afterwards"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ValueError(f"{verb} expected the model's optimizer, got one that holds none of its parameters")


def exchange(optimizer: Optimizer | None, changes: Iterable[Exchange]) -> None:
    """Take what is gone out of the groups and the state, and put what is new into the same groups.

    Groups keep their settings, order and number, so that learning rate schedulers go on.
    """
    if optimizer is None:
        return
    for change in changes:
        target = next(
            (group for p in (*change.gone, change.beside) if (group := _group_of(optimizer, p)) is not None), None
        )
        for parameter in change.gone:
            _remove(optimizer, parameter)
        if target is not None:
            target["params"].extend(change.new.values())
            if "param_names" in target:
                target["param_names"].extend(change.new)


def _group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    return next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)


def _remove(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    optimizer.state.pop(parameter, None)
    for group in optimizer.param_groups:
        positions = [number for number, p in enumerate(group["params"]) if p is parameter]
        for number in reversed(positions):
            del group["params"][number]
            if "param_names" in group:
                del group["param_names"][number]
