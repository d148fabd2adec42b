"""The exponentially weighted averages of mean and variance that test time uses, and when they must not move."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import select
from batchnorm.kernels.spec import Centre


class Running(NamedTuple):
    """A layer's running statistics, updated in place, and how much a new batch weighs in them.

    Attributes:
        mean: (C,).
        var: (C,), of unbiased variances.
        momentum: the weight of the new batch; None for the plain average over the batches counted in `batches`.
        batches: () int64, or None where nobody counts.
        refusals: (C,) int64, how many of them each channel has refused; None: none.
    """

    mean: Tensor
    var: Tensor
    momentum: float | None
    batches: Tensor | None = None
    refusals: Tensor | None = None

    def starting(self) -> Running:
        """The same while few batches have been seen: the k-th weighs at least 1/k.

        So the first batches are averaged plainly, and what stood there before any, which nothing was measured by, is
        forgotten at once instead of after several times 1 / momentum batches.
        """
        assert self.momentum is not None and self.batches is not None  # noqa: PT018
        return self._replace(momentum=max(self.momentum, 1.0 / (int(self.batches) + 1)))

    def update(self, centre: Centre) -> Tensor | None:
        """running = (1 - momentum) * running + momentum * batch; the variance unbiased, m2 / (M - 1).

        A channel whose mean or variance is not finite in its running dtype keeps what it had, and so does every
        channel of a batch with fewer than two values.

        Returns:
            (C,) bool, True where a channel was refused; None where none was, or where looking would wait for a device.
        """
        if self._update_at_once(centre):
            return None
        with torch.no_grad():
            moments = centre.moments()
            # no_grad leaves forward-mode tangents on; buffers stay plain.
            mean, variance = moments.mean.detach(), moments.variance(correction=1).detach()
            kept = self._not_finite(mean, variance)
            enough = moments.count >= 2
            self._move(self.mean, mean, kept | ~enough)
            self._move(self.var, variance, kept | ~enough)
            if self.batches is not None:
                self.batches.add_(enough)
            may_look = mean.device.type == "cpu" and select.way(mean) == "fused"
            return kept if may_look and bool((kept & enough).any()) else None

    def unmoved(self, centre: Centre) -> Tensor:
        """Which channels a batch of two values or more left as they were, (C,) bool."""
        moments = centre.moments()
        return self._not_finite(moments.mean, moments.variance(correction=1))

    def _not_finite(self, mean: Tensor, variance: Tensor) -> Tensor:
        """(C,) bool: where the running dtypes cannot hold a batch's mean or variance."""
        return ~(torch.isfinite(mean.to(self.mean.dtype)) & torch.isfinite(variance.to(self.var.dtype)))

    def _update_at_once(self, centre: Centre) -> bool:
        """The usual case in the fewest operations; False, with nothing changed, where something is unusual."""
        count, momentum, anchor = centre.count, self.momentum, centre.anchor
        if isinstance(count, Tensor) or count < 2 or momentum is None or anchor.device.type != "cpu":
            return False
        if self.mean.dtype != torch.float32 or self.var.dtype != torch.float32 or select.way(anchor) != "fused":
            return False
        # The centre of float32 or narrower values has no shift, and a mean that float32 holds wherever its variance is
        # finite. NaN fails the comparison.
        if centre.shift is not None or anchor.requires_grad:
            return False
        assert centre.m2 is not None
        variance = centre.m2 / (count - 1)
        if not float(variance.max()) <= torch.finfo(torch.float32).max:
            return False
        self.mean.lerp_(anchor.to(torch.float32), momentum)
        self.var.lerp_(variance.to(torch.float32), momentum)
        if self.batches is not None:
            self.batches.add_(1)
        return True

    def _move(self, running: Tensor, batch: Tensor, kept: Tensor) -> None:
        if self.momentum is not None:
            weight: float | Tensor = self.momentum
        else:
            assert self.batches is not None, "a plain average needs the number of batches"
            taken = self.batches if self.refusals is None else self.batches - self.refusals.to(self.batches.device)
            weight = 1.0 / (taken + 1).to(batch.dtype)
        moved = torch.lerp(running.to(batch.dtype), batch, weight)
        running.copy_(torch.where(kept, running, moved.to(running.dtype)))
