"""A training batch normalized in groups of rows, each group by statistics of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from batchnorm.kernels import autograd, choice
from batchnorm.kernels.autograd import Normalization
from batchnorm.kernels.native import ACTIVATION_NUMBERS
from batchnorm.kernels.running import Running
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
        moving: the running statistics that the whole batch moves, as batch norm would; or None.
    """
    how = Normalization(None, eps)
    nothing: list[None] = [None] * len(sizes)
    # split, not slices: its one backward writes the gradient of x once, each slice's would fill all of it.
    rows = torch.split(x, sizes)
    residuals = nothing if affine.residual is None else torch.split(affine.residual, sizes)
    counts = nothing if weights is None else torch.split(weights, sizes)
    parts = []
    for part, residual, counted in zip(rows, residuals, counts, strict=True):
        y = _at_once(part, affine, residual, eps) if counted is None else None
        if y is None:
            y, _ = autograd.run(how, part, affine._replace(residual=residual), counted, None)
        parts.append(y)
    refused = None
    if moving is not None:
        with torch.no_grad():
            _, refused = autograd.run(how, x.detach(), Affine(None, None, None, None), weights, moving)
    return torch.cat(parts), refused


def _at_once(x: Tensor, affine: Affine, residual: Tensor | None, eps: float) -> Tensor | None:
    """The usual case in one call of compiled code, as a layer makes it; None where it is not the usual case."""
    call = choice.layer_call
    if call is None or torch.compiler.is_compiling():
        return None
    number, statistics = ACTIVATION_NUMBERS[affine.activation], (None, None, None)
    y: Tensor | None = call(x, affine.weight, affine.bias, *statistics, residual, 0.0, eps, number, True, 2, 5)
    return y
