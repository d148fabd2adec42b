"""A trial's network normalized in groups of its batch's rows, and trained so."""

from __future__ import annotations

from collections.abc import Callable

import torch

from batchnorm.lab.trial import Trial
from batchnorm.nn import GhostBatchNorm1d
from batchnorm.training import batches
from batchnorm.training.network import HiddenLayer, Network
from batchnorm.training.run import Rows


def in_groups(rows: int) -> Callable[[Network], None]:
    """A `change` of a trial after which each batch is normalized in groups of `rows` rows."""

    def change(network: Network) -> None:
        for layer in network.layers:
            assert isinstance(layer, HiddenLayer)
            old = layer.norm
            assert old is not None
            layer.norm = GhostBatchNorm1d(
                old.num_features, old.eps, old.momentum, virtual_batch_size=rows, activation=old.activation
            )

    return change


def learn_in_groups(trial: Trial, steps: int) -> None:
    """The rows and the order of the trial's own steps, by autograd: the compiled step knows no groups."""
    optimizer = torch.optim.SGD(trial.network.parameters(), lr=trial.settings.rate)
    rows, device = trial.train, trial.train.x.device
    for step in range(steps):
        epoch, position = divmod(step, len(trial.run.cuts))
        if position == 0:
            order = batches.order(len(rows), seed=trial.settings.seed, epoch=epoch, device=device)
        start, stop = trial.run.cuts[position]
        chosen = order[start:stop]
        optimizer.zero_grad()
        torch.autograd.backward(trial.loss(Rows(rows.x[chosen], rows.y[chosen])))
        optimizer.step()
