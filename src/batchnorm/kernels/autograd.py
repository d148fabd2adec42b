"""The only place that meets torch.autograd: (x, statistics, parameters) -> y, differentiable in whatever mode.

`run` takes one of two ways (see `select`). Both compute what `spec` says, with the same operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import graph_op, native, select, spec
from batchnorm.kernels.layout import laid_out
from batchnorm.kernels.native import Settled
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine, Centre, Deviation

_FourGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Normalization(NamedTuple):
    """How a batch is normalized: by itself, or by running statistics.

    Attributes:
        running: (running_mean, running_var), each (C,), at test time; None when the batch's own are used.
        eps: added to the variance, inside the root.
    """

    running: tuple[Tensor, Tensor] | None
    eps: float

    def centre(self, x: Tensor, weights: Tensor | None) -> tuple[Centre, Deviation]:
        """What x: (N, C, *) is normalized by, and x less its centre."""
        if self.running is None:
            return spec.training_centre(x, weights=weights, eps=self.eps)
        return spec.evaluation_centre(x, *self.running, weights=weights, eps=self.eps)


def run(
    how: Normalization,
    x: Tensor,
    affine: Affine,
    weights: Tensor | None,
    moving: Running | None,
) -> tuple[Tensor, Tensor | None]:
    """y: (N, C, *); and which of `moving`'s channels were refused ((C,) bool), None if none.

    Args:
        weights: how often each position counts, (N, 1, *), or None.
        moving: the running statistics that this batch moves, or None.
    """
    weight, bias, residual, _ = affine
    if select.way(x, weight, bias, residual) == "composed":
        y, centre = _in_a_graph(how, x, affine, weights)
        return y, None if moving is None else moving.update(centre)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, residual)):
        found: list[Tensor | None] = []
        y = FusedBatchNorm.apply(x, weight, bias, residual, weights, how, affine.activation, moving, found)  # type: ignore[no-untyped-call]
        return y, found[0]
    y, _, refused = _at_once(how, x, affine, weights, moving)
    return y, refused


def _in_a_graph(how: Normalization, x: Tensor, affine: Affine, weights: Tensor | None) -> tuple[Tensor, Centre]:
    """As operations that torch sees: one node for a graph that is to run here, `spec`'s own everywhere else."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        channels = (affine.weight, affine.bias)
        is_taken = graph_op.takes(x, *channels) and graph_op.takes(x, *(how.running or ()))
        if is_taken and native.holds(x, affine.residual) and graph_op.may_stand_here():
            y, settled = graph_op.run(x, affine, weights=weights, eps=how.eps, running=how.running)
            return y, settled.centre()
    return _composed(how, x, affine, weights)


def _at_once(
    how: Normalization, x: Tensor, affine: Affine, weights: Tensor | None, moving: Running | None
) -> tuple[Tensor, Settled | Centre, Tensor | None]:
    """By the compiled kernels where they can, else by the specification: y, what for backward, what was refused."""
    constants = moving if how.running is None else Running(*how.running, None)
    residual = affine.residual
    is_covered = native.covers(x, affine.weight, affine.bias) and native.holds(x, residual)
    if is_covered and (residual is None or native.covers(residual)) and (constants is None or native.keeps(constants)):
        training = how.running is None
        return native.forward(x, affine, weights=weights, eps=how.eps, running=constants, training=training)
    y, centre = _composed(how, x, affine, weights)
    return y, centre, None if moving is None else moving.update(centre)


def _composed(how: Normalization, x: Tensor, affine: Affine, weights: Tensor | None) -> tuple[Tensor, Centre]:
    x = laid_out(x)
    centre, deviation = how.centre(x, weights)
    return spec.normalize(deviation, centre, affine, weights=weights, dtype=x.dtype), centre


