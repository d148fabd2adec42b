"""A layer that normalizes every batch by its own statistics and the source's together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchnorm.moments import Moments
from batchnorm.statistics.layers import Statistics
from batchnorm.statistics.measured import Measured
from batchnorm.statistics.meter import Meter


@dataclass(frozen=True)
class Mixing:
    """How source and target are weighed.

        mean     = a * mean_s + (1 - a) * mean_t                                 a = prior / (prior + n)
        variance = a * var_s + (1 - a) * var_t                                   convex
        variance = a * var_s + (1 - a) * var_t + a (1 - a) (mean_s - mean_t)^2   mixture: of all values together

    Attributes:
        prior: how many examples the source statistics count for.
        mixture: the full variance.

    Source: Schneider et al. 2020, arXiv 2006.16971, equation 2: the convex variance.
    """

    prior: float
    mixture: bool

    def of(self, source: Statistics, target: Moments, rows: float) -> Statistics:
        """Statistics in the source's dtype; a channel that the target has no value of keeps the source's.

        Args:
            source: (C,) each.
            target: (C,), all of its values; its own variance is the biased one.
            rows: n, how many examples these come from.
        """
        mean_s, var_s = source.mean.to(target.mean.dtype), source.var.to(target.mean.dtype)
        # As Moments: `prior` values of the source, and `rows` of the target, however many positions a row has.
        merged = Moments(torch.full_like(mean_s, self.prior), mean_s, self.prior * var_s).merge(
            Moments(torch.full_like(mean_s, rows), target.mean, rows * target.variance())
        )
        variance = merged.variance()
        if not self.mixture:
            share = self.prior / (self.prior + rows)
            variance = share * var_s + (1 - share) * target.variance()
        some = target.count > 0
        return Statistics(
            torch.where(some, merged.mean, mean_s).to(source.mean.dtype),
            torch.where(some, variance, var_s).to(source.var.dtype),
        )


class Mixer:
    """Stands where a layer's forward was: measures a batch as in training, then normalizes it by the mixture.

    Used inside `as_found` alone, for one batch.

    Attributes:
        layer: the layer.
        rows: examples that went through it.
        sum: what they were.
    """

    def __init__(self, layer: Any, mixing: Mixing) -> None:
        self.layer = layer
        self._mixing = mixing
        self._meter = Meter(layer)
        self._source = Statistics(*self._meter.old)
        self.rows = 0
        self.sum = Measured.nothing(len(self._source.mean), self._source.mean.device)
        own = vars(layer)
        self._measure = {name: own[name] for name in self._meter.forwards}
        own["forward"] = self._forward
        if "forward_weighted" in self._measure:
            own["forward_weighted"] = self._forward_weighted

    def _forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._mixed("forward", input, *args, **kwargs)

    def _forward_weighted(self, input: Tensor, weights: Tensor | None) -> Any:
        return self._mixed("forward_weighted", input, weights)

    def _mixed(self, name: str, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._meter.forget()
        self._measure[name](input, *args, **kwargs)
        found = self._meter.measured()
        total = found.total
        if self._mixing.prior == 0 and bool((total.count == 1).any()):
            raise ValueError(
                f"prior=0 expected two values or more per channel, got input of shape {tuple(input.shape)}: one value "
                "has no variance; give the source statistics a prior, such as 16"
            )
        rows = input.shape[0]
        use = self._mixing.of(self._source, total, rows) if rows else self._source
        self.sum, self.rows = self.sum.merge(found), self.rows + rows
        buffers = self.layer._buffers
        buffers["running_mean"], buffers["running_var"] = use.mean, use.var
        self.layer.training = False
        try:
            return self._meter.forwards[name](input, *args, **kwargs)
        finally:
            self.layer.training = True
