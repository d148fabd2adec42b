"""The step by torch's own operations: on any device, and wherever the compiled kernels do not run."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import lean
from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.kernels.lean import Normalized
from batchnorm.training.layers import Hidden, Layers, Linear, Norm
from batchnorm.training.objective import Objective


class _Kept(NamedTuple):
    """What one hidden layer keeps for its way back; every matrix is (N, neurons)."""

    x: Tensor  # what came in, (N, inputs)
    z: Tensor  # what entered the activation
    a: Tensor  # what left it
    normalized: Normalized | None
    drop: Tensor | None  # 0 or 1 / (1 - dropout)


class ByOperations:
    """Forward and backward over `layers`; arguments as `Step`."""

    def __init__(self, layers: Layers, objective: Objective, *, warm_statistics: bool) -> None:
        self._layers, self._objective = layers, objective
        momenta = [layer.norm.running.momentum for layer in layers.hidden if layer.norm is not None]
        # Steps in which it may matter; after these nobody need look (on a GPU wait for) how many batches there were.
        self._starting = math.ceil(1 / momenta[0]) if warm_statistics and momenta and momenta[0] else 0

    @torch.no_grad()
    def gradients(self, x: Tensor, y: Tensor, *, counts: Tensor | None, weights: Tensor | None) -> Tensor:
        """As `Step.gradients`."""
        starting = self._starting > 0
        self._starting -= starting
        a, kept = x, []
        for layer in self._layers.hidden:
            a, of_layer = _forward(layer, a, counts, starting)
            kept.append(of_layer)
        head = self._layers.head
        loss, ds = self._objective.value_and_gradient(_mapped(head, a), y, weights)
        _set_gradients(head, ds, a)
        above, dz = head, ds
        for layer, of_layer in zip(reversed(self._layers.hidden), reversed(kept), strict=True):
            dz = _backward(layer, of_layer, torch.mm(dz, above.weight), counts)
            _set_gradients(layer.linear, dz, of_layer.x)
            above = layer.linear
        return loss


def _mapped(linear: Linear, x: Tensor) -> Tensor:
    """(N, inputs) -> (N, outputs)."""
    return torch.mm(x, linear.transposed) if linear.bias is None else torch.addmm(linear.bias, x, linear.transposed)


def _set_gradients(linear: Linear, dz: Tensor, x: Tensor) -> None:
    """Given dz: (N, outputs) and what had come in, x: (N, inputs)."""
    torch.mm(dz.t(), x, out=linear.dweight)
    if linear.dbias is not None:
        torch.sum(dz, 0, out=linear.dbias)


def _forward(layer: Hidden, x: Tensor, counts: Tensor | None, starting: bool) -> tuple[Tensor, _Kept]:
    z, normalized = _mapped(layer.linear, x), None
    if layer.norm is not None and layer.before:
        normalized = _normalize(layer.norm, z, counts, starting)
        z = normalized.y
    out = a = ACTIVATIONS[layer.activation].value(z)
    if layer.norm is not None and not layer.before:
        normalized = _normalize(layer.norm, a, counts, starting)
        out = normalized.y
    drop = None
    if layer.dropout:
        drop = torch.empty_like(out).bernoulli_(1 - layer.dropout).div_(1 - layer.dropout)
        out = out * drop
    return out, _Kept(x, z, a, normalized, drop)


def _backward(layer: Hidden, kept: _Kept, da: Tensor, counts: Tensor | None) -> Tensor:
    """dz: (N, neurons), the gradient in what the linear map gave; the norm's gradients are set on the way."""
    if kept.drop is not None:
        da = da * kept.drop
    if not layer.before:
        da = _through_norm(layer.norm, kept, da, counts)
    activation = ACTIVATIONS[layer.activation]
    at_output = activation.slope_at_output
    dz = activation.slope(kept.z, da) if at_output is None else at_output(kept.a, da)
    return _through_norm(layer.norm, kept, dz, counts) if layer.before else dz


def _normalize(norm: Norm, z: Tensor, counts: Tensor | None, starting: bool) -> Normalized:
    normalized = lean.forward(z, norm.gamma, norm.beta, eps=norm.layer.eps, weights=counts)
    refused = (norm.running.starting() if starting else norm.running).update(normalized.centre)
    if refused is not None:
        norm.layer.warn_of(refused)
    return normalized


def _through_norm(norm: Norm | None, kept: _Kept, dy: Tensor, counts: Tensor | None) -> Tensor:
    if norm is None or kept.normalized is None:
        return dy
    return lean.backward(dy, kept.normalized, counts, dgamma=norm.dgamma, dbeta=norm.dbeta)
