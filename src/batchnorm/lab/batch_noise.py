"""The noise of a mini-batch's mean and variance, measured over many batches and as predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BATCHES, MOST_ROWS = 16_000, 256_000  # drawn per size: 1000 batches of 256 rows
AT_ONCE = 4_000_000  # values held at a time
_VARIES = 1e-3  # of a neuron that does not, eps alone is left


@dataclass(frozen=True)
class BatchNoise:
    """Each one per size of batch.

    Attributes:
        mean_std: of the batch's mean, in sigma, root mean square over neurons.
        variance: relative variance of the batch's variance, mean over neurons.
        formula: the same as predicted for that many rows; leading: as predicted for many rows.
    """

    mean_std: tuple[float, ...]
    variance: tuple[float, ...]
    formula: tuple[float, ...]
    leading: tuple[float, ...]


def relative_variance(kurtosis: Tensor, rows: int) -> Tensor:
    """Of the variance (over m) of m = `rows` independent values, as a multiple of sigma^4; kurtosis: 3 if normal.

    Source: Cramer 1946, section 27.4.

    >>> float(relative_variance(torch.tensor(3.0), 2))
    0.5
    """
    return ((rows - 1) / rows) ** 2 * (kurtosis - (rows - 3) / (rows - 1)) / rows


@torch.no_grad()
def batch_noise(z: Tensor, sizes: Sequence[int], *, seed: int, fewer: int = 1) -> BatchNoise:
    """Of many batches of rows of z (N, C), drawn with replacement; neurons that do not vary are left out.

    fewer: how many times fewer batches than usual are drawn.
    """
    z = z.double()
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    z = ((z - mean) / variance.sqrt())[:, variance > _VARIES]
    kurtosis = z.pow(4).mean(dim=0)
    generator = torch.Generator().manual_seed(seed)
    counts = [min(MOST_BATCHES, MOST_ROWS // rows) // fewer for rows in sizes]
    found = [_drawn(z.float(), rows, count, generator) for rows, count in zip(sizes, counts, strict=True)]
    formula = [float(relative_variance(kurtosis, rows).mean()) for rows in sizes]
    leading = [float((kurtosis - 1).mean()) / rows for rows in sizes]
    mean_std, squares = zip(*found, strict=True)
    return BatchNoise(mean_std, squares, tuple(formula), tuple(leading))


def _drawn(z: Tensor, rows: int, count: int, generator: torch.Generator) -> tuple[float, float]:
    """Standard deviation of the mean and variance of the variance of `count` batches. z: (N, C), columns (0, 1)."""
    variances, means = [], []
    at_once = max(1, AT_ONCE // (rows * z.shape[1]))
    for start in range(0, count, at_once):
        draws = min(at_once, count - start)
        chosen = torch.randint(len(z), (draws * rows,), generator=generator)
        batch = z.index_select(0, chosen).view(draws, rows, -1)
        variance, mean = torch.var_mean(batch, dim=1, correction=0)
        variances.append(variance)
        means.append(mean)
    spread = torch.cat(means).square().mean().sqrt()  # about 0, which is known to be the mean
    return float(spread), float(torch.cat(variances).var(dim=0).mean())
