"""In which order a batch lies in memory, and so its normalized values: contiguous or channels-last, as torch has it."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out(x: Tensor) -> Tensor:
    """x, or where its memory is neither contiguous nor channels-last a copy in the nearer of the two, as in torch."""
    rank = x.dim()
    if rank == 2 and x.stride() == (x.shape[1], 1):
        return x
    if torch._C._functorch.peek_interpreter_stack() is not None or x.is_contiguous():
        return x
    if rank in (4, 5):
        last = torch.channels_last if rank == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=last):
            return x
        if _suggests_channels_last(x):
            return x.contiguous(memory_format=last)
    return x.contiguous()


def _suggests_channels_last(x: Tensor) -> bool:
    """Whether strides grow from channels over positions to rows: torch's rule for what is in neither format."""
    least = 0
    for d in (1, *range(x.dim() - 1, 1, -1), 0):
        if x.stride(d) < least or (d == 0 and least == x.stride(1)):
            return False
        least = x.stride(d) * x.shape[d]
    return x.stride(1) != 0
