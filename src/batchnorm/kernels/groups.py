"""A training batch normalized in groups of rows, each group by statistics of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from batchnorm.kernels import autograd
from batchnorm.kernels.autograd import Normalization
from batchnorm.kernels.running import Gathering, Running
from batchnorm.kernels.spec import Affine


def group_sizes(rows: int, size: int, positions: int) -> list[int]:
    """How many rows each group has: `size`, and what is left over in a group of its own.

    A last group of one value per channel has no variance: it joins the group before it.

    >>> group_sizes(10, 4, 1), group_sizes(9, 4, 1), group_sizes(9, 4, 49), group_sizes(3, 4, 1)
    ([4, 4, 2], [4, 5], [4, 4, 1], [3])
    """
    whole, rest = rows // size, rows % size  # torch.compile knows no divmod
    sizes = [size] * whole + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] * positions == 1:
        last = sizes.pop()
        sizes[-1] += last
    return sizes


def run_in_groups(
    x: Tensor, affine: Affine, sizes: list[int], *, eps: float, weights: Tensor | None, moving: Running | None
) -> tuple[Tensor, Tensor | None]:
    """y: (N, C, *), and which of `moving`'s channels were refused ((C,) bool), None if none.

    Args:
        x: (N, C, *), not empty.
        sizes: rows per group, N in all.
        weights: how often each position counts, (N, 1, *), or None. A group in which one value counts comes out beta.
        moving: the running statistics that the Moments of all groups, merged, move; or None.
    """
    gathering = None if moving is None else Gathering.of_nothing()
    residual = affine.residual
    parts = []
    for start, rows in zip(_starts(sizes), sizes, strict=True):
        of_group = affine._replace(residual=None if residual is None else residual.narrow(0, start, rows))
        counted = None if weights is None else weights.narrow(0, start, rows)
        part, _ = autograd.run(Normalization(None, eps), x.narrow(0, start, rows), of_group, counted, gathering)
        parts.append(part)
    refused = None if moving is None or gathering is None else moving.move_by(gathering.merged())
    return torch.cat(parts), refused


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts
