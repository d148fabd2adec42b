"""What leaves the house at test time is torch's own batch_norm: one operation that other programs know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.testing import assert_close

from batchnorm.nn import BatchNorm1d, BatchNorm2d, GhostBatchNorm1d


def moved(layer: Any) -> Any:
    """A layer with statistics of its own, at test time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            if t is not None:
                t.copy_(torch.rand(t.shape, generator=generator) + 0.5)
    return layer.eval()


def operations(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function" and node.users]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_exported_layer_is_one_batch_norm_and_its_activation(activation: str | None, strict: bool) -> None:
    layer, x = moved(BatchNorm2d(3, activation=activation)), torch.randn(4, 3, 5, 5)
    program = torch.export.export(nn.Sequential(layer), (x,), strict=strict)
    expected = ["aten.batch_norm.default", *([] if activation is None else [f"aten.{activation}.default"])]
    assert operations(program.graph) == expected
    assert_close(program.module()(x), layer(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is deprecated:DeprecationWarning")
def test_traced_layer_is_one_batch_norm() -> None:
    layer, x = moved(BatchNorm1d(3, activation="relu")), torch.randn(4, 3)
    traced = torch.jit.trace(layer, x)
    assert "aten::batch_norm" in str(traced.inlined_graph)
    assert "double" not in str(traced.inlined_graph).lower()
    assert_close(traced(x), layer(x))


@pytest.mark.parametrize(
    ("values", "channels"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float64, torch.float64),
    ],
)
def test_any_dtype_that_the_layer_takes(values: torch.dtype, channels: torch.dtype) -> None:
    layer, x = moved(BatchNorm1d(3, dtype=channels)), torch.randn(4, 3).to(values)
    program = torch.export.export(nn.Sequential(layer), (x,))
    y = program.module()(x)
    assert y.dtype == values
    assert_close(y, layer(x))


def test_residual_and_mask_come_along() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = moved(BatchNorm1d(3, activation="relu"))

        def forward(self, x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.norm(x, residual=residual, mask=mask)
            return y

    block, given = Block().eval(), (torch.randn(4, 3), torch.randn(4, 3), torch.tensor([True, False, True, True]))
    given[0][1] = torch.nan
    assert_close(torch.export.export(block, given).module()(*given), block(*given))


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_what_is_masked_is_in_no_gradient_of_a_program(activation: str | None) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = moved(BatchNorm1d(3, activation=activation))

        def forward(self, x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.norm(x, residual=residual, mask=mask)
            return y

    block, mask = Block().eval(), torch.tensor([True, False, True, True])
    x, residual = torch.randn(4, 3), torch.randn(4, 3)
    x[1] = residual[1] = torch.nan
    program: Any = torch.export.export(block, (x, residual, mask)).module()
    gradients = []
    for run, parameters in ((block, block.norm), (program, program.norm)):
        values, added = x.clone().requires_grad_(), residual.clone().requires_grad_()
        run(values, added, mask).pow(2).sum().backward()
        gradients.append((values.grad, added.grad, parameters.weight.grad, parameters.bias.grad))
    for eager, exported in zip(*gradients, strict=True):
        assert_close(exported, eager)


def test_ghosts_take_any_number_of_rows() -> None:
    layer = moved(GhostBatchNorm1d(3, virtual_batch_size=4))
    rows = torch.export.Dim("rows")
    program = torch.export.export(nn.Sequential(layer), (torch.randn(20, 3),), dynamic_shapes=({0: rows},))
    x = torch.randn(7, 3)
    assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("absent", [{"affine": False}, {"bias": False}])
def test_half_layers_leave_nothing_to_be_filled_in(absent: dict[str, bool]) -> None:
    """Exporters to ONNX put 16 bits where a parameter is absent, beside statistics in 32."""
    layer = moved(BatchNorm1d(3, **absent)).half()
    program = torch.export.export(nn.Sequential(layer), (torch.randn(4, 3).half(),))
    (node,) = [n for n in program.graph.nodes if str(n.target) == "aten.batch_norm.default"]
    assert {n.meta["val"].dtype for n in node.args[1:5]} == {torch.float32}


def test_layers_without_parameters_and_of_other_kinds() -> None:
    x = torch.randn(4, 3)
    for layer in (moved(BatchNorm1d(3, affine=False)), moved(GhostBatchNorm1d(3, virtual_batch_size=2))):
        program = torch.export.export(nn.Sequential(layer), (x,))
        assert operations(program.graph) == ["aten.batch_norm.default"]
        assert_close(program.module()(x), layer(x))


def test_a_layer_without_statistics_goes_by_the_batch() -> None:
    layer, x = BatchNorm1d(3, track_running_stats=False).eval(), torch.randn(4, 3)
    assert_close(torch.export.export(nn.Sequential(layer), (x,)).module()(x), layer(x))


REFUSED: dict[str, Callable[[], tuple[Any, Tensor, Tensor | None]]] = {
    "residual of few rows": lambda: (BatchNorm1d(3), torch.randn(4, 3), torch.randn(4, 1)),
    "residual of more dimensions": lambda: (BatchNorm1d(3), torch.randn(4, 3), torch.randn(2, 4, 3)),
    "wider values": lambda: (BatchNorm1d(3), torch.randn(4, 3).double(), None),
    "narrower values": lambda: (BatchNorm1d(3).double(), torch.randn(4, 3), None),
    "float32 for half": lambda: (BatchNorm1d(3).half(), torch.randn(4, 3), None),
    "whole numbers": lambda: (BatchNorm1d(3), torch.ones(4, 3, dtype=torch.int64), None),
    "other channels": lambda: (BatchNorm1d(3), torch.randn(4, 5), None),
    "one dimension": lambda: (BatchNorm1d(3), torch.randn(4), None),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("case", list(REFUSED))
def test_what_the_layer_refuses_is_not_exported(case: str) -> None:
    layer, x, residual = REFUSED[case]()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layer.eval()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x, residual=residual)
            return y

    model = Model().eval()
    errors = (ValueError, RuntimeError, NotImplementedError)
    with pytest.raises(errors):
        model(x)
    with pytest.raises(errors):
        torch.export.export(model, (x,))
    with pytest.raises(errors):
        torch.jit.trace(model, x, check_trace=False)


def test_a_missing_statistic_is_torchs_error() -> None:
    layer = BatchNorm1d(3).eval()
    layer.running_mean = None
    with pytest.raises(RuntimeError, match="running_mean"):
        torch.export.export(nn.Sequential(layer), (torch.randn(4, 3),))
