"""Which batch norm layers of a model are folded into what, and which are not, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchnorm.surgery import fold_arithmetic as arithmetic
from batchnorm.surgery.fold_flow import Call, Flow, observe
from batchnorm.surgery.fold_layers import (
    has_activation,
    is_linear,
    norms,
    what_is_left,
    why_not_linear,
    why_not_norm,
)
from batchnorm.surgery.fold_proof import Proofs
from batchnorm.surgery.places import Places
from batchnorm.surgery.record import Entry

_ALONE = "no Linear or convolution stands directly before or after it"
_UNREACHED = "the example does not reach it"


@dataclass(frozen=True)
class Pair:
    """A batch norm layer that can be folded: names, so that it holds for every copy of the model.

    Attributes:
        norm: the layer.
        linear: what it is folded into.
        is_after: whether the layer comes after the linear map.
        has_residual: whether the layer also adds a residual, which then stays.
        is_scale_alone: whether it could not be folded if it also shifted.
        dimensions: of what it normalizes on the example.
        what: both, for the report.
    """

    norm: str
    linear: str
    is_after: bool
    has_residual: bool
    is_scale_alone: bool
    dimensions: int
    what: str

    def entry(self, reason: str) -> Entry:
        """A line of the report."""
        return Entry(self.norm, self.what, reason)


@dataclass(frozen=True)
class Plan:
    """All batch norm layers of a model: those to fold, those beside a linear map that stay, and the others."""

    pairs: tuple[Pair, ...]
    refused: tuple[Entry, ...]
    alone: tuple[Entry, ...]


@torch.inference_mode(False)
def fold_pairs(model: nn.Module, pairs: tuple[Pair, ...]) -> None:
    """Fold these pairs, in place. The model is a copy, at test time."""
    # A linear map between two layers takes the later one first: the earlier is then folded into what that has made.
    for pair in sorted(pairs, key=lambda pair: not pair.is_after):
        norm, linear = model.get_submodule(pair.norm), model.get_submodule(pair.linear)
        constants = arithmetic.scale_shift(norm)
        if pair.is_after:
            arithmetic.fold_after(linear, constants)
        else:
            arithmetic.fold_before(linear, constants)
        left = what_is_left(norm, has_residual=pair.has_residual, dimensions=pair.dimensions).eval()
        parent, _, attribute = pair.norm.rpartition(".")
        model.get_submodule(parent)._modules[attribute] = left


def plan(model: nn.Module, example: Any, over: Callable[[Iterable[Any]], Iterator[Any]] = iter) -> Plan:
    """Find the pairs. The model is a copy, at test time, that is used up.

    Args:
        over: goes over the layers one by one.

    Raises:
        ValueError: it does not run on the example.
    """
    layers = dict(norms(model))
    linears = {module for module in model.modules() if is_linear(module)}
    flow = observe("fold", model, example, {*layers.values(), *linears})
    finder = _Finder(model, flow, linears)
    pairs, refused, alone = [], [], []
    for layer in over(layers.values()):
        found = finder.find(layer)
        if isinstance(found, Pair):
            pairs.append(found)
        elif found.reason in (_ALONE, _UNREACHED):
            alone.append(found)
        else:
            refused.append(found)
    return Plan(tuple(pairs), tuple(refused), tuple(alone))


class _Finder:
    """Looks at one layer after the other."""

    def __init__(self, model: nn.Module, flow: Flow, linears: set[nn.Module]) -> None:
        self._flow, self._linears = flow, linears
        self._places, self._proofs = Places.in_model(model), Proofs()
        self._owners: dict[nn.Parameter, set[nn.Module]] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    self._owners.setdefault(parameter, set()).add(module)

    def find(self, layer: nn.Module) -> Pair | Entry:
        """The pair that the layer is folded in, or why there is none."""
        name, kind = self._places.names[layer], type(layer).__name__
        calls = self._flow.of(layer)
        befores = {c.layer for call in calls for c in self._flow.before(call) if c.layer in self._linears}
        afters = {c.layer for call in calls for c in self._flow.after(call) if c.layer in self._linears}
        if has_activation(layer) or any("residual" in call.given for call in calls):
            afters = set()  # its output is not what it has normalized
        if not calls:
            return Entry(name, kind, _UNREACHED)
        if not befores and not afters:
            return Entry(name, kind, _ALONE)
        reasons = []
        for linear in befores:
            pair = self._pair(layer, linear, is_after=True)
            reason = self._why_not(layer, calls) or self._why_not_pair(layer, linear, is_after=True)
            if reason is None:
                return pair
            reasons.append((pair, reason))
        for linear in afters:
            pair = self._pair(layer, linear, is_after=False)
            reason = self._why_not(layer, calls) or self._why_not_pair(layer, linear, is_after=False)
            if reason is None:
                return pair
            reasons.append((pair, reason))
        pair, _ = reasons[0]
        return pair.entry("; ".join(dict.fromkeys(reason for _, reason in reasons)))

    def _pair(self, layer: nn.Module, linear: nn.Module, *, is_after: bool) -> Pair:
        norm, other = type(layer).__name__, type(linear).__name__
        call = self._flow.of(layer)[0]
        what = f"{other} -> {norm}" if is_after else f"{norm} -> {other}"
        names = self._places.names
        is_scale_alone = not is_after and arithmetic.why_no_shift_before(linear) is not None
        dimensions = 0 if call.input is None else call.input[0].dim()
        return Pair(names[layer], names[linear], is_after, "residual" in call.given, is_scale_alone, dimensions, what)

    def _why_not(self, layer: nn.Module, calls: list[Call]) -> str | None:
        """Why the layer cannot be folded into anything."""
        further = calls[0].given - {"residual"}
        if further:
            return f"{type(layer).__name__} is called with {' and '.join(sorted(further))}"
        return why_not_norm(layer) or self._why_not_once(layer)

    def _why_not_once(self, module: nn.Module) -> str | None:
        """Why a module is not called in one place alone, with parameters of its own."""
        name, calls = type(module).__name__, len(self._flow.of(module))
        if self._places.is_shared(module):
            places = " and ".join(place.name for place in self._places.of[module])
            return f"{name} is shared: it stands at {places}"
        if calls != 1:
            return f"{name} is called {calls} times"
        for key, parameter in module.named_parameters():
            if len(self._owners[parameter]) > 1:
                return f"{name} shares its {key} with another module"
        return None

    def _why_not_pair(self, layer: Any, linear: Any, *, is_after: bool) -> str | None:
        reason = why_not_linear(linear, padding_may_vary=is_after) or self._why_not_once(linear)
        if reason is not None:
            return reason
        norm_call, linear_call = self._flow.of(layer)[0], self._flow.of(linear)[0]
        reason = _why_not_features(layer, norm_call, linear, linear_call)
        if reason is not None:
            return reason
        if is_after:
            return self._proofs.why_not(linear_call, norm_call)
        shifts = bool(arithmetic.scale_shift(layer).shift.any())
        reason = arithmetic.why_no_shift_before(linear) if shifts else None
        return reason or self._proofs.why_not(norm_call, linear_call, hands_on=True)


def _why_not_features(layer: Any, norm_call: Call, linear: Any, linear_call: Call) -> str | None:
    """Why the layer's channels are not the linear map's features; None where they are."""
    assert norm_call.input is not None
    assert linear_call.input is not None
    given = norm_call.input[0].dim()
    if isinstance(linear, nn.Linear):
        # With three dimensions Linear's rows may come to the layer as rows: what it took is then another tensor.
        if given == 2 and (linear_call.input[0].dim() == 2 or norm_call.takes_from(linear_call)):
            return None
    elif given == linear_call.input[0].dim() == len(linear.kernel_size) + 2:
        return None
    name, shape = type(linear).__name__, tuple(norm_call.input[0].shape)
    if isinstance(linear, nn.Linear):
        return f"{type(layer).__name__} normalizes over dimension 1 of {shape}, Linear's features are the last"
    return f"{name} runs without a batch, and {type(layer).__name__} takes positions of {shape} for channels"
