"""The only place that meets torch.autograd: (x, statistics, parameters) -> y, differentiable in whatever mode.

`run` takes one of two ways (see `select`). Both compute what `spec` says, with the same operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import select, spec
from batchnorm.kernels.spec import Affine, Centre, Deviation


class Normalization(NamedTuple):
    """How a batch is normalized: by itself, or by running statistics.

    Attributes:
        running: (running_mean, running_var), each (C,), at test time; None when the batch's own are used.
        eps: added to the variance, inside the root.
        activation: a name of `activations.ACTIVATIONS`, or None.
    """

    running: tuple[Tensor, Tensor] | None
    eps: float
    activation: str | None

    def centre(self, x: Tensor, weights: Tensor | None) -> tuple[Centre, Deviation]:
        """What x: (N, C, *) is normalized by, and x less its centre."""
        if self.running is None:
            return spec.training_centre(x, weights=weights, eps=self.eps)
        return spec.evaluation_centre(x, *self.running, weights=weights, eps=self.eps)


def run(
    how: Normalization,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    weights: Tensor | None,
) -> tuple[Tensor, Centre]:
    """y: (N, C, *), and what it was normalized by (constants: no gradient goes through them)."""
    if select.way(x, weight, bias, residual) == "composed":
        return _composed(how, x, weight, bias, residual, weights)
    inputs = (x, weight, bias, residual)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        found: list[Centre] = []
        y: Tensor = FusedBatchNorm.apply(x, weight, bias, residual, weights, how, found)  # type: ignore[no-untyped-call]
        return y, found[0]
    return _composed(how, x, weight, bias, residual, weights)


def _composed(
    how: Normalization,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    weights: Tensor | None,
) -> tuple[Tensor, Centre]:
    centre, deviation = how.centre(x, weights)
    affine = Affine(weight, bias, residual, how.activation)
    return spec.normalize(deviation, centre, affine, weights=weights, dtype=x.dtype), centre


class FusedBatchNorm(torch.autograd.Function):
    """One node: forward by `spec`, backward by its closed form; a second differentiation goes the composed way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        weights: Tensor | None,
        how: Normalization,
        found: list[Centre],
    ) -> Tensor:
        """Appends to `found` what the batch was normalized by: an output of its own would cost a node."""
        centre, deviation = how.centre(x, weights)
        found.append(centre)
        affine = Affine(weight, bias, residual, how.activation)
        y = spec.normalize(deviation, centre, affine, weights=weights, dtype=x.dtype)
        ctx.set_materialize_grads(False)
        # The bias is needed again only to find the pre-activation, the residual only for its dtype or that too.
        ctx.save_for_backward(x, weight, bias, residual, weights)
        ctx.how, ctx.centre = how, centre
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, bias and residual."""
        (dy,) = grads
        nothing = (None,) * 7
        if dy is None:
            return nothing
        x, weight, bias, residual, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx.how, (x, weight, bias, residual), weights, dy) + nothing[4:]
        affine = Affine(weight, bias, residual, ctx.how.activation)
        g = spec.backward(dy, x, ctx.centre, affine, weights=weights, needs=ctx.needs_input_grad[:4])
        return (g.x, g.weight, g.bias, g.residual, *nothing[4:])


def _differentiable_backward(
    how: Normalization, inputs: tuple[Tensor | None, ...], weights: Tensor | None, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients with a graph of their own (create_graph=True)."""
    # Views keep the roles apart where one tensor is handed in twice.
    roles = [None if t is None else t.view_as(t) for t in inputs]
    x, weight, bias, residual = roles
    assert x is not None
    y, _ = _composed(how, x, weight, bias, residual, weights)
    asked = [t for t in roles if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad(y, asked, dy, create_graph=True, allow_unused=True))
    return tuple(next(grads) if t is not None and t.requires_grad else None for t in roles)
