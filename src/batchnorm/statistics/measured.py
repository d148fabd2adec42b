"""What a layer's input was over many batches, in sums that merge exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.moments import Moments


@dataclass(frozen=True, eq=False)
class Measured:
    """What a layer's input was over all batches. Channels of a batch that are not finite are not counted.

    Attributes:
        of_batches: (2, C), the Moments of the batches' means and of their unbiased variances, each batch weighted by
            its number of values.
        within: (C,), sum over batches of the squared deviations from the batch's own mean.
        batches: (C,), how many calls count; a layer that is called twice for a batch has two.
        refused: (C,), calls that do not count because they were not finite.
        sums: (2, C), of the batches' means and unbiased variances, each batch weighted alike; without batches of one
            value, which have no variance.
        summed: (C,), how many batches these are.
    """

    of_batches: Moments
    within: Tensor
    batches: Tensor
    refused: Tensor
    sums: Tensor
    summed: Tensor

    @property
    def total(self) -> Moments:
        """The Moments of all values: law of total variance, within the batches and between them."""
        between = self.of_batches
        return Moments(between.count[0], between.mean[0], self.within + between.m2[0])

    @classmethod
    def nothing(cls, channels: int, device: torch.device) -> Measured:
        """Before the first batch."""
        pairs = Moments.empty((2, channels), device=device).mean
        return cls(Moments(pairs, pairs, pairs), pairs[0], pairs[0], pairs[0], pairs, pairs[0])

    def merge(self, other: Measured) -> Measured:
        """Of the batches of both."""
        return Measured(
            self.of_batches.merge(other.of_batches),
            self.within + other.within,
            self.batches + other.batches,
            self.refused + other.refused,
            self.sums + other.sums,
            self.summed + other.summed,
        )


def of_one_value(value: Tensor, count: float) -> Measured:
    """A call with one value per channel, (C,), which weighs `count`."""
    good = torch.isfinite(value)
    one, zeros = good.to(value.dtype), torch.zeros_like(value)
    mean = torch.where(good, value, 0.0)
    nothing = Measured.nothing(len(value), value.device)
    pair = Moments(torch.stack([one * count, zeros]), torch.stack([mean, zeros]), nothing.sums)
    return Measured(pair, zeros, one, 1 - one, nothing.sums, zeros)
