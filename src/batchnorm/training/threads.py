"""How many threads torch's operations around a training step are worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from batchnorm.training.network import Network

# Multiply-adds of one forward pass below which torch's threads cost more than they bring: measured on two cores, 60 x
# 784 x 100 is as fast on one thread as on two, 256 x 784 x 512 nearly twice as fast on two. On a busy machine, whose
# threads wait for each other at every small operation, one thread is up to a hundred times faster. The compiled step
# has helpers of its own, which nobody waits for: see csrc/helpers.hpp.
_WORTH_THREADS = 30_000_000


@contextmanager
def suited_to(network: Network, batch_size: int) -> Iterator[None]:
    """One thread for this block where the network's products are small; the user's number of threads otherwise."""
    products = sum(p.numel() for p in network.parameters() if p.dim() == 2) * batch_size
    if products >= _WORTH_THREADS:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's operations in this block; then as many as before, even when the body raises."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
