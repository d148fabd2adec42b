"""Moments: what they hold, against the exact oracle; the laws of `merge` are in properties/test_moments_laws.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.reference.exact import Problem, solve
from torch.testing import assert_close

from batchnorm import Moments
from batchnorm.moments import wide_dtype


def test_moments_of_a_batch_equal_the_exact_mean_and_variance() -> None:
    x = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 100
    found = Moments.of(x, dims=(0, 2))
    exact = solve(Problem(x.numpy()))
    assert float(found.count) == 28
    np.testing.assert_allclose(found.mean, exact.mean.astype(float), rtol=1e-15)
    np.testing.assert_allclose(found.variance(), exact.variance.astype(float), rtol=1e-14)
    np.testing.assert_allclose(found.variance(correction=1), (exact.variance * 28 / 27).astype(float), rtol=1e-14)


@pytest.mark.parametrize("mean", [0.0, 1e4, 1e7, 1e12])
def test_m2_far_from_zero_loses_no_digits(mean: float) -> None:
    """E[x^2] - E[x]^2 gives -2e7 to 4e7 here where 1 is right."""
    x = torch.from_numpy(np.random.default_rng(1).normal(mean, 1, (1000, 2)))
    exact = solve(Problem(x.numpy()))
    np.testing.assert_allclose(Moments.of(x, dims=0).variance(), exact.variance.astype(float), rtol=1e-13)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32, torch.bool]
)
def test_moments_of_any_dtype_are_float64(dtype: torch.dtype) -> None:
    found = Moments.of(torch.tensor([[0, 1], [1, 1]]).to(dtype), dims=0)
    assert {found.count.dtype, found.mean.dtype, found.m2.dtype} == {torch.float64}
    assert_close(found.mean, torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert_close(found.m2, torch.tensor([0.5, 0.0], dtype=torch.float64))


def test_float16_values_whose_sum_overflows_float16_have_a_mean() -> None:
    assert float(Moments.of(torch.full((1000, 1), 60000.0, dtype=torch.float16), dims=0).mean) == 60000


@pytest.mark.parametrize("dims", [1, -2, (1,), (-2,)])
def test_dimensions_may_be_negative_or_alone(dims: int | tuple[int, ...]) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    found = Moments.of(x, dims=dims)
    assert found.mean.shape == (2, 4)
    assert_close(found.mean, x.double().mean(1))


def test_weights_count_values_as_often_as_they_say() -> None:
    x = torch.tensor([[1.0, 2.0], [5.0, 6.0], [9.0, 1.0]])
    weighted = Moments.of(x, dims=0, weights=torch.tensor([[2.0], [0.0], [1.0]]))
    repeated = Moments.of(x[[0, 0, 2]], dims=0)
    assert_close(weighted.mean, repeated.mean)
    assert_close(weighted.m2, repeated.m2)
    assert weighted.count.tolist() == [3.0, 3.0]


def test_values_of_weight_zero_may_be_anything() -> None:
    x = torch.tensor([[1.0], [float("nan")], [float("inf")], [3.0]])
    found = Moments.of(x, dims=0, weights=torch.tensor([[1.0], [0.0], [0.0], [1.0]]))
    assert (found.mean.item(), found.m2.item(), found.count.item()) == (2.0, 2.0, 2.0)


def test_nan_is_left_out_per_channel_where_asked() -> None:
    nan = float("nan")
    found = Moments.of(torch.tensor([[1.0, nan, nan], [3.0, 4.0, nan]]), dims=0, ignore_nan=True)
    assert found.count.tolist() == [2, 1, 0]
    assert found.mean.tolist() == [2, 4, 0]
    assert found.m2.tolist() == [2, 0, 0]


def test_nan_is_left_out_together_with_weights() -> None:
    x = torch.tensor([[1.0], [float("nan")], [4.0]])
    found = Moments.of(x, dims=0, weights=torch.tensor([[2.0], [5.0], [1.0]]), ignore_nan=True)
    assert (found.count.item(), found.mean.item(), found.m2.item()) == (3.0, 2.0, 6.0)


def test_nan_stays_where_it_is_not_asked_to_go() -> None:
    found = Moments.of(torch.tensor([[1.0, 1.0], [float("nan"), 3.0]]), dims=0)
    assert torch.isnan(found.mean).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_moments_of_no_values_are_zeros(shape: tuple[int, int]) -> None:
    found = Moments.of(torch.empty(shape), dims=0)
    assert found.mean.shape == (shape[1],)
    assert found.mean.tolist() == found.m2.tolist() == [0.0] * shape[1]
    assert found.count.item() == shape[0]


def test_constant_channel_has_no_deviation_whatever_the_count() -> None:
    for value in (0.1, 1 / 3, 1e7 + 0.1, -7.7):
        found = Moments.of(torch.full((1001, 1), value, dtype=torch.float64), dims=0)
        assert found.mean.item() == value
        assert found.m2.item() <= (1e-16 * value) ** 2


def test_empty_is_neutral_on_both_sides() -> None:
    some = Moments.of(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), dims=0)
    for merged in (some.merge(Moments.empty((2,))), Moments.empty((2,)).merge(some), Moments.empty().merge(some)):
        assert_close(merged.mean, some.mean, rtol=0, atol=0)
        assert_close(merged.m2, some.m2, rtol=0, atol=0)
        assert merged.count.item() == 2


def test_merging_nothing_with_nothing_is_nothing() -> None:
    merged = Moments.empty((2,)).merge(Moments.empty((2,)))
    assert merged.count.item() == 0
    assert merged.mean.tolist() == merged.m2.tolist() == [0, 0]


def test_mean_of_an_empty_side_is_not_looked_at() -> None:
    nonsense = Moments(torch.zeros(()).double(), torch.tensor([float("nan")]).double(), torch.zeros(1).double())
    some = Moments.of(torch.tensor([[1.0], [3.0]]), dims=0)
    assert some.merge(nonsense).mean.tolist() == nonsense.merge(some).mean.tolist() == [2.0]


def test_counts_may_differ_from_channel_to_channel() -> None:
    nan = float("nan")
    first = torch.tensor([[1.0, nan, 4.0], [2.0, nan, nan]])
    second = torch.tensor([[nan, 7.0, 0.0]])
    merged = Moments.of(first, dims=0, ignore_nan=True).merge(Moments.of(second, dims=0, ignore_nan=True))
    whole = Moments.of(torch.cat([first, second]), dims=0, ignore_nan=True)
    assert_close(merged.count, whole.count)
    assert_close(merged.mean, whole.mean)
    assert_close(merged.m2, whole.m2)


def test_variance_of_too_few_values_is_zero() -> None:
    one = Moments.of(torch.tensor([[5.0]]), dims=0)
    assert one.variance().item() == one.variance(correction=1).item() == 0
    assert Moments.empty((1,)).variance().item() == 0


def test_variance_does_not_depend_on_the_scale_of_the_values() -> None:
    """1e-30 squared is far below the smallest float32."""
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = Moments.of(x, dims=0).variance()
    for scale in (1e-30, 1e18, 1e100):
        assert_close(Moments.of(x * scale, dims=0).variance() / scale / scale, unit, rtol=1e-14, atol=0)


def test_moments_are_frozen() -> None:
    moments = Moments.empty((1,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        moments.mean = torch.ones(1)  # type: ignore[misc]


def test_wide_dtype_is_float64_but_on_apples_gpus() -> None:
    assert wide_dtype(torch.device("cpu")) == wide_dtype(torch.device("cuda")) == torch.float64
    assert wide_dtype(torch.device("mps")) == torch.float32
