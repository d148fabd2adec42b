"""Batch renormalization: a training batch brought to where evaluation would have put it.

    z_norm = (z - mu) / s * r + d            s = sqrt(sigma2 + eps), of the batch
    r      = clip(s / s_run, 1 / r_max, r_max)
    d      = clip((mu - mu_run) / s_run, -d_max, d_max)

r and d are constants for the gradient. Where neither is clipped, z_norm = (z - mu_run) / s_run: what evaluation gives.

Source: Ioffe 2017, arXiv 1702.03275, Algorithm 1. There a running average of s is kept; here s_run is
sqrt(running_var + eps), which evaluation divides by and torch's state_dict has a place for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels.spec import Affine
from batchnorm.moments import Moments


class Correction(NamedTuple):
    """r and d, each (C,) wide, without gradient."""

    r: Tensor
    d: Tensor

    def applied(self, affine: Affine) -> Affine:
        """gamma * (z_norm * r + d) + beta as the scale and shift of a plain batch norm, differentiable in both."""
        r, d = self.r, self.d
        if affine.weight is not None:
            gamma = affine.weight.to(r.dtype)
            r, d = gamma * r, gamma * d
        return affine._replace(weight=r, bias=d if affine.bias is None else affine.bias.to(d.dtype) + d)


def correction(
    batch: Moments, running_mean: Tensor, running_var: Tensor, *, eps: float, r_max: float, d_max: float
) -> Correction:
    """r and d of a batch of these Moments. running_mean, running_var: (C,), before the batch moves them."""
    with torch.no_grad():
        wide = batch.mean.dtype
        s_run = torch.sqrt(running_var.detach().to(wide) + eps)
        r = torch.sqrt(batch.variance() + eps) / s_run
        d = (batch.mean - running_mean.detach().to(wide)) / s_run
        return Correction(r.clamp(1 / r_max, r_max), d.clamp(-d_max, d_max))
