"""Mini-batches straight from memory: a shuffled order for each epoch, and where to cut it."""

from __future__ import annotations

import torch
from torch import Tensor


def cuts(rows: int, batch_size: int, *, least: int) -> tuple[tuple[int, int], ...]:
    """(start, stop) of every batch; a last batch smaller than `least` joins the one before it.

    >>> cuts(7, 3, least=2)
    ((0, 3), (3, 7))
    """
    starts = list(range(0, rows, batch_size))
    if len(starts) > 1 and rows - starts[-1] < least:
        starts.pop()
    return tuple(zip(starts, [*starts[1:], rows], strict=True))


def order(rows: int, *, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The rows of one epoch, shuffled: a function of seed and epoch, so that no checkpoint needs to hold it."""
    generator = torch.Generator().manual_seed((seed << 24) + epoch)
    return torch.randperm(rows, generator=generator).to(device)
