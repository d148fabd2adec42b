"""Layers in the hands of tools that replace parameters, trace shapes, or change buffers before the backward pass."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from batchnorm import BatchNorm1d, BatchNorm2d, InputNorm
from batchnorm.errors import StatisticsWarning


def _images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2 + 1


def test_pruned_weight_is_used() -> None:
    """Pruning turns the parameter into a plain attribute; the layer once looked for it among its parameters alone."""
    layer, reference = BatchNorm2d(3), nn.BatchNorm2d(3)
    for module in (layer, reference):
        prune.custom_from_mask(module, "weight", torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(layer(_images(4, 3, 2, 2)), reference(_images(4, 3, 2, 2)))


def test_parametrized_bias_is_used() -> None:
    layer = BatchNorm1d(3)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Softplus())
    expected = nn.functional.softplus(torch.zeros(3)).expand(1, 3)
    torch.testing.assert_close(layer(_images(64, 3)).mean(0, keepdim=True), expected, atol=1e-5, rtol=0)


def test_traced_layer_that_normalizes_by_the_batch_takes_other_shapes() -> None:
    """The number of values was once a constant of the traced graph."""
    layer = BatchNorm2d(3, track_running_stats=False).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its tracer, and warns of every comparison of sizes
        traced = torch.jit.trace(layer, _images(4, 3, 2, 2), check_trace=False)
    torch.testing.assert_close(traced(_images(9, 3, 4, 4)), layer(_images(9, 3, 4, 4)))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_exported_layer_takes_any_number_of_rows(masked: bool) -> None:
    layer = BatchNorm2d(3)
    kwargs = {"mask": torch.tensor([True, True, False, True])} if masked else {}
    rows = torch.export.Dim("rows", min=2)
    shapes = {"input": {0: rows}, "residual": None, "mask": {0: rows} if masked else None}
    shapes = {name: shape for name, shape in shapes.items() if name == "input" or name in kwargs}
    program = torch.export.export(layer, (_images(4, 3, 5, 5),), kwargs, dynamic_shapes=shapes)
    more = {"mask": torch.arange(7) % 3 > 0} if masked else {}
    torch.testing.assert_close(program.module()(_images(7, 3, 5, 5), **more), layer(_images(7, 3, 5, 5), **more))


@pytest.mark.parametrize("create_graph", [False, True])
def test_evaluation_gradient_belongs_to_the_statistics_of_the_forward_pass(create_graph: bool) -> None:
    layer = BatchNorm2d(3).double().eval()
    x = _images(4, 3, 2, 2).double().requires_grad_()
    (before,) = torch.autograd.grad(layer(x).pow(2).sum(), layer.weight, create_graph=create_graph)
    y = layer(x).pow(2).sum()
    layer.running_mean.add_(1)
    layer.running_var.mul_(2)
    (after,) = torch.autograd.grad(y, layer.weight, create_graph=create_graph)
    torch.testing.assert_close(after, before)


def test_bias_may_change_between_forward_and_backward_without_activation() -> None:
    layer = BatchNorm1d(3)
    y = layer(_images(4, 3))
    with torch.no_grad():
        layer.bias.add_(1)
    y.pow(2).sum().backward()
    assert layer.bias.grad is not None


def test_input_changed_in_place_before_backward_is_refused_in_any_layout() -> None:
    w = _images(3, 4).requires_grad_()
    x = (w * 1).t()
    y = BatchNorm1d(3)(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.pow(2).sum().backward()


def test_plain_average_counts_no_batch_that_a_channel_refused() -> None:
    """The initial 0 and 1 once counted as a batch for ever after."""
    layer = BatchNorm1d(2, momentum=None)
    with pytest.warns(StatisticsWarning):
        layer(torch.tensor([[torch.inf, 0.0], [1.0, 2.0]]))
    for _ in range(4):
        layer(torch.tensor([[9.0, 9.0], [11.0, 11.0]]))
    torch.testing.assert_close(layer.running_mean, torch.tensor([10.0, (1 + 4 * 10) / 5]))
    torch.testing.assert_close(layer.running_var, torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("chunk", [1, 32, 1000])
@pytest.mark.parametrize("mean", [1e6, 1e9, 1e12])
def test_input_norm_far_from_zero_is_exact_in_any_chunks(mean: float, chunk: int) -> None:
    """Means of chunks, each rounded to one number, once cost six digits of the variance at mean 1e9."""
    rows = np.random.default_rng(0).normal(size=(5000, 2)) + mean
    exact = (rows - mean).var(0)
    norm = InputNorm(2).fit(rows[start : start + chunk] for start in range(0, len(rows), chunk))
    np.testing.assert_allclose(norm.variance.numpy(), exact, rtol=1e-11)


def test_input_norm_believes_constants_that_it_is_given() -> None:
    norm = InputNorm.from_constants([1e10], [1e-6])
    torch.testing.assert_close(norm.std, torch.tensor([1e-6], dtype=torch.float64))
    with pytest.raises(ValueError, match="of one shape"):
        InputNorm.from_constants([0.0], [1e160])


def test_input_norm_tells_neighbouring_numbers_apart() -> None:
    norm = InputNorm(1).fit(np.array([[1e15], [1e15 + 1], [1e15 + 2]]))
    torch.testing.assert_close(norm.std, torch.tensor([2 / 3], dtype=torch.float64).sqrt())


def test_input_norm_leaves_out_empty_batches_and_reads_what_it_may_not_write() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    rows.flags.writeable = False
    norm = InputNorm(2).fit([rows[:0], rows, rows[:0]])
    torch.testing.assert_close(norm.mean, torch.tensor([2.0, 3.0], dtype=torch.float64))


def test_input_norm_is_a_leaf_under_fx() -> None:
    model = nn.Sequential(InputNorm(2).fit([[0.0, 1.0], [2.0, 5.0]]), nn.Linear(2, 1))
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes][1:3] == ["call_module", "call_module"]
    torch.testing.assert_close(traced(torch.ones(3, 2)), model(torch.ones(3, 2)))
