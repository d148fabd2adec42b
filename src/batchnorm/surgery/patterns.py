"""What follows a batch norm layer in a graph: an activation, or a residual add and an activation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchnorm.kernels.activations import LEAK
from batchnorm.surgery.activations import activation_of, is_nothing

# Each function with the names of its arguments after the input.
_FUNCTIONS: dict[Callable[..., Any], tuple[str, tuple[str, ...]]] = {
    F.relu: ("relu", ("inplace",)),
    torch.relu: ("relu", ()),
    torch.relu_: ("relu", ()),
    F.leaky_relu: ("leaky_relu", ("negative_slope", "inplace")),
    F.silu: ("silu", ("inplace",)),
    F.gelu: ("gelu", ("approximate",)),
    torch.sigmoid: ("sigmoid", ()),
    torch.sigmoid_: ("sigmoid", ()),
    F.sigmoid: ("sigmoid", ()),
    torch.tanh: ("tanh", ()),
    torch.tanh_: ("tanh", ()),
    F.tanh: ("tanh", ()),
}
_METHODS = {name + end: name for name in ("relu", "sigmoid", "tanh") for end in ("", "_")}
_EXACT = {"negative_slope": LEAK, "approximate": "none"}  # settings that must be as they are in a layer
IN_PLACE = (
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.imatmul,
    operator.itruediv,
    operator.ifloordiv,
    operator.imod,
    operator.ipow,
    operator.iand,
    operator.ior,
    operator.ixor,
    operator.ilshift,
    operator.irshift,
)
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_ADDS_IN_PLACE = (operator.iadd, "add_")


@dataclass(frozen=True)
class Match:
    """Nodes that one layer can stand for: the layer, (an add,) an activation, and Identities between them.

    Attributes:
        layer: the call of the layer.
        activation: the call of the activation.
        name: which activation that is.
        add: the residual add, or None.
        way: the layer and the Identities after it, last first.
        after_add: the Identities between the add and the activation, last first.
    """

    layer: fx.Node
    activation: fx.Node
    name: str
    way: tuple[fx.Node, ...]
    add: fx.Node | None = None
    after_add: tuple[fx.Node, ...] = ()

    @property
    def other(self) -> fx.Node:
        """What is added: at present, since another fusion may have replaced it."""
        assert self.add is not None
        return next(side for side in self.add.all_input_nodes if side is not self.way[0])


def follow(node: fx.Node, root: nn.Module) -> Match | None:
    """What follows the call of a layer, where each value on the way is used once. An Identity is passed over."""
    way, user = _next(node, root)
    if user is None:
        return None
    name = _activation(user, way[0], root)
    if name is not None:
        return Match(node, user, name, way)
    if not _is_plain_add(user, way[0]):
        return None
    after, last = _next(user, root)
    name = None if last is None else _activation(last, after[0], root)
    if last is None or name is None:
        return None
    match = Match(node, last, name, way, user, after[:-1])
    return match if _can_wait(node, user, root) and not _is_changed_after(match.other, user, root) else None


def _next(node: fx.Node, root: nn.Module) -> tuple[tuple[fx.Node, ...], fx.Node | None]:
    """The nodes that pass a value on, last first and `node` at the end; and the only user of the last, or None."""
    way: tuple[fx.Node, ...] = (node,)
    while True:
        users = list(way[0].users)
        if len(users) != 1 or users[0].all_input_nodes.count(way[0]) != 1:
            return way, None
        user = users[0]
        if user.op != "call_module" or not is_nothing(root.get_submodule(str(user.target))):
            return way, user
        way = (user, *way)


def _is_plain_add(node: fx.Node, value: fx.Node) -> bool:
    """Whether a node adds another tensor to `value`, and changes no tensor but that."""
    if node.target not in _ADDS or node.kwargs or len(node.args) != 2:
        return False
    is_pair = all(isinstance(a, fx.Node) for a in node.args) and node.args[0] is not node.args[1]
    return is_pair and (node.target not in _ADDS_IN_PLACE or node.args[0] is value)


def _activation(node: fx.Node, value: fx.Node, root: nn.Module) -> str | None:
    """The activation that a node applies to `value`."""
    if not node.args or node.args[0] is not value:
        return None
    if node.op == "call_module":
        return activation_of(root.get_submodule(str(node.target))) if len(node.args) == 1 and not node.kwargs else None
    if node.op == "call_method":
        return _METHODS.get(str(node.target)) if len(node.args) == 1 and not node.kwargs else None
    if node.op != "call_function" or node.target not in _FUNCTIONS:
        return None
    name, arguments = _FUNCTIONS[node.target]
    settings = dict(zip(arguments, node.args[1:], strict=False)) | node.kwargs
    if len(node.args) - 1 > len(arguments) or not settings.keys() <= set(arguments):
        return None
    return name if all(settings.get(k, exact) == exact for k, exact in _EXACT.items()) else None


def _can_wait(layer: fx.Node, add: fx.Node, root: nn.Module) -> bool:
    """Whether the layer may be called as late as the add: what it takes is the same there."""
    nodes = list(layer.graph.nodes)
    between = nodes[nodes.index(layer) + 1 : nodes.index(add)]
    is_used = any(value in node.all_input_nodes for node in between for value in layer.all_input_nodes)
    return not is_used and not any(_is_in_place(node, root) for node in between)


def _is_changed_after(value: fx.Node, add: fx.Node, root: nn.Module) -> bool:
    """Whether someone later changes in place what was added: the layer's backward pass needs it."""
    order = {node: position for position, node in enumerate(add.graph.nodes)}
    return any(order[user] > order[add] and _is_in_place(user, root) for user in value.users)


def _is_in_place(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_named = node.op in ("call_function", "call_method") and name.endswith("_")
    return node.target in IN_PLACE or is_named or bool(node.kwargs.get("inplace")) or True in node.args[1:]
