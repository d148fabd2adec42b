"""What really flows through a model: which batch norm layer takes what which linear map gives, seen while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from batchnorm.randomness import same_randomness
from batchnorm.surgery.verify import call


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
        layer: which.
        way: the calls of modules that it happened in, outermost first, with a number for each call; itself last.
        input: its first argument, where that is a tensor, and how often that had been written to.
        output: what it returned, likewise.
        given: the names of its further arguments.
    """

    layer: nn.Module
    way: tuple[tuple[int, nn.Module], ...]
    input: tuple[Tensor, int] | None
    output: tuple[Tensor, int] | None
    given: frozenset[str]

    def takes_from(self, other: Call) -> bool:
        """Whether the input is what the other call returned, untouched since, or its rows: (N, L, C) as (N * L, C)."""
        a, b = self.input, other.output
        if a is None or b is None or a[1] != b[1]:
            return False
        return a[0] is b[0] or (a[0].dim() == 2 and b[0].dim() == 3 and _are_rows(a[0], b[0]))


@dataclass
class Flow:
    """All calls of the layers that were looked at, in order."""

    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)

    def of(self, layer: nn.Module) -> list[Call]:
        """The calls of one layer."""
        return self.calls.get(layer, [])

    def before(self, call: Call) -> list[Call]:
        """The calls whose output this one takes."""
        return [other for calls in self.calls.values() for other in calls if call.takes_from(other)]

    def after(self, call: Call) -> list[Call]:
        """The calls that take this one's output."""
        return [other for calls in self.calls.values() for other in calls if other.takes_from(call)]


def observe(verb: str, model: nn.Module, example: Any, layers: set[nn.Module], *, keeps_values: bool = False) -> Flow:
    """Run a model on an example and see what its layers take and give.

    Args:
        verb: who asks, for the error.
        model: a copy, at test time, that nobody else uses: it has hooks while it runs.
        example: as for `fold`.
        layers: which to look at.
        keeps_values: outputs as they were returned, also where the model goes on to write to them in place.

    Raises:
        ValueError: the model does not run on the example.
    """
    flow, stack, handles = Flow(), _Stack(), []
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(stack.enter, prepend=True))
        if module in layers:
            handles.append(
                module.register_forward_hook(_Recorder(flow, stack, keeps_values=keeps_values), with_kwargs=True)
            )
        handles.append(module.register_forward_hook(stack.leave, always_call=True))
    try:
        with torch.inference_mode(False), torch.no_grad(), same_randomness():
            call(model, tree_map(_outside_inference_mode, example))
    except Exception as error:  # whatever a user's model raises
        hint = " (a tuple is taken for the model's arguments, one by one)" if isinstance(example, tuple) else ""
        raise ValueError(f"{verb} expected an example that the model itself runs on{hint}, got: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return flow


class _Stack:
    """The calls that are under way."""

    def __init__(self) -> None:
        self.way: list[tuple[int, nn.Module]] = []
        self.count = 0

    def enter(self, module: nn.Module, args: Any) -> None:
        self.count += 1
        self.way.append((self.count, module))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        while self.way and self.way.pop()[1] is not module:
            pass  # calls that an exception ended before they could leave


class _Recorder:
    """Writes down a call once it is done."""

    def __init__(self, flow: Flow, stack: _Stack, *, keeps_values: bool) -> None:
        self._flow, self._stack, self._keeps_values = flow, stack, keeps_values

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        given = frozenset(name for name, value in kwargs.items() if value is not None)
        named = kwargs.get("input")
        first = args[0] if args else named
        if self._keeps_values and isinstance(output, Tensor):
            output = output.clone()
        further = given - {"input"} | {f"argument {number}" for number in range(2, len(args) + 1)}
        found = Call(module, tuple(self._stack.way), _seen(first), _seen(output), further)
        self._flow.calls.setdefault(module, []).append(found)


def _are_rows(rows: Tensor, of: Tensor) -> bool:
    return (
        rows._base is not None
        and rows._base is (of if of._base is None else of._base)
        and (rows.data_ptr() == of.data_ptr() and rows.shape == (of.shape[0] * of.shape[1], of.shape[2]))
    )


def _outside_inference_mode(leaf: Any) -> Any:
    """A tensor that counts how often it is written to: those of inference mode do not."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _seen(value: Any) -> tuple[Tensor, int] | None:
    return (value, value._version) if isinstance(value, Tensor) else None
