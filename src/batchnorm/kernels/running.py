"""The exponentially weighted averages of mean and variance that test time uses, and when they must not move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.kernels import select
from batchnorm.kernels.spec import Centre


@dataclass(frozen=True)
class Running:
    """A layer's running statistics, updated in place, and how much a new batch weighs in them.

    Attributes:
        mean: (C,).
        var: (C,), of unbiased variances.
        momentum: the weight of the new batch; None for the plain average over the batches counted in `batches`.
        batches: () int64, or None where nobody counts.
    """

    mean: Tensor
    var: Tensor
    momentum: float | None
    batches: Tensor | None = None

    def update(self, centre: Centre) -> Tensor | None:
        """running = (1 - momentum) * running + momentum * batch; the variance unbiased, m2 / (M - 1).

        A channel whose mean or variance is not finite in its running dtype keeps what it had, and so does every
        channel of a batch with fewer than two values.

        Returns:
            (C,) bool, True where a channel was refused; None where none was, or where looking would wait for a device.
        """
        with torch.no_grad():
            moments = centre.moments()
            mean, variance = moments.mean, moments.variance(correction=1)
            new_mean, new_var = self._towards(self.mean, mean), self._towards(self.var, variance)
            if not _may_look(mean):
                enough = moments.count >= 2
                refused = self._not_finite(mean, variance)
                self._store(torch.where(refused | ~enough, self.mean, new_mean), torch.where(refused | ~enough, self.var, new_var))
                self._count(enough)
                return None
            if float(centre.count) < 2:
                return None
            self._count(1)
            if self._all_finite(mean, variance):
                self._store(new_mean, new_var)
                return None
            refused = self._not_finite(mean, variance)
            self._store(torch.where(refused, self.mean, new_mean), torch.where(refused, self.var, new_var))
            return refused

    def _towards(self, running: Tensor, batch: Tensor) -> Tensor:
        if self.momentum is not None:
            return torch.lerp(running.to(batch.dtype), batch, self.momentum)
        assert self.batches is not None, "a plain average needs the number of batches"
        return torch.lerp(running.to(batch.dtype), batch, 1.0 / (self.batches + 1).to(batch.dtype))

    def _store(self, mean: Tensor, var: Tensor) -> None:
        self.mean.copy_(mean)
        self.var.copy_(var)

    def _count(self, one: Tensor | int) -> None:
        if self.batches is not None:
            self.batches.add_(one)

    def _not_finite(self, mean: Tensor, variance: Tensor) -> Tensor:
        return ~(torch.isfinite(mean.to(self.mean.dtype)) & torch.isfinite(variance.to(self.var.dtype)))

    def _all_finite(self, mean: Tensor, variance: Tensor) -> bool:
        """One look at the extremes instead of four operations on every channel; NaN fails each comparison."""
        if not float(variance.max()) <= torch.finfo(self.var.dtype).max:
            return False
        return float(torch.linalg.vector_norm(mean, torch.inf)) <= torch.finfo(self.mean.dtype).max


def _may_look(statistic: Tensor) -> bool:
    return select.way(statistic) == "fused" and statistic.device.type == "cpu"
