"""Whether one layer's output always goes to another layer and nowhere else: not on one example, but by the code.

Two calls lie inside calls of other modules, up to the one that both lie in. Each of these forwards is traced on its
own, in every mode and with every optional argument (`tracing`): in each of their graphs the value must go straight from
the one layer to the other. What lies further out may depend on anything, as long as it calls both layers or neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from batchnorm.surgery.activations import is_nothing
from batchnorm.surgery.fold_flow import Call
from batchnorm.surgery.fold_layers import has_hooks
from batchnorm.surgery.patterns import IN_PLACE
from batchnorm.surgery.places import Places
from batchnorm.surgery.reading import why_may_reach
from batchnorm.surgery.stand_ins import UnprovenError
from batchnorm.surgery.tracing import traces

_SHAPES = ("shape", "ndim", "dtype", "device")  # attributes that say nothing of a tensor's numbers
_LIKE = ("reshape_as", "view_as", "expand_as")  # methods that ask their argument for its shape
_SIZES = ("size", "dim", "is_floating_point")
# Of each graph, the calls of every child: a Sequential of a thousand layers is asked for each of them.
_CALLS: WeakKeyDictionary[fx.Graph, dict[nn.Module, list[fx.Node]]] = WeakKeyDictionary()


class Proofs:
    """Proofs about one model; every module is traced once at most."""

    def __init__(self) -> None:
        self._known: dict[nn.Module, tuple[fx.Graph, ...] | str] = {}

    def why_not(self, first: Call, second: Call, *, hands_on: bool = False) -> str | None:
        """Why it is not certain that the second layer takes what the first gives, and nobody else does.

        Args:
            hands_on: whether the first, once it is folded, gives its input itself, which then nobody may write to.
        """
        shared = 0
        while first.way[shared] == second.way[shared]:
            shared += 1
        common = first.way[shared - 1][1]
        outs, ins = ([module for _, module in call.way[shared:]] for call in (first, second))
        for between in (*outs[:-1], *ins[:-1]):
            if has_hooks(between):
                return f"{type(between).__name__} in between has hooks, which would see other values"
        try:
            for graph in self._graphs(common):
                _check_passed_on(graph, common, outs[0], ins[0], second)
                if hands_on:
                    _check_unwritten(graph, common, outs[0])
            for parent, child in pairwise(outs):
                for graph in self._graphs(parent):
                    _check_returned(graph, parent, child)
            for parent, child in pairwise(ins):
                for graph in self._graphs(parent):
                    _check_taken(graph, parent, child)
            for _, outer in first.way[: shared - 1]:
                self._check_untouched(outer, {first.layer, second.layer})
        except UnprovenError as error:
            return str(error)
        return None

    def users(self, module: nn.Module, child: nn.Module) -> list[fx.Node]:
        """Who takes a child's output in a module's forward: one call in each graph in which the child is called.

        Raises:
            UnprovenError: it is called twice, or its output goes elsewhere too, or the forward cannot be traced.
        """
        found = []
        for graph in self._graphs(module):
            calls = _calls(graph, module, child)
            if len(calls) > 1:
                raise UnprovenError(f"{type(module).__name__} calls {type(child).__name__} {len(calls)} times")
            if calls:
                value = _followed(calls[0], module)
                users = [node for node in value.users if not _asks_for_shape(node, value)]
                if not users:
                    raise UnprovenError(f"{type(module).__name__} does not use what {type(child).__name__} gives")
                _check_alone(calls[0], users[0], module)
                found.append(users[0])
        return found

    def check_untouched(self, model: nn.Module, places: Places, layer: nn.Module) -> None:
        """Raise where a module further out than the one that holds the layer calls it or reads its parameters."""
        for place in places.of[layer]:
            name = place.name.rpartition(".")[0]
            while name:
                name = name.rpartition(".")[0]
                self._check_untouched(model.get_submodule(name), {layer})

    def _check_untouched(self, outer: nn.Module, layers: set[nn.Module]) -> None:
        """Raise where a module further out reaches in for one of the layers, as its graphs say, or else its source."""
        try:
            graphs = self._graphs(outer)
        except UnprovenError:
            paths = [name for name, module in outer.named_modules(remove_duplicate=False) if module in layers]
            for reason in map(why_may_reach, repeat(outer), paths):
                if reason is not None:
                    raise UnprovenError(reason) from None
            return
        for graph in graphs:
            for layer in layers:
                if _calls(graph, outer, layer):
                    raise UnprovenError(f"{type(outer).__name__} may call {type(layer).__name__} by itself")

    def _graphs(self, module: nn.Module) -> tuple[fx.Graph, ...]:
        if module not in self._known:
            try:
                self._known[module] = traces(module, every_way=True).graphs
            except UnprovenError as error:
                self._known[module] = f"the forward of {type(module).__name__} is not certain: {error}"
        known = self._known[module]
        if isinstance(known, str):
            raise UnprovenError(known)
        return known


def _check_passed_on(graph: fx.Graph, module: nn.Module, first: nn.Module, second: nn.Module, call: Call) -> None:
    a, b = _calls(graph, module, first), _calls(graph, module, second)
    if not a and not b:
        return
    name = type(module).__name__
    if len(a) != 1 or len(b) != 1:
        raise UnprovenError(f"{name} does not always call both once")
    value = _followed(a[0], module)
    if not b[0].args or b[0].args[0] is not value:
        raise UnprovenError(f"{name} does not always hand the one's output to the other")
    _check_alone(a[0], b[0], module)
    known = call.given if second is call.layer else frozenset()
    if len(b[0].args) > 1 or not b[0].kwargs.keys() <= known:
        raise UnprovenError(f"{name} may call {type(second).__name__} with further arguments")


def _check_unwritten(graph: fx.Graph, module: nn.Module, first: nn.Module) -> None:
    """Raise where what goes into the first is also changed in place."""
    for call in _calls(graph, module, first):
        for value in call.all_input_nodes:
            if any(user is not call and _may_write(user, module) for user in value.users):
                raise UnprovenError(f"what {type(first).__name__} takes is also changed in place")


def _may_write(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or node.target in IN_PLACE or node.kwargs.get("inplace") not in (None, False) or True in node.args


def _check_returned(graph: fx.Graph, module: nn.Module, child: nn.Module) -> None:
    found = _calls(graph, module, child)
    output = next(node for node in graph.nodes if node.op == "output")
    name = type(module).__name__
    if len(found) != 1 or output.args[0] is not _followed(found[0], module):
        raise UnprovenError(f"{name} does not always return what {type(child).__name__} gives")
    _check_alone(found[0], output, module)


def _check_taken(graph: fx.Graph, module: nn.Module, child: nn.Module) -> None:
    found = _calls(graph, module, child)
    first = next((node for node in graph.nodes if node.op == "placeholder"), None)
    name = type(module).__name__
    if first is None or len(found) != 1 or not found[0].args or found[0].args[0] is not _followed(first, module):
        raise UnprovenError(f"{name} does not always hand its input to {type(child).__name__}")
    _check_alone(first, found[0], module)


def _calls(graph: fx.Graph, module: nn.Module, child: nn.Module) -> list[fx.Node]:
    """The calls of a child; raises where its tensors are read besides."""
    for node in graph.nodes:
        if node.op == "get_attr" and child in _on_the_way(module, str(node.target)):
            raise UnprovenError(f"{type(module).__name__} reads the parameters of {type(child).__name__} itself")
    if graph not in _CALLS:
        _CALLS[graph] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                _CALLS[graph].setdefault(module.get_submodule(str(node.target)), []).append(node)
    return list(_CALLS[graph].get(child, ()))


def _on_the_way(module: nn.Module, attribute: str) -> Iterator[nn.Module]:
    """The modules inside this one that an attribute's path goes through."""
    *names, _ = attribute.split(".")
    for name in names:
        module = getattr(module, name)
        yield module


