"""A training batch that is spread over processes, normalized by the statistics of the whole of it.

Forward, each process's Moments are gathered and merged (one all_gather of 2C + 1 numbers); backward, the sums of (6)
and (7) are added up over processes (one all_reduce of 2C numbers):

    dz = gamma / sqrt(sigma2 + eps) * (g - sum g / M - z_norm * sum(g * z_norm) / M)        sums, M over all processes

The gradients of gamma and beta are each process's own sums; adding them up is left to whoever does so with every other
parameter's (DDP).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from batchnorm.kernels import autograd, native, spec
from batchnorm.kernels.autograd import Normalization
from batchnorm.kernels.batch_moments import batch_moments
from batchnorm.kernels.layout import laid_out
from batchnorm.kernels.native import Settled
from batchnorm.kernels.running import Running, merged_along
from batchnorm.kernels.spec import Affine, Centre, Gradients
from batchnorm.moments import Moments


def run_synchronized(
    x: Tensor, affine: Affine, *, eps: float, weights: Tensor | None, moving: Running | None, group: Any
) -> tuple[Tensor, Tensor | None]:
    """y: (N, C, *) of this process's rows, and which of `moving`'s channels were refused, None if none.

    Every process of the group must call this, also one that has no rows; the same in the backward pass.

    Args:
        x: (N, C, *), N may differ between processes and may be 0.
        weights: how often each position counts, (N, 1, *), or None.
        moving: the running statistics that the whole batch moves, the same in every process; or None.
        group: the torch.distributed process group, or None for all processes.

    Raises:
        ValueError: the processes have one value per channel between them; in every process.
    """
    whole = merged_along(_gathered(batch_moments(x, weights), group))
    if whole.count.device.type == "cpu" and float(whole.count) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape} and no more elsewhere: "
            "one in all processes together"
        )
    weight, bias, residual, activation = affine
    y = SynchronizedBatchNorm.apply(weight, bias, residual, weights, whole, eps, activation, group, x)  # type: ignore[no-untyped-call]
    return y, None if moving is None else moving.move_by(whole)


# What torch.compiler.disable says of a function, without importing torch._dynamo for it: see graph_op.
run_synchronized._torchdynamo_disable = True  # type: ignore[attr-defined]


def _gathered(batch: Moments, group: Any) -> Moments:
    """The Moments of every process: count (R,), mean and m2 (R, C)."""
    packed = torch.cat([batch.count.reshape(1), batch.mean, batch.m2])
    ranks = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(ranks, packed, group=group)
    stacked, channels = torch.stack(ranks), batch.mean.numel()
    return Moments(stacked[:, 0], stacked[:, 1 : 1 + channels], stacked[:, 1 + channels :])


class SynchronizedBatchNorm(torch.autograd.Function):
    """One node: by the group's statistics, which are functions of every process's x."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        weights: Tensor | None,
        whole: Moments,
        eps: float,
        activation: str | None,
        group: Any,
        x: Tensor,
    ) -> Tensor:
        """y like x."""
        ctx.save_for_backward(x, weight, *((None, None) if activation is None else (bias, residual)), weights)
        ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias, residual)]
        ctx.whole, ctx.eps, ctx.activation, ctx.group = whole, eps, activation, group
        if x.numel() == 0:
            return torch.empty_like(x)
        how = Normalization((whole.mean, whole.variance()), eps)
        return autograd.run(how, x, Affine(weight, bias, residual, activation), weights, None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of weight, bias, residual and x."""
        x, weight, bias, residual, weights = ctx.saved_tensors
        whole: Moments = ctx.whole
        # As wide as the statistics, so that the sums below are not rounded before they are added up.
        gamma = torch.ones_like(whole.mean) if weight is None else weight.to(whole.mean.dtype)
        beta = torch.zeros_like(gamma) if bias is None else bias.to(gamma.dtype)
        affine = Affine(gamma, beta, residual, ctx.activation)
        local = _by_constants(dy, x, whole, affine, weights=weights, eps=ctx.eps)
        dx = None
        if ctx.needs_input_grad[8]:
            assert local.bias is not None
            assert local.weight is not None
            sums = torch.stack([local.bias, local.weight])
            dist.all_reduce(sums, group=ctx.group)
            dx = _through_statistics(local.x, x, whole, gamma, sums, weights=weights, eps=ctx.eps)
        own = zip((local.weight, local.bias, local.residual), ctx.dtypes, ctx.needs_input_grad, strict=False)
        return (*(g.to(dtype) if needed and g is not None else None for g, dtype, needed in own), *(None,) * 5, dx)


def _by_constants(
    dy: Tensor, x: Tensor, whole: Moments, affine: Affine, *, weights: Tensor | None, eps: float
) -> Gradients:
    """(6), (7) and (9): this process's sums, and its dx as if the statistics depended on nothing."""
    if x.numel() == 0:
        nothing = torch.zeros_like(whole.mean)
        return Gradients(torch.zeros_like(x), nothing, nothing, torch.zeros_like(x))
    # What is taken off dx afterwards is of dx's size: in 16 bits it would be rounded twice.
    x, dy = _at_least_float32(x), _at_least_float32(dy)
    if affine.activation is None:
        affine = affine._replace(residual=dy)  # the gradient that is asked for does not depend on its values
    needs = (True, True, True, affine.residual is not None)
    rstd = torch.rsqrt(whole.variance() + eps)
    if native.covers(x, affine.weight, affine.bias) and native.covers(dy) and native.holds(x, affine.residual):
        block = torch.stack([whole.mean, torch.zeros_like(rstd), rstd, torch.zeros_like(rstd)])
        return native.backward(dy, x, Settled(block, False, 1.0), affine, weights=weights, needs=needs)
    centre = Centre(whole.mean, None, rstd, None, 1.0)
    return spec.backward(dy, laid_out(x), centre, affine, weights=weights, needs=needs)


def _through_statistics(
    dx: Tensor | None, x: Tensor, whole: Moments, gamma: Tensor, sums: Tensor, *, weights: Tensor | None, eps: float
) -> Tensor:
    """dx less what every value does to the mean and variance. sums: (2, C) of g and g * z_norm, over all processes."""
    assert dx is not None
    if x.numel() == 0:
        return dx
    variance = whole.variance()
    of_mean, of_variance = -sums * gamma * torch.rsqrt(variance + eps) / whole.count
    # A scale and a shift of z_norm, which is what evaluation computes; dx is its residual.
    how = Normalization((whole.mean, variance), eps)
    values = _at_least_float32(x)
    if weights is None:
        return autograd.run(how, values, Affine(of_variance, of_mean, dx, None), None, None)[0].to(x.dtype)
    taken, _ = autograd.run(how, values, Affine(of_variance, of_mean, None, None), weights, None)
    return (dx + taken * weights.to(taken.dtype)).to(x.dtype)


def _at_least_float32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
