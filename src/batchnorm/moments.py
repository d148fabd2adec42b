"""Moments: how many values there were, their mean, and their squared deviations; the currency of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest dtype that `device` can add in: float64, but float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of some values, one entry per channel.

    `variance = m2 / count`. Two Moments of disjoint values merge exactly into the Moments of all of them, so
    a mini-batch, a chunk of a file, a rank of a cluster and a running average are all said in it.

    Attributes:
        count: (), or the shape of `mean` where channels saw different numbers of values; float64.
        mean: (C,) or any shape of features, float64.
        m2: like `mean`: sum over the values of (value - mean)^2, never a difference of squares.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    >>> import torch
    >>> a = Moments.of(torch.tensor([[0.0], [2.0]]), dims=0)
    >>> b = Moments.of(torch.tensor([[100.0], [102.0]]), dims=0)
    >>> a.merge(b).variance()
    tensor([2501.], dtype=torch.float64)
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def empty(cls, shape: Sequence[int] = (), *, device: torch.device | str | None = None) -> Moments:
        """The Moments of no values: merging with it changes nothing."""
        wide = wide_dtype(torch.device(device or "cpu"))
        zeros = torch.zeros(tuple(shape), dtype=wide, device=device)
        return cls(torch.zeros((), dtype=wide, device=device), zeros, zeros)

    @classmethod
    def of(
        cls, x: Tensor, *, dims: int | Sequence[int], weights: Tensor | None = None, ignore_nan: bool = False
    ) -> Moments:
        """The Moments of `x` over `dims`.

        Args:
            x: (N, C, *) or any shape, real.
            dims: the dimensions that are summed over; those left are the channels.
            weights: how often each value counts, not negative, broadcast against x; None is once.
            ignore_nan: leave NaN out and count per channel.

        >>> Moments.of(torch.tensor([[1.0, 5.0], [3.0, float("nan")]]), dims=0, ignore_nan=True).mean
        tensor([2., 5.], dtype=torch.float64)
        """
        given = (dims,) if isinstance(dims, int) else tuple(dims)
        if not given or any(not -x.dim() <= d < x.dim() for d in given):
            raise ValueError(f"Moments.of expected dims of an input of shape {tuple(x.shape)}, got {dims}")
        reduced = tuple(d % x.dim() for d in given)
        values = x.to(wide_dtype(x.device))
        if ignore_nan:
            seen = (~torch.isnan(values)).to(values.dtype)
            weights = seen if weights is None else seen * weights
        if weights is None:
            count = values.new_tensor(float(torch.Size(x.shape[d] for d in reduced).numel()))
        else:
            weights = weights.to(values.dtype).expand(values.shape)
            count = weights.sum(reduced, keepdim=True)
            values = torch.where(weights > 0, values, 0)

        def total(v: Tensor) -> Tensor:
            return (v if weights is None else v * weights).sum(reduced, keepdim=True)

        some = torch.where(count > 0, count, 1.0)
        mean = total(values) / some
        deviation = values - mean
        # Where values are as wide as their sum the mean above is rounded: what it lacks is found in the deviations.
        shift = total(deviation) / some
        deviation = deviation - shift
        m2 = total(deviation * deviation).squeeze(reduced)
        return cls(count if weights is None else count.squeeze(reduced), (mean + shift).squeeze(reduced), m2)

    def merge(self, other: Moments) -> Moments:
        """The Moments of the values of both; associative and commutative up to rounding."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1e-300 if count.dtype == torch.float64 else 1e-30)
        delta = other.mean - self.mean
        # The mean of no values says nothing, whatever stands there.
        delta = torch.where((self.count > 0) & (other.count > 0), delta, torch.where(other.count > 0, other.mean, 0.0))
        start = torch.where(self.count > 0, self.mean, 0.0)
        return Moments(count, start + delta * share, self.m2 + other.m2 + delta * delta * (self.count * share))

    def variance(self, *, correction: int = 0) -> Tensor:
        """m2 / (count - correction): 0 the biased variance, 1 the unbiased; 0 where there are too few values."""
        degrees = self.count - correction
        return torch.where(degrees > 0, self.m2 / degrees.clamp(min=1e-30), torch.zeros_like(self.m2))
