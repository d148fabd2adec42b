"""momentum from a half-life."""

from __future__ import annotations

import math


def half_life(batches: float) -> float:
    """The momentum with which a batch's weight in the running statistics has halved `batches` batches later.

        momentum = 1 - 2^(-1 / batches)

    A plain number: any layer takes it as `momentum`, torch.nn's too. 0.1, torch's default, is a half-life of 6.6.

    Args:
        batches: more than 0; not necessarily whole. For a half-life in rows, divide by the batch size.

    Raises:
        TypeError: no number.
        ValueError: not a number above 0, or infinite.

    >>> half_life(1)
    0.5
    >>> from batchnorm.nn import BatchNorm1d
    >>> BatchNorm1d(64, momentum=half_life(100))
    BatchNorm1d(64, eps=1e-05, momentum=0.006907504562964099, affine=True, bias=True, track_running_stats=True)
    """
    if isinstance(batches, bool) or not hasattr(batches, "__float__"):
        raise TypeError(f"half_life expected a number of batches above 0, got {type(batches).__name__}")
    if not (math.isfinite(batches) and batches > 0):
        raise ValueError(
            f"half_life expected a number of batches above 0, got {batches}: 100 halves a batch's weight in 100 "
            "batches (momentum=0.0 never moves, momentum=None weighs all batches alike)"
        )
    return -math.expm1(-math.log(2) / batches)