class FusedBatchNorm(torch.autograd.Function):
    """One node: forward and backward by the compiled kernels or by `spec`; a second differentiation is composed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        weights: Tensor | None,
        how: Normalization,
        activation: str | None,
        moving: Running | None,
        found: list[Tensor | None],
    ) -> Tensor:
        """Appends to `found` which running statistics were refused: an output of its own would cost a node."""
        if how.running is not None:
            # The backward pass belongs to these statistics, whatever is done to the buffers in between.
            how = how._replace(running=(how.running[0].detach().clone(), how.running[1].detach().clone()))
        y, settled, refused = _at_once(how, x, Affine(weight, bias, residual, activation), weights, moving)
        found.append(refused)
        ctx.set_materialize_grads(False)
        # Bias and residual are needed again only where an activation's slope depends on them.
        ctx.save_for_backward(x, weight, *((None, None) if activation is None else (bias, residual)), weights)
        ctx.how, ctx.activation, ctx.settled = how, activation, settled
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, bias and residual."""
        (dy,) = grads
        nothing = (None,) * 9
        if dy is None:
            return nothing
        x, *others, weights = ctx.saved_tensors
        asks: tuple[bool, bool, bool, bool] = ctx.needs_input_grad[:4]
        affine = Affine(others[0], others[1], others[2], ctx.activation)
        return _backward(ctx.how, dy, x, affine, weights, ctx.settled, asks) + nothing[4:]


def unusual_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    block: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation: int,
    training: bool,
    count: int,
    asks: tuple[bool, bool, bool, bool],
) -> _FourGradients:
    """What csrc/torch/layer.cpp does not do itself: gradients of gradients, batched ones, ones of another kind."""
    running = None
    if running_mean is not None and running_var is not None:
        running = (running_mean, running_var)
    affine = Affine(weight, bias, residual, native.ACTIVATIONS_BY_NUMBER[activation])
    settled = Settled(block, training, float(count))
    return _backward(Normalization(running, eps), dy, x, affine, None, settled, asks)


def _backward(
    how: Normalization,
    dy: Tensor,
    x: Tensor,
    affine: Affine,
    weights: Tensor | None,
    settled: Settled | Centre,
    asks: tuple[bool, bool, bool, bool],
) -> _FourGradients:
    """The gradients of x, weight, bias and residual; the last two are in `affine` only with an activation."""
    weight, bias, residual, activation = affine
    _, _, asks_bias, asks_residual = asks
    kept = activation is not None  # otherwise no gradient depends on them, and anything may stand for them
    if torch.is_grad_enabled():
        if not kept:
            bias = x.new_zeros(x.shape[1], requires_grad=True) if asks_bias else None
            residual = torch.zeros_like(x, requires_grad=True) if asks_residual else None
        return _differentiable_backward(how, (x, weight, bias, residual), activation, weights, dy)
    if not kept:
        stand_in = settled.rstd if isinstance(settled, Centre) else settled.block[0]
        stand_in = stand_in if weight is None else weight
        bias, residual = stand_in if asks_bias else None, stand_in if asks_residual else None
    affine = Affine(weight, bias, residual, activation)
    if isinstance(settled, Settled) and native.covers(x, weight, bias) and native.covers(dy):
        g = native.backward(dy, x, settled, affine, weights=weights, needs=asks)
    else:
        centre = settled if isinstance(settled, Centre) else settled.centre()
        g = spec.backward(dy, laid_out(x), centre, affine, weights=weights, needs=asks)
    return (g.x, g.weight, g.bias, g.residual)


def _differentiable_backward(
    how: Normalization, inputs: tuple[Tensor | None, ...], activation: str | None, weights: Tensor | None, dy: Tensor
) -> _FourGradients:
    """The same gradients with a graph of their own (create_graph=True)."""
    # Views keep the roles apart where one tensor is handed in twice.
    roles = [None if t is None else t.view_as(t) for t in inputs]
    x, weight, bias, residual = roles
    assert x is not None
    y, _ = _composed(how, x, Affine(weight, bias, residual, activation), weights)
    asked = [t for t in roles if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad(y, asked, dy, create_graph=True, allow_unused=True))
    x_grad, *others = (next(grads) if t is not None and t.requires_grad else None for t in roles)
    return (x_grad, others[0], others[1], others[2])
