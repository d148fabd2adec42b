"""The exponentially weighted averages of mean and variance that test time uses, and when they must not move."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import select
from batchnorm.kernels.spec import Centre
from batchnorm.moments import Moments, wide_dtype


class Running(NamedTuple):
    """A layer's running statistics, updated in place, and how much a new batch weighs in them.

    Attributes:
        mean: (C,).
        var: (C,), of unbiased variances.
        momentum: the weight of the new batch; None where it depends on how many are counted in `batches`.
        batches: () int64, or None where nobody counts.
        refusals: (C,) int64, how many of them each channel has refused; None: none. Counted here only where looking
            would wait for a device or is not possible: in a graph.
        corrected: with momentum None, the momentum whose bias-corrected average is kept; 0 for the plain average.
    """

    mean: Tensor
    var: Tensor
    momentum: float | None
    batches: Tensor | None = None
    refusals: Tensor | None = None
    corrected: float = 0.0

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
        return self.move_by(centre.moments())

    def move_by(self, moments: Moments) -> Tensor | None:
        """`update` by the Moments of a batch that came in parts, from several processes."""
        with torch.no_grad():
            # no_grad leaves forward-mode tangents on; buffers stay plain.
            mean, variance = moments.mean.detach(), moments.variance(correction=1).detach()
            kept = self._not_finite(mean, variance)
            enough = moments.count >= 2
            self._move(self.mean, mean, kept | ~enough)
            self._move(self.var, variance, kept | ~enough)
            if self.batches is not None:
                self.batches.add_(enough)
            if mean.device.type == "cpu" and select.way(mean) == "fused":
                return kept if bool((kept & enough).any()) else None
            if self.refusals is not None:
                self.refusals.add_((kept & enough).to(self.refusals.device))
            return None

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
            assert self.batches is not None, "such an average needs the number of batches"
            weight = corrected_momentum(self.corrected, self.batches, self.refusals).to(batch.dtype)
        moved = torch.lerp(running.to(batch.dtype), batch, weight)
        running.copy_(torch.where(kept, running, moved.to(running.dtype)))


def corrected_momentum(momentum: float, batches: Tensor, refusals: Tensor | None = None) -> Tensor:
    """The weight of the next batch in an average in which what stood there before the first batch has no share.

        momentum / (1 - (1 - momentum)^t), t = batches - refusals + 1

    So the first batch weighs 1, and after t batches the average is that of Adam's correction: the weights
    momentum * (1 - momentum)^k of the batches, over their sum. momentum = 0 is the limit, 1/t: the plain average.

    Args:
        batches: (), how many were counted before.
        refusals: (C,), how many of them each channel refused, or None.

    Returns:
        () or (C,), wide.

    Source: Kingma and Ba 2015, arXiv 1412.6980, section 3.
    """
    counted = batches if refusals is None else (batches - refusals.to(batches.device)).clamp(min=0)
    nth = counted.to(wide_dtype(batches.device)) + 1
    if momentum == 0:
        return 1 / nth
    if momentum == 1:
        return torch.ones_like(nth)
    return momentum / -torch.expm1(nth * math.log1p(-momentum))


class Gathering(Running):
    """Stands where a batch would move running statistics, and keeps its Moments instead.

    >>> gathering = Gathering.of_nothing()
    >>> gathering.update(Centre(torch.tensor([4.0]), None, torch.tensor([1.0]), torch.tensor([2.0]), 2))
    >>> gathering.found[0].mean
    tensor([4.])
    """

    found: list[Moments]

    @classmethod
    def of_nothing(cls) -> Gathering:
        """One that has no Moments yet."""
        # No momentum is what makes every kernel hand the batch's centre to update() instead of moving by it itself.
        unused = torch.zeros(1)
        gathering = cls(unused, unused, None)
        gathering.found = []
        return gathering

    def update(self, centre: Centre) -> None:
        """Keep the Moments of a batch."""
        moments = centre.moments()
        self.found.append(Moments(moments.count, moments.mean.detach(), moments.m2.detach()))


def merged_along(several: Moments) -> Moments:
    """Moments.merge of many at once. several: count (G,), mean and m2 (G, C) -> (), (C,) and (C,)."""
    counts = several.count.unsqueeze(1)
    total = several.count.sum()
    means = torch.where(counts > 0, several.mean, 0)  # the mean of no values says nothing, whatever stands there
    mean = (counts * means).sum(0) / total.clamp(min=1.0)
    m2 = several.m2.sum(0) + (counts * (means - mean) ** 2).sum(0)
    return Moments(total, mean, m2)
