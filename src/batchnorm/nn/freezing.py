"""The mark of a frozen batch norm layer: it keeps the layer at test time, and knows the way back.

A frozen layer stays the same object of the same class, with the same parameters and buffers: what is added are
attributes of the object alone, which deep copies and pickles take along and state_dict does not know. A layer that is
not frozen carries nothing and pays nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from batchnorm.errors import StatisticsWarning

_MARK = "_frozen"  # in vars(layer)


@dataclass
class Mark:
    """What is frozen of a layer, and what it was before.

    Attributes:
        requires_grad: of each frozen parameter, by name, before; None where parameters are not frozen.
        mode: which mode train() was last asked for; None where statistics are not frozen.
        covered: attributes of the object itself that those of a frozen layer cover.
    """

    requires_grad: dict[str, bool] | None = None
    mode: bool | None = None
    covered: dict[str, Any] = field(default_factory=dict)


def statistics_are_frozen(layer: nn.Module) -> bool:
    """Whether the layer normalizes by its running statistics, and never moves them, whatever mode it is put in."""
    mark = _mark_of(layer)
    return mark is not None and mark.mode is not None


def parameters_are_frozen(layer: nn.Module) -> bool:
    """Whether the layer's scale and shift were frozen."""
    mark = _mark_of(layer)
    return mark is not None and mark.requires_grad is not None


def freeze_statistics(layer: nn.Module) -> None:
    """Test time from now on, whatever train() asks for. The layer has running statistics, and is not frozen yet."""
    own = vars(layer)
    mark = own.setdefault(_MARK, Mark())
    mark.mode = layer.training
    # As attributes of the object they come before the class's methods, for whoever calls them: model.train() too.
    methods = {"train": _Train(layer), "reset_running_stats": _Reset(layer), "named_children": _NamedChildren(layer)}
    mark.covered = {name: own[name] for name in methods if name in own}
    own.update(methods)
    layer.training = False


def thaw_statistics(layer: nn.Module) -> None:
    """The mode that the layer would be in had it never been frozen."""
    own, mark = vars(layer), _mark_of(layer)
    assert mark is not None
    assert mark.mode is not None
    for name in ("train", "reset_running_stats", "named_children"):
        del own[name]
    own.update(mark.covered)
    layer.training = mark.mode
    mark.mode, mark.covered = None, {}
    _drop_if_done(layer)


def freeze_parameters(layers: Iterable[nn.Module], *, beside: Iterable[nn.Module]) -> None:
    """No gradients for scale and shift: an optimizer then leaves them alone, momentum and weight decay included.

    Args:
        layers: not frozen yet.
        beside: all layers of the model: those that are frozen know what a parameter that is shared was before.
    """
    before = {}
    for layer in beside:
        mark = _mark_of(layer)
        for name, parameter in _scale_and_shift(layer):
            if mark is not None and mark.requires_grad is not None and name in mark.requires_grad:
                before[parameter] = mark.requires_grad[name]
    for layer in layers:
        names = dict(_scale_and_shift(layer))
        for parameter in names.values():
            before.setdefault(parameter, parameter.requires_grad)
        mark = vars(layer).setdefault(_MARK, Mark())
        mark.requires_grad = {name: before[parameter] for name, parameter in names.items()}
        for parameter in names.values():
            parameter.requires_grad_(False)
            parameter.grad = None  # a gradient that is left lying would go on being applied, step after step


def thaw_parameters(layers: Iterable[nn.Module], *, beside: Iterable[nn.Module]) -> None:
    """Gradients as before, but not for a parameter that a layer which stays frozen shares."""
    thawed: dict[nn.Parameter, bool] = {}
    for layer in layers:
        mark = _mark_of(layer)
        assert mark is not None
        assert mark.requires_grad is not None
        for name, parameter in _scale_and_shift(layer):
            if name in mark.requires_grad:
                thawed[parameter] = mark.requires_grad[name]
        mark.requires_grad = None
        _drop_if_done(layer)
    still = {parameter for layer in beside if parameters_are_frozen(layer) for _, parameter in _scale_and_shift(layer)}
    for parameter, requires_grad in thawed.items():
        if parameter not in still:
            parameter.requires_grad_(requires_grad)


class _Method:
    """Stands before a method of a layer's class. Not a closure: deep copies and pickles must find the new layer."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class _Train(_Method):
    """train() of a frozen layer: modules inside it, such as an activation, follow; the layer stays at test time."""

    def __call__(self, mode: bool = True) -> nn.Module:
        mark = _mark_of(self.layer)
        assert mark is not None
        type(self.layer).train(self.layer, mode)
        mark.mode, self.layer.training = mode, False
        return self.layer


class _Reset(_Method):
    """reset_running_stats() of a frozen layer, which torch's update_bn calls of every layer it finds."""

    def __call__(self) -> None:
        warnings.warn(
            f"{type(self.layer).__name__} is frozen: reset_running_stats() has left its statistics as they are; thaw "
            "the layer first if they are to go",
            StatisticsWarning,
            stacklevel=2,
        )


class _NamedChildren(_Method):
    """named_children() of a frozen layer: the one moment at which a converter that would lose the mark is heard."""

    def __call__(self) -> Iterator[tuple[str, nn.Module]]:
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm":
            raise ValueError(
                f"convert_sync_batchnorm would make a layer that is not frozen of this {type(self.layer).__name__}, "
                "which is: convert the model first and freeze it then"
            )
        return type(self.layer).named_children(self.layer)


def _mark_of(layer: nn.Module) -> Mark | None:
    mark: Mark | None = vars(layer).get(_MARK)
    return mark


def _drop_if_done(layer: nn.Module) -> None:
    mark = _mark_of(layer)
    if mark is not None and mark.mode is None and mark.requires_grad is None:
        del vars(layer)[_MARK]


def _scale_and_shift(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The layer's own parameters, also where a parametrization holds them; not those of an activation inside it."""
    for name, parameter in layer.named_parameters():
        if "." not in name or name.startswith("parametrizations."):
            yield name, parameter
