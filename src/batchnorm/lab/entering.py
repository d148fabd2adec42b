"""What enters a network's activations between two steps, and how far it has moved since the look before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchnorm.lab.covariate_shift import covariate_shift
from batchnorm.lab.trial import Trial

PERCENTILES = (0.15, 0.5, 0.85)
"""Ioffe and Szegedy 2015, figure 1."""


class Look:
    """What a network looks like between two steps.

    Args:
        trial: is left as it is.
        probe: (N, F) rows, as one training batch.
        before: the look before, None for the first.
        step: made so far; decides the rows that internal covariate shift is measured on.

    Attributes:
        quantiles: per layer, (percentiles, neurons). means, variances: per layer, (neurons,).
        mean_moved, percentiles_moved, variance_moved: per layer, since the look before, averaged over the neurons: in
            standard deviations, and for the variance the magnitude of the change of its logarithm.
        weights: per layer, the standard deviation of W's entries.
        off: largest deviation of the normalized z from mean 0 and variance 1; None without normalization.
        metric: on the test rows.
        shift: internal covariate shift.
    """

    mean_moved: tuple[float, ...] = ()
    percentiles_moved: tuple[float, ...] = ()
    variance_moved: tuple[float, ...] = ()

    @torch.no_grad()
    def __init__(self, trial: Trial, probe: Tensor, before: Look | None, step: int) -> None:
        entering = [z.double() for z in trial.network.entering_activations(probe)]
        at = torch.tensor(PERCENTILES, dtype=torch.float64)
        self.quantiles = [torch.quantile(z, at, dim=0) for z in entering]
        moments = [torch.var_mean(z, dim=0, correction=0) for z in entering]
        self.variances = [variance.clamp(min=1e-30) for variance, _ in moments]  # a neuron that is dead has none
        self.means = [mean for _, mean in moments]
        self.weights = tuple(float(layer.linear.weight.std()) for layer in trial.layers)
        self.off = _off(trial, entering) if trial.norms else None
        self.metric = trial.judge()[1]
        if before is not None:
            self._compare(before)
        self.shift = covariate_shift(trial, trial.batch(trial.settings.batch_size, seed=step))

    def _compare(self, before: Look) -> None:
        means, percentiles, variances = [], [], []
        for k, (mean, variance) in enumerate(zip(self.means, self.variances, strict=True)):
            width = ((variance + before.variances[k]) / 2).sqrt()
            means.append(float(((mean - before.means[k]).abs() / width).mean()))
            percentiles.append(float(((self.quantiles[k] - before.quantiles[k]).abs() / width).mean()))
            variances.append(float((variance / before.variances[k]).log().abs().mean()))
        self.mean_moved, self.percentiles_moved = tuple(means), tuple(percentiles)
        self.variance_moved = tuple(variances)


def _off(trial: Trial, entering: Sequence[Tensor]) -> float:
    """The largest deviation of (z - beta) / gamma from mean 0 and variance 1 over all neurons."""
    worst = 0.0
    for norm, z in zip(trial.norms, entering, strict=True):
        variance, mean = torch.var_mean((z - norm.bias) / norm.weight, dim=0, correction=0)
        worst = max(worst, float(mean.abs().max()), float((variance - 1).abs().max()))
    return worst