def _check_alone(value: fx.Node, user: fx.Node, module: nn.Module) -> None:
    """Raise where anything but `user` takes the value, or what Identities make of it."""
    while True:
        others = [node for node in value.users if node is not user and not _asks_for_shape(node, value)]
        passing = [node for node in others if _passes(node, module)]
        if not others:
            if user.all_input_nodes.count(value) == 1 and _occurrences(user, value) == 1:
                return
            raise UnprovenError(f"{type(module).__name__} uses the value in between twice")
        if len(others) > 1 or not passing or user in value.users:
            other = next((node for node in others if node not in passing), others[0])
            raise UnprovenError(f"the value in between is also used by {_named(other, module)}")
        value = passing[0]


def _followed(value: fx.Node, module: nn.Module) -> fx.Node:
    """The value once Identities have passed it on."""
    while True:
        users = [node for node in value.users if not _asks_for_shape(node, value)]
        if len(users) != 1 or not _passes(users[0], module):
            return value
        value = users[0]


def _passes(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node passes the value on as it is, or as rows of its features."""
    if node.target in ("flatten", torch.flatten):  # (N, L, C) -> (N * L, C)
        return tuple(node.args[1:]) == (0, 1) and not node.kwargs
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    child = module.get_submodule(str(node.target))
    return is_nothing(child) or (type(child) is nn.Dropout and child.p == 0)


def _asks_for_shape(node: fx.Node, value: fx.Node) -> bool:
    if node.op == "call_method" and node.target in _LIKE:
        return node.args[0] is not value and _occurrences(node, value) == 1
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in _SHAPES
    return node.op == "call_method" and node.target in _SIZES


def _occurrences(user: fx.Node, value: fx.Node) -> int:
    found: list[Any] = []
    fx.node.map_arg((user.args, user.kwargs), lambda node: found.append(node) if node is value else None)
    return len(found)


def _named(node: fx.Node, module: nn.Module) -> str:
    if node.op == "output":
        return f"whoever calls {type(module).__name__}"
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))
