"""Running statistics: the weighted average, the unbiased variance, and every reason not to move."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Centre

DTYPES = [torch.float32, torch.float64]


def centre(mean: list[float], variance: list[float], count: float | Tensor = 5.0) -> Centre:
    """What a batch of `count` values with this mean and biased variance leaves."""
    wide = torch.tensor(mean, dtype=torch.float64)
    m2 = torch.tensor(variance, dtype=torch.float64) * count
    return Centre(wide, None, torch.rsqrt(m2 / count), m2, count)


def running(dtype: torch.dtype = torch.float32, *, momentum: float | None = 0.1, batches: int | None = 0) -> Running:
    counter = None if batches is None else torch.tensor(batches)
    return Running(torch.tensor([1.0, -1.0], dtype=dtype), torch.tensor([2.0, 4.0], dtype=dtype), momentum, counter)


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# The usual float32 update has a way of its own; a count in a tensor goes the general one.
each_count = pytest.mark.parametrize("count", [5.0, torch.tensor(5.0, dtype=torch.float64)], ids=["usual", "general"])


@each_dtype
@each_count
def test_update_is_the_weighted_average_with_the_unbiased_variance(dtype: torch.dtype, count: Any) -> None:
    r = running(dtype)
    assert r.update(centre([11.0, 9.0], [4.0, 8.0], count)) is None
    assert_close(r.mean, torch.tensor([0.9 * 1 + 0.1 * 11, 0.9 * -1 + 0.1 * 9], dtype=dtype))
    assert_close(r.var, torch.tensor([0.9 * 2 + 0.1 * 5, 0.9 * 4 + 0.1 * 10], dtype=dtype))
    assert r.batches is not None
    assert int(r.batches) == 1


@each_dtype
@each_count
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_at_its_bounds_keeps_or_takes_everything(dtype: torch.dtype, count: Any, momentum: float) -> None:
    r = running(dtype, momentum=momentum)
    r.update(centre([11.0, 9.0], [4.0, 8.0], count))
    expected = ([1.0, -1.0], [2.0, 4.0]) if momentum == 0 else ([11.0, 9.0], [5.0, 10.0])
    assert (r.mean.tolist(), r.var.tolist()) == expected


@each_dtype
def test_no_momentum_is_the_plain_average_over_the_batches(dtype: torch.dtype) -> None:
    r = running(dtype, momentum=None)
    for mean in (3.0, 6.0, 15.0):
        r.update(centre([mean, -mean], [4.0, 8.0]))
    assert_close(r.mean, torch.tensor([8.0, -8.0], dtype=dtype))
    assert_close(r.var, torch.tensor([5.0, 10.0], dtype=dtype))


def test_no_momentum_without_a_counter_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="needs the number of batches"):
        running(momentum=None, batches=None).update(centre([1.0, 1.0], [1.0, 1.0]))


@each_count
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("mean", "variance"),
    [(math.nan, math.nan), (1.0, math.nan), (math.inf, math.nan), (1.0, math.inf), (1.0, 1e39)],
    ids=["nan-mean", "nan-variance", "inf-mean", "inf-variance", "overflows-float32"],
)
def test_channel_that_is_not_finite_keeps_its_values_while_others_move(
    mean: float, variance: float, momentum: float | None, count: Any
) -> None:
    r = running(momentum=momentum)
    refused = r.update(centre([mean, 9.0], [variance, 8.0], count))
    assert refused is not None
    assert refused.tolist() == [True, False]
    assert (r.mean[0].item(), r.var[0].item()) == (1.0, 2.0)
    assert r.mean[1].item() != -1.0
    assert r.var[1].item() != 4.0
    assert int(r.batches) == 1


def test_what_overflows_float32_fits_a_float64_layer() -> None:
    r = running(torch.float64)
    assert r.update(centre([1.0, 9.0], [1e39, 8.0])) is None
    assert r.var[0].item() == pytest.approx(0.9 * 2 + 0.1 * 1.25e39)


@pytest.mark.parametrize("count", [0.0, 1.0])
@pytest.mark.parametrize("in_tensor", [False, True])
def test_fewer_than_two_values_move_nothing_and_are_not_counted(count: float, in_tensor: bool) -> None:
    r = running()
    found = centre([5.0, 5.0], [0.0, 0.0], 2.0)
    counted = torch.tensor(count, dtype=torch.float64) if in_tensor else count
    assert r.update(found._replace(count=counted)) is None
    assert r.mean.tolist() == [1.0, -1.0]
    assert r.var.tolist() == [2.0, 4.0]
    assert int(r.batches) == 0


def test_two_values_are_enough() -> None:
    r = running(momentum=1.0)
    r.update(centre([5.0, 5.0], [1.0, 4.0], 2.0))
    assert r.var.tolist() == [2.0, 8.0]


@each_count
def test_update_happens_in_place(count: Any) -> None:
    r = running()
    mean, var = r.mean, r.var
    before = mean.data_ptr(), var.data_ptr()
    r.update(centre([11.0, 9.0], [4.0, 8.0], count))
    assert (mean.data_ptr(), var.data_ptr()) == before
    assert mean[0].item() != 1.0


def test_update_of_a_centre_that_wants_gradients_keeps_the_buffers_out_of_the_graph() -> None:
    r = running()
    found = centre([11.0, 9.0], [4.0, 8.0])
    r.update(found._replace(anchor=found.anchor.requires_grad_(), m2=found.m2.requires_grad_()))
    assert not r.mean.requires_grad
    assert not r.var.requires_grad


def test_both_ways_of_updating_agree() -> None:
    usual, general = running(), running()
    usual.update(centre([11.0, 9.0], [4.0, 8.0], 5.0))
    general.update(centre([11.0, 9.0], [4.0, 8.0], torch.tensor(5.0, dtype=torch.float64)))
    assert_close(usual.mean, general.mean)
    assert_close(usual.var, general.var)
