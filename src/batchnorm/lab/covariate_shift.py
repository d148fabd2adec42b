"""Internal covariate shift as Santurkar et al. 2018 define it: how the layers before it change a layer's gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchnorm.lab.trial import Trial
from batchnorm.training.network import HiddenLayer
from batchnorm.training.run import Rows

_LEAST = 1e-30  # a length to divide by, where a gradient has vanished


@dataclass(frozen=True)
class CovariateShift:
    """Of every weight matrix but the first, which has no layer before it, in order; the head's comes last.

    g is its gradient, g' the same once all layers before it have made their step.

    Attributes:
        relative: |g - g'| / |g|.
        cosine: of the angle between g and g'.
        difference: |g - g'|.
    """

    relative: tuple[float, ...]
    cosine: tuple[float, ...]
    difference: tuple[float, ...]


@torch.enable_grad()
def covariate_shift(trial: Trial, batch: Rows) -> CovariateShift:
    """For the step of plain gradient descent that `batch` would lead to; the trial is left as it is.

    Source: Santurkar, Tsipras, Ilyas and Madry 2018, definition 2.1.
    """
    network = copy.deepcopy(trial.network)
    objective, rate = trial.run.objective, trial.settings.rate
    layers = [(layer, layer.linear.weight) for layer in network.layers if isinstance(layer, HiddenLayer)]
    parts: list[tuple[nn.Module, Tensor]] = [*layers, (network.head, network.head.weight)]

    def gradients(of: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective.loss(network.body(batch.x), batch.y), of)

    parameters = [list(part.parameters()) for part, _ in parts]
    everything = [p for some in parameters for p in some]
    first = dict(zip(map(id, everything), gradients(everything), strict=True))
    relative, cosine, difference = [], [], []
    for earlier, (_, weight) in zip(parameters, parts[1:], strict=False):
        with torch.no_grad():
            for parameter in earlier:
                parameter.sub_(first[id(parameter)], alpha=rate)
        old, (new,) = first[id(weight)], gradients([weight])
        length, apart = float(old.norm()), float((old - new).norm())
        relative.append(apart / max(length, _LEAST))
        cosine.append(float((old * new).sum()) / max(length * float(new.norm()), _LEAST))
        difference.append(apart)
    return CovariateShift(tuple(relative), tuple(cosine), tuple(difference))
