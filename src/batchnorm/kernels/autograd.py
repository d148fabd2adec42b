"""The only place that meets torch.autograd: (x, statistics, parameters) -> y, differentiable in whatever mode.

`run` takes one of two ways (see `select`). Both compute what `spec` says, with the same operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import select, spec
from batchnorm.kernels.layout import laid_out
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
    x = laid_out(x)
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
        if how.running is not None:
            # The backward pass belongs to these statistics, whatever is done to the buffers in between.
            how = how._replace(running=(how.running[0].detach().clone(), how.running[1].detach().clone()))
        y, centre = _composed(how, x, weight, bias, residual, weights)
        found.append(centre)
        ctx.set_materialize_grads(False)
        # Bias and residual are needed again only where an activation's slope depends on them.
        ctx.save_for_backward(x, weight, *((None, None) if how.activation is None else (bias, residual)), weights)
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
        _, _, asks_bias, asks_residual = asks = ctx.needs_input_grad[:4]
        kept = ctx.how.activation is not None  # otherwise no gradient depends on them, and anything may stand for them
        if torch.is_grad_enabled():
            if not kept:
                bias = x.new_zeros(x.shape[1], requires_grad=True) if asks_bias else None
                residual = torch.zeros_like(x, requires_grad=True) if asks_residual else None
            return _differentiable_backward(ctx.how, (x, weight, bias, residual), weights, dy) + nothing[4:]
        if not kept:
            wide = ctx.centre.rstd  # gradients come back wide; autograd rounds them
            bias, residual = wide if asks_bias else None, wide if asks_residual else None
        affine = Affine(weight, bias, residual, ctx.how.activation)
        g = spec.backward(dy, laid_out(x), ctx.centre, affine, weights=weights, needs=asks)
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
