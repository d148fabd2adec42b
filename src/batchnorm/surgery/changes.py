"""Changes to a user's modules: all of them or none, and each leaves behind what is needed to take it back.

A module that changes stays the same object: it changes its class. So whoever holds it (an optimizer, a hook, a list)
goes on holding it, and its parameters, buffers, hooks and mode need no copying. What it was is kept in the module
itself, so a deep copy or a pickle of the model can be taken back too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_BEFORE = "_before_convert"  # in a changed module: what it was
_STANDS_FOR = "_stands_for"  # in an Identity: the activation whose place it has taken
_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Before:
    """What a changed module was.

    Attributes:
        kind: its class.
        added: attributes that it did not have.
        changed: attributes that had another value.
        statistics: the dtype of its running statistics, where that was a narrow one.
    """

    kind: type[nn.Module]
    added: tuple[str, ...] = ()
    changed: Mapping[str, Any] = field(default_factory=dict)
    statistics: torch.dtype | None = None


class Changes:
    """Changes to modules that can be undone together."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo

    def become(self, module: nn.Module, kind: type[nn.Module], attributes: Mapping[str, Any] | None = None) -> None:
        """Change a module's class, and set attributes."""
        self._undo.callback(_snapshot(module))
        own, attributes = vars(module), attributes or {}
        if _BEFORE not in own:
            added = tuple(name for name in attributes if name not in own)
            changed = {name: own[name] for name in attributes if name in own}
            own[_BEFORE] = Before(type(module), added, changed, _narrow_statistics(module))
        own.update(attributes)
        module.__class__ = kind

    def widen_statistics(self, layer: nn.Module) -> None:
        """float32 for a layer's running statistics in half precision: with the class goes its promise."""
        self._undo.callback(_snapshot(layer))
        for name in ("running_mean", "running_var"):
            statistic = getattr(layer, name)
            if statistic is not None and statistic.dtype in _NARROW:
                setattr(layer, name, statistic.float())

    def remove(self, parent: nn.Module, name: str) -> None:
        """Put an Identity where `parent` has an activation."""
        activation = parent._modules[name]
        assert activation is not None
        self._undo.callback(_snapshot(parent))
        identity = nn.Identity()
        identity.train(activation.training)
        vars(identity)[_STANDS_FOR] = activation  # not as an attribute: it would become a child
        parent._modules[name] = identity


@contextmanager
def all_or_nothing() -> Iterator[Changes]:
    """Undo every change that was made in the body if the body raises."""
    with ExitStack() as undo:
        yield Changes(undo)
        undo.pop_all()


def is_converted(module: nn.Module) -> bool:
    """Whether `become` has changed this module."""
    return _BEFORE in vars(module)


def restore(module: nn.Module) -> str | None:
    """Take back what was done to one module itself. Returns what it is again; None if nothing was done."""
    own = vars(module)
    before: Before | None = own.pop(_BEFORE, None)
    if before is None:
        return None
    for name in before.added:
        own.pop(name, None)
    own.update(before.changed)
    if type(module) is not before.kind:
        module.__class__ = before.kind
        _narrow_again(module, before)
    return before.kind.__name__


def restore_child(parent: nn.Module, name: str) -> str | None:
    """Put back the activation that an Identity stands for. Returns its class; None if there is none."""
    child = parent._modules[name]
    activation: nn.Module | None = None if child is None else vars(child).get(_STANDS_FOR)
    if child is None or activation is None:
        return None
    activation.train(child.training)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if not getattr(activation, hooks):  # the dictionary itself: the handles of hooks look for them there
            vars(activation)[hooks] = vars(child)[hooks]
    parent._modules[name] = activation
    return type(activation).__name__


def _narrow_statistics(module: nn.Module) -> torch.dtype | None:
    statistic = module._buffers.get("running_mean")
    return statistic.dtype if statistic is not None and statistic.dtype in _NARROW else None


def _narrow_again(module: nn.Module, before: Before) -> None:
    """Running statistics in the dtype that torch.nn would keep them in."""
    weight = module._parameters.get("weight")
    dtype = before.statistics if weight is None else weight.dtype
    for name in ("running_mean", "running_var"):
        statistic = module._buffers.get(name)
        if statistic is not None and dtype in _NARROW:
            module._buffers[name] = statistic.to(dtype)


def _snapshot(module: nn.Module) -> Callable[[], None]:
    """What puts the module back as it is now: class, attributes, children, buffers."""
    kind, own = type(module), dict(vars(module))
    inner = {name: (value, dict(value)) for name, value in own.items() if isinstance(value, dict)}

    def undo() -> None:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(own)
        for value, content in inner.values():
            value.clear()
            value.update(content)

    return undo
