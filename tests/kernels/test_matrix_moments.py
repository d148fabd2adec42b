"""Columns' Moments by the compiled kernels: exact, NaN left out, nothing that is infinite hidden."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.kernels.parity import kernels

from batchnorm.kernels import choice
from batchnorm.kernels.matrix_moments import ColumnMoments, covers, of_columns

each_kernel = pytest.mark.parametrize("kernel", kernels()[1:])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def exact(x: torch.Tensor) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble], NDArray[np.longdouble]]:
    """Count, mean and squared deviations of each column's numbers, in long double."""
    columns = [column[~np.isnan(column)].astype(np.longdouble) for column in x.numpy().T]
    means = [column.sum() / max(len(column), 1) for column in columns]
    squares = [((column - mean) ** 2).sum() for column, mean in zip(columns, means, strict=True)]
    return np.array([len(c) for c in columns], np.longdouble), np.array(means), np.array(squares)


@each_kernel
@both_dtypes
@pytest.mark.parametrize("mean", [0.0, 1e4, 1e7])
@pytest.mark.parametrize("shape", [(2, 1), (7, 3), (1001, 5), (300, 64), (70, 1025), (70_001, 2)], ids=str)
def test_columns_equal_long_double(shape: tuple[int, int], mean: float, dtype: torch.dtype, kernel: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(mean, 1.0, shape)).to(dtype)
    with choice.using(kernel):
        assert covers(x)
        found = of_columns(x)
    count, means, m2 = exact(x)
    assert (found.count.numpy() == count).all()
    whole = found.mean.numpy().astype(np.longdouble) + found.lost.numpy()
    assert (np.abs(whole - means) <= 1e-15 + 1e-17 * np.abs(means) * (dtype == torch.float64)).all()
    assert (np.abs(found.m2.numpy() - m2) <= (1e-12 if dtype == torch.float32 else 1e-14) * m2).all()


@each_kernel
@both_dtypes
def test_nan_is_left_out_of_its_column_alone(dtype: torch.dtype, kernel: str) -> None:
    x = torch.randn((100, 4), generator=torch.Generator().manual_seed(0)).to(dtype) + 1e4
    whole = of_columns_by(kernel, x)
    x[0, 1], x[50, 2], x[:, 3] = math.nan, math.nan, math.nan
    found = of_columns_by(kernel, x)
    count, means, m2 = exact(x)
    assert found.count.tolist() == count.tolist() == [100, 99, 99, 0]
    assert all(torch.equal(mine[0], theirs[0]) for mine, theirs in zip(found, whole, strict=True))
    np.testing.assert_allclose((found.mean + found.lost).numpy(), means.astype(float), rtol=1e-15)
    np.testing.assert_allclose(found.m2.numpy(), m2.astype(float), rtol=1e-12)


@each_kernel
@both_dtypes
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_values_are_not_hidden(value: float, dtype: torch.dtype, kernel: str) -> None:
    x = torch.randn((100, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[7, 1] = value
    found = of_columns_by(kernel, x)
    assert torch.isfinite(found.m2).tolist() == [True, False, True]


@each_kernel
def test_constants_have_no_deviation(kernel: str) -> None:
    for value in (0.1, 1 / 3, 1e7 + 0.1, -1e-30):
        found = of_columns_by(kernel, torch.full((1001, 3), value, dtype=torch.float64))
        assert not found.m2.any()
        assert (found.mean == value).all()


@pytest.mark.parametrize(
    "x",
    [torch.ones(3, 4).t(), torch.ones(3), torch.ones(3, 4, dtype=torch.float16), torch.ones(3, 4, dtype=torch.int32)],
    ids=["transposed", "vector", "float16", "whole numbers"],
)
def test_what_is_no_matrix_in_order_is_not_covered(x: torch.Tensor) -> None:
    assert not covers(x)


def of_columns_by(kernel: str, x: torch.Tensor) -> ColumnMoments:
    with choice.using(kernel):
        return of_columns(x)
