"""A trial's network with the statistics of the population: all training rows, at its weights of now."""

from __future__ import annotations

import torch

from batchnorm.lab.trial import Trial
from batchnorm.statistics import recalibrate

_BLOCK = 256  # rows: enough that the layers upstream, which normalize by the block, are as at test time


def with_population(trial: Trial) -> None:
    """Put them in place of the running averages."""
    blocks = list(torch.split(trial.train.x, _BLOCK))
    if len(blocks) > 1:
        blocks[-2:] = [torch.cat(blocks[-2:])]  # a few rows left over would be normalized by a few
    recalibrate(trial.network, blocks, call=lambda network, x: network.body(x), progress=False)
