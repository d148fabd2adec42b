"""Ghost batch norm: each group is a batch of its own, the running statistics are the whole batch's.

The oracle cuts the batch up in NumPy and solves each piece in long double.
"""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.exact import ACTIVATIONS, Problem, differentiate, solve
from tests.reference.problems import draw, leaves
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import batchnorm
from batchnorm.nn import BatchNorm1d, BatchNorm2d, GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d

LAYERS = {2: GhostBatchNorm1d, 3: GhostBatchNorm1d, 4: GhostBatchNorm2d, 5: GhostBatchNorm3d}

# A batch's shape, the size of a group, and the groups that this must give.
CASES: list[tuple[tuple[int, ...], int, list[int]]] = [
    ((12, 3), 4, [4, 4, 4]),
    ((10, 3), 4, [4, 4, 2]),
    ((9, 3), 4, [4, 5]),  # one row alone would have one value per channel
    ((9, 3, 2), 4, [4, 4, 1]),  # but two positions are two values
    ((3, 3), 4, [3]),
    ((5, 2, 3, 2), 2, [2, 2, 1]),
    ((4, 2, 2, 1, 3), 1, [1, 1, 1, 1]),
]
each_case = pytest.mark.parametrize(("shape", "size", "groups"), CASES, ids=str)


def pieces(problem: Problem, groups: list[int]) -> list[Problem]:
    """The groups as problems of their own."""
    ends = np.cumsum(groups)

    def cut(values: Any, start: int, end: int) -> Any:
        return None if values is None else values[start:end]

    return [
        replace(
            problem,
            x=problem.x[end - rows : end],
            residual=cut(problem.residual, end - rows, end),
            counts=cut(problem.counts, end - rows, end),
        )
        for rows, end in zip(groups, ends, strict=True)
    ]


def layer_of(problem: Problem, size: int, **settings: Any) -> nn.Module:
    channels = problem.x.shape[1]
    layer = LAYERS[problem.x.ndim](
        channels, problem.eps, virtual_batch_size=size, activation=problem.activation, dtype=torch.float64, **settings
    )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(problem.gamma))
        layer.bias.copy_(torch.from_numpy(problem.beta))
    return layer


def answer(layer: nn.Module, problem: Problem, given: dict[str, Tensor]) -> Tensor:
    mask = None if problem.counts is None else torch.from_numpy(problem.counts > 0)
    return layer(given["x"], residual=given.get("residual"), mask=mask)


@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "masked"])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@each_case
def test_forward_and_backward_equal_the_groups_one_by_one(
    shape: tuple[int, ...], size: int, groups: list[int], activation: str | None, masked: bool
) -> None:
    problem = draw(shape, activation=activation, residual=True, masked=masked)
    layer, given = layer_of(problem, size), leaves(problem)
    y = answer(layer, problem, given)
    exact = np.concatenate([solve(piece).y for piece in pieces(problem, groups)])
    np.testing.assert_allclose(y.detach(), exact.astype(float), rtol=0, atol=1e-11)

    dy = np.random.default_rng(1).normal(size=shape)
    asked = [given["x"], layer.weight, layer.bias, given["residual"]]
    found = torch.autograd.grad(y, asked, torch.from_numpy(dy))
    ends = np.cumsum(groups)
    each = [
        differentiate(piece, dy[end - rows : end])
        for piece, rows, end in zip(pieces(problem, groups), groups, ends, strict=True)
    ]
    expected = (
        np.concatenate([g.x for g in each]),
        sum(g.gamma for g in each),
        sum(g.beta for g in each),
        np.concatenate([g.residual for g in each]),
    )
    for name, ours, theirs in zip(("x", "weight", "bias", "residual"), found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.astype(float), rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "masked"])
@each_case
def test_running_statistics_are_those_of_the_whole_batch(
    shape: tuple[int, ...], size: int, groups: list[int], masked: bool
) -> None:
    """Not the mean of the groups' variances, which leaves out how far the groups' means are apart."""
    problem = draw(shape, masked=masked)
    problem = replace(problem, x=problem.x + 100 * np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)))
    layer = layer_of(problem, size)
    answer(layer, problem, leaves(problem))
    whole = solve(problem)
    unbiased = whole.variance * whole.count / (whole.count - 1)
    np.testing.assert_allclose(layer.running_mean, 0.1 * whole.mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * unbiased.astype(float), rtol=1e-12)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"debias": True}, {"activation": "gelu"}], ids=str)
