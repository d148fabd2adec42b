"""How the loss and its gradient vary along the step that training would make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from batchnorm.lab.trial import Trial

AHEAD = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""In learning rates: how far along the gradient."""

QUANTITIES = ("range of the loss", "change of the gradient", "effective smoothness")


def look(trial: Trial, rows: int, *, seed: int) -> tuple[float, float, float]:
    """QUANTITIES along the gradient of one batch of so many rows; weights and running statistics end as they were.

    The range is that of the loss from here to there; the change is the largest of |g(W - a g) - g(W)| over a; the
    effective smoothness the largest of that change divided by the distance |a g|.

    Source: Santurkar, Tsipras, Ilyas and Madry 2018, section 3.1.
    """
    batch = trial.batch(rows, seed=seed)
    parameters = list(trial.network.parameters())
    before = {name: t.detach().clone() for name, t in trial.network.state_dict().items()}
    loss = trial.loss(batch)
    gradient = torch.autograd.grad(loss, parameters)
    losses, change, smoothness = [float(loss.detach())], 0.0, 0.0
    length = _length(gradient)
    for ahead in AHEAD:
        step = ahead * trial.settings.rate
        with torch.no_grad():
            for parameter, direction in zip(parameters, gradient, strict=True):
                parameter.sub_(direction, alpha=step)
        loss = trial.loss(batch)
        there = torch.autograd.grad(loss, parameters)
        losses.append(float(loss.detach()))
        apart = _length([g - h for g, h in zip(gradient, there, strict=True)])
        change = max(change, apart)
        smoothness = max(smoothness, apart / (step * length)) if length > 0 else smoothness
        trial.network.load_state_dict(before)
    return max(losses) - min(losses), change, smoothness


def _length(parts: Sequence[torch.Tensor]) -> float:
    return math.sqrt(math.fsum(float(part.square().sum()) for part in parts))
