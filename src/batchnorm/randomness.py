"""Runs that leave random numbers as they found them, and so draw the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@contextmanager
def same_randomness() -> Iterator[None]:
    """Put the generators of torch, Python and NumPy back afterwards to where they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@dataclass(frozen=True)
class Drawn:
    """How far the generators on the CPU have got; two that are equal say that nothing was drawn in between."""

    state: tuple[Any, ...]

    @classmethod
    def so_far(cls) -> Drawn:
        """Their state now."""
        numpy: Any = np.random.get_state()
        return cls((torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2]))
