"""The Moments of a batch, found before it is normalized."""

from __future__ import annotations

import torch
from torch import Tensor

from batchnorm.kernels import autograd
from batchnorm.kernels.autograd import Normalization
from batchnorm.kernels.running import Gathering
from batchnorm.kernels.spec import Affine
from batchnorm.moments import Moments


def batch_moments(x: Tensor, weights: Tensor | None) -> Moments:
    """The Moments of each channel; constants, for autograd. Costs a forward pass, whose result is thrown away.

    Args:
        x: (N, C, *), empty or not.
        weights: how often each position counts, (N, 1, *), or None.
    """
    if x.numel() == 0:
        return Moments.empty((x.shape[1],), device=x.device)
    gathering = Gathering.of_nothing()
    with torch.no_grad():
        autograd.run(Normalization(None, 1.0), x.detach(), Affine(None, None, None, None), weights, gathering)
    return gathering.found[0]