def test_one_group_is_batch_norm_to_the_bit(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    ghost = GhostBatchNorm2d(3, virtual_batch_size=8, dtype=dtype, **settings)
    plain = BatchNorm2d(3, dtype=dtype, **settings)
    for seed in range(3):
        x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert_close(ghost(x), plain(x), rtol=0, atol=0)
    # A plain average in float64 is moved here by torch's operations, there by the kernels, which keep a digit more.
    last_bit = 4e-16 if dtype == torch.float64 and "momentum" in settings else 0
    assert_close(ghost.state_dict(), plain.state_dict(), rtol=last_bit, atol=0)


@pytest.mark.parametrize("tracks", [True, False])
def test_evaluation_is_batch_norms(tracks: bool) -> None:
    ghost = GhostBatchNorm1d(3, virtual_batch_size=2, track_running_stats=tracks)
    plain = BatchNorm1d(3, track_running_stats=tracks)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 3
    ghost(x)
    plain.load_state_dict(ghost.state_dict())
    assert_close(ghost.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_float32_running_statistics_keep_a_large_mean() -> None:
    """E[x^2] - E[x]^2 would leave nothing of a variance of 1 beside a mean of 1e6."""
    layer = GhostBatchNorm1d(1, momentum=1.0, virtual_batch_size=64)
    x = 1e6 + torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer(x.float())
    assert_close(layer.running_var.double(), x.float().double().var(0), rtol=1e-6, atol=0)


def test_group_with_one_counted_row_comes_out_beta() -> None:
    layer = GhostBatchNorm1d(2, virtual_batch_size=2)
    nn.init.constant_(layer.bias, 3.0)
    mask = torch.tensor([True, False, True, True])
    y = layer(torch.randn(4, 2), mask=mask)
    assert_close(y[:2], torch.tensor([[3.0, 3.0], [0.0, 0.0]]))


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_channel_with_nan_in_one_group_keeps_its_running_values() -> None:
    layer = GhostBatchNorm1d(2, virtual_batch_size=2)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)) + 5
    x[3, 0] = torch.nan
    y = layer(x)
    assert y[:, 0].isnan().tolist() == [False, False, True, True, False, False]
    assert layer.running_mean[0] == 0 and layer.running_var[0] == 1  # noqa: PT018
    assert layer.running_mean[1] > 0


def test_memory_format_stays() -> None:
    x = torch.randn(7, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = GhostBatchNorm2d(3, virtual_batch_size=2)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_activation_checkpointing_counts_a_batch_once() -> None:
    layer = GhostBatchNorm1d(3, virtual_batch_size=2)
    x = torch.randn(6, 3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert layer.num_batches_tracked == 1


def test_second_derivatives_equal_differences() -> None:
    layer = GhostBatchNorm1d(2, virtual_batch_size=3, track_running_stats=False, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_compiled_layer_equals_the_layer() -> None:
    layer = GhostBatchNorm1d(3, virtual_batch_size=4)
    compiled_layer = copy.deepcopy(layer)
    compiled = torch.compile(compiled_layer, backend="aot_eager", fullgraph=True)
    for rows in (8, 10):
        x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
        assert_close(compiled(x), layer(x))
    assert_close(compiled_layer.state_dict(), layer.state_dict())


def test_layer_is_torchs_in_keys_type_copies_and_pickles() -> None:
    layer = GhostBatchNorm1d(3, virtual_batch_size=4, activation="relu")
    assert isinstance(layer, nn.BatchNorm1d)
    assert list(layer.state_dict()) == list(nn.BatchNorm1d(3).state_dict())
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    x = torch.randn(9, 3)
    assert_close(again(x), layer(x), rtol=0, atol=0)
    assert "activation=relu, virtual_batch_size=4" in repr(layer)
    assert batchnorm.GhostBatchNorm1d is GhostBatchNorm1d


def test_empty_batch_is_not_counted() -> None:
    layer = GhostBatchNorm1d(3, virtual_batch_size=4)
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_virtual_batch_size_that_is_none_is_refused(size: Any) -> None:
    said = f"GhostBatchNorm1d virtual_batch_size expected a number of rows, 1 or more, got {size!r}"
    with pytest.raises(ValueError, match=re.escape(said)):
        GhostBatchNorm1d(3, virtual_batch_size=size)


def test_groups_of_one_value_are_refused() -> None:
    layer = GhostBatchNorm1d(3, virtual_batch_size=1)
    with pytest.raises(ValueError, match=r"more than 1 value per channel .* virtual_batch_size=1: give it 2 or more"):
        layer(torch.randn(4, 3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GhostBatchNorm1d(3, virtual_batch_size=2)(torch.randn(4, 3), mask=torch.tensor([True, False, False, False]))


def test_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("residual expected the input's shape (6, 3), got (4, 3)")):
        GhostBatchNorm1d(3, virtual_batch_size=2)(torch.randn(6, 3), residual=torch.randn(4, 3))


def test_torchs_converter_that_would_drop_the_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="would drop virtual_batch_size=4 of this GhostBatchNorm1d"):
        nn.SyncBatchNorm.convert_sync_batchnorm(GhostBatchNorm1d(3, virtual_batch_size=4))
