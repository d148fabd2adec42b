"""Moments of a matrix's columns in one pass over its memory: sums in float64, no float64 copy.

    mean = first + sum (x - first) / N        m2 = sum (x - first)^2 - (sum (x - first))^2 / N

`first` is a column's first value; float64 columns take a second look, around the mean. csrc/row_passes.hpp computes it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import native
from batchnorm.moments import Moments

_DTYPES = (torch.float32, torch.float64)
_WIDENED = 1 << 21  # values at a time


class ColumnMoments(NamedTuple):
    """Each (C,) float64: how many values, their mean as mean + lost, and their squared deviations."""

    count: Tensor  # type: ignore[assignment]
    mean: Tensor
    lost: Tensor  # the digits of the mean that one number cannot hold
    m2: Tensor


def covers(x: Tensor) -> bool:
    """Whether the compiled kernels run and can take x: (N, C)."""
    return x.dim() == 2 and x.dtype in _DTYPES and x.is_contiguous() and native.covers(x)


def of_columns(x: Tensor) -> ColumnMoments:
    """The Moments of each column of x: (N, C), covered; NaN is left out.

    Columns whose Moments are not finite are computed again by `Moments.of`, which knows NaN: infinite values and what
    overflows float64 stay as they are.
    """
    rows, columns = x.shape
    block = torch.empty((4, columns), dtype=torch.float64)
    native.module_for(x).statistics(rows, columns, native.ELEMENTS[x.dtype], x.data_ptr(), block.data_ptr())
    mean, lost, _, m2 = block
    found = ColumnMoments(torch.full_like(mean, rows), mean, lost, m2)
    unknown = ~torch.isfinite(mean + lost + m2)
    if bool(unknown.any()):
        for mine, theirs in zip(found, _leaving_out_nan(x, unknown), strict=True):
            mine[unknown] = theirs
    return found


def _leaving_out_nan(x: Tensor, columns: Tensor) -> ColumnMoments:
    """Of the columns, (C,) bool, of x: (N, C), as many rows at a time as may be widened."""
    number = int(columns.sum())
    near, around = torch.zeros(number, dtype=torch.float64), Moments.empty((number,))
    infinite = torch.zeros(number, dtype=torch.bool)
    for rows in torch.split(x, max(1, _WIDENED // number)):
        part = rows[:, columns].double()
        if bool((around.count == 0).any()):
            near = torch.where(around.count == 0, Moments.of(part, dims=0, ignore_nan=True).mean, near)
        around = around.merge(Moments.of(part - near, dims=0, ignore_nan=True))
        infinite |= torch.isinf(part).any(0)
    # Less an infinite mean infinite values are NaN, too: they must not be left out.
    return ColumnMoments(around.count, near, around.mean, torch.where(infinite, torch.nan, around.m2))
