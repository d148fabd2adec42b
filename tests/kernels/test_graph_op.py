"""A compiled graph holds a layer as one operator of the compiled kernels, and computes what eager use does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.testing import assert_close

from batchnorm.kernels import choice
from batchnorm.nn import BatchNorm1d, BatchNorm2d

pytestmark = pytest.mark.skipif(choice.current().kernel != "native", reason="the native kernels are not what runs")


def compiled(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Callable[..., Tensor], set[str]]:
    """`function` compiled without a graph break, and the names of the operators in its graph, once it is called."""
    torch._dynamo.reset()
    found: set[str] = set()

    def look(graph: fx.GraphModule, _inputs: Any) -> Any:
        found.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    return torch.compile(function, backend=look, fullgraph=True), found


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("shape", [(16, 5), (4, 5, 6, 6)], ids=["rows", "slabs"])
def test_graph_holds_one_operator_and_gives_eagers_bits(
    shape: tuple[int, ...], activation: str | None, training: bool
) -> None:
    build = BatchNorm1d if len(shape) == 2 else BatchNorm2d
    eager, graph = (build(5, activation=activation).train(training) for _ in range(2))
    run, operators = compiled(graph)
    x, other = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    dy = torch.randn(shape)
    y, y_graph = eager(x), run(other)
    y.backward(dy)
    y_graph.backward(dy)
    assert "batchnorm.normalize" in operators
    assert not operators & {"torch.rsqrt", "torch.addcmul"}, "the specification's operations were traced as well"
    assert torch.equal(y, y_graph)
    assert torch.equal(x.grad, other.grad)
    assert torch.equal(eager.weight.grad, graph.weight.grad)
    assert torch.equal(eager.bias.grad, graph.bias.grad)
    assert_close(eager.running_mean, graph.running_mean)
    assert_close(eager.running_var, graph.running_var)
    assert int(graph.num_batches_tracked) == int(eager.num_batches_tracked) == int(training)


def test_residual_and_mask_go_through_the_operator() -> None:
    eager, graph = BatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    run, operators = compiled(lambda x, r, m: graph(x, residual=r, mask=m))
    x, r, mask = torch.randn(8, 3), torch.randn(8, 3, requires_grad=True), torch.arange(8) % 3 > 0
    r_graph = r.detach().clone().requires_grad_()
    eager(x, residual=r, mask=mask).sum().backward()
    run(x, r_graph, mask).sum().backward()
    assert "batchnorm.normalize" in operators
    assert_close(r.grad, r_graph.grad)
    assert_close(eager.running_var, graph.running_var)


def test_frozen_parameters_get_no_gradient() -> None:
    layer = BatchNorm1d(3).requires_grad_(False)
    run, _ = compiled(layer)
    x = torch.randn(8, 3, requires_grad=True)
    run(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_runs_it() -> None:
    torch._dynamo.reset()
    layer, same = BatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    x = torch.randn(8, 3)
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), same(x))


def test_specification_is_traced_where_it_is_what_runs() -> None:
    with choice.using("spec"):
        run, operators = compiled(BatchNorm1d(3))
        run(torch.randn(4, 3))
    assert "batchnorm.normalize" not in operators


def test_transform_inside_a_graph_sees_the_specification() -> None:
    layer = BatchNorm1d(3, track_running_stats=False)
    run, operators = compiled(lambda x: torch.func.vmap(lambda part: layer(part))(x))
    x = torch.randn(2, 4, 3)
    assert_close(run(x), torch.stack([layer(part) for part in x]))
    assert "batchnorm.normalize" not in operators


def test_exported_program_needs_no_operator_of_ours() -> None:
    program = torch.export.export(BatchNorm1d(3).eval(), (torch.randn(4, 3),))
    assert not [n for n in program.graph.nodes if "batchnorm" in str(n.target)]
