"""What is taken for an activation after a layer, node by node."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.patterns import follow


def _graph(end: Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]) -> tuple[fx.Node, nn.Module]:
    """A graph that calls one layer, and ends as the test says: end(graph, layer's input, layer's output)."""
    root = nn.Module()
    root.bn, root.relu6, root.relu = nn.BatchNorm1d(3), nn.ReLU6(), nn.ReLU()
    graph = fx.Graph()
    x = graph.call_function(torch.abs, (graph.placeholder("x"),))
    layer = graph.call_module("bn", (x,))
    graph.output(end(graph, x, layer))
    return layer, root


KNOWN: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (F.relu, (), {}, "relu"),
    (F.relu, (True,), {}, "relu"),
    (torch.relu_, (), {}, "relu"),
    (F.leaky_relu, (0.01, True), {}, "leaky_relu"),
    (F.leaky_relu, (), {"negative_slope": 0.01}, "leaky_relu"),
    (F.gelu, (), {}, "gelu"),
    (F.gelu, (), {"approximate": "none"}, "gelu"),
    (F.silu, (), {"inplace": True}, "silu"),
    (F.sigmoid, (), {}, "sigmoid"),
    (torch.tanh, (), {}, "tanh"),
    ("sigmoid_", (), {}, "sigmoid"),
    ("relu", (), {}, "relu"),
]
UNKNOWN: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (F.leaky_relu, (0.2,), {}),
    (F.gelu, (), {"approximate": "tanh"}),
    (torch.sigmoid, (), {"out": None}),
    (F.relu6, (), {}),
    (F.softmax, (1,), {}),
    ("abs", (), {}),
    ("clamp_", (0,), {}),
]


def _called(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    return (graph.call_method if isinstance(target, str) else graph.call_function)(target, args, kwargs)


@pytest.mark.parametrize(("target", "args", "kwargs", "name"), KNOWN)
def test_known_activation_is_found(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
    node, root = _graph(lambda graph, x, y: _called(graph, target, (y, *args), kwargs))
    match = follow(node, root)
    assert match is not None
    assert (match.name, match.add) == (name, None)


@pytest.mark.parametrize(("target", "args", "kwargs"), UNKNOWN)
def test_other_call_is_not_taken_for_one(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    node, root = _graph(lambda graph, x, y: _called(graph, target, (y, *args), kwargs))
    assert follow(node, root) is None


def test_activation_of_something_else_is_not_taken_for_one() -> None:
    node, root = _graph(lambda graph, x, y: graph.call_function(F.leaky_relu, (x, y)))
    assert follow(node, root) is None


def test_layer_that_ends_the_graph_has_nothing_after_it() -> None:
    node, root = _graph(lambda graph, x, y: y)
    assert follow(node, root) is None


def _added(between: Callable[[fx.Graph, fx.Node], object]) -> Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]:
    def end(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
        other = graph.call_function(torch.ones, (3,))
        between(graph, x)
        return graph.call_module("relu", (graph.call_function(operator.add, (y, other)),))

    return end


def test_residual_add_is_found_where_the_layer_can_wait_for_it() -> None:
    node, root = _graph(_added(lambda graph, x: None))
    match = follow(node, root)
    assert match is not None
    assert match.other.target is torch.ones


@pytest.mark.parametrize(
    "between",
    [
        lambda graph, x: graph.call_function(torch.neg, (x,)),
        lambda graph, x: graph.call_method("mul_", (graph.call_function(torch.ones, (3,)), 2)),
        lambda graph, x: graph.call_function(operator.iadd, (graph.call_function(torch.ones, (3,)), 2)),
        lambda graph, x: graph.call_function(F.relu, (graph.call_function(torch.ones, (3,)), True)),
    ],
    ids=["its input is used", "a method in place", "an operator in place", "a function in place"],
)
def test_residual_add_is_left_where_the_layers_input_may_have_changed(between: Callable[..., object]) -> None:
    """The layer would be called at the add; a view of its input could have been written to by then."""
    node, root = _graph(_added(between))
    assert follow(node, root) is None


def test_residual_that_is_changed_later_is_left() -> None:
    def end(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
        other = graph.call_function(torch.ones, (3,))
        last = graph.call_module("relu", (graph.call_function(operator.add, (y, other)),))
        return graph.call_function(operator.add, (last, graph.call_module("relu6", (other,))))

    node, root = _graph(end)
    assert follow(node, root) is not None
    root.relu6.inplace = True
    assert follow(node, root) is None
