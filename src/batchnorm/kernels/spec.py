"""Batch normalization in plain torch operations: the specification that every other kernel is held against.

For one channel and the M = N*S values z_i that a mini-batch gives it (Ioffe and Szegedy 2015, arXiv 1502.03167):

    (1)  mu      = 1/M * sum z_i
    (2)  sigma2  = 1/M * sum (z_i - mu)^2                       biased
    (3)  z_norm  = (z - mu) / sqrt(sigma2 + eps)
    (4)  z_tilde = gamma * z_norm + beta
    (5)  y       = activation(z_tilde + residual)

and backwards, with g = dy * activation'(z_tilde + residual):

    (6)  dbeta  = sum g
    (7)  dgamma = sum g * z_norm
    (8)  dz     = gamma / sqrt(sigma2 + eps) * (g - dbeta / M - z_norm * dgamma / M)
    (9)  dz     = gamma / sqrt(sigma2 + eps) * g                at test time, where mu and sigma2 are constants

`weights` says how often each position counts: 0 or 1 is a mask, 2 counts a row twice. M is then their sum, sums (1),
(2) run over w_i * z_i, and the means that (8) subtracts carry w_i. Positions with weight 0 come out 0.

Everything is computed in float64 (float32 where a device has no float64) and rounded once, at the end. Where x is as
wide as that, the mean of (1) is kept as a pair, (anchor, shift): one number would lose the digits that std / mean
leaves; and what the steps lose to rounding is found and added back (`lost_digits`). Every function here is built from
operations that torch can differentiate, to any order and in any mode.

Legend: N batch, C channels, S positions, * any spatial shape; "channel" tensors are (C,).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels import lost_digits
from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.moments import Moments, wide_dtype


class Centre(NamedTuple):
    """What each channel is centred and scaled by: z_norm = (z - anchor - shift) * rstd."""

    anchor: Tensor  # (C,) wide
    shift: Tensor | None  # (C,) wide: the digits of the mean that one number cannot hold
    rstd: Tensor  # (C,) wide: 1 / sqrt(sigma2 + eps)
    m2: Tensor | None  # (C,) wide: sum of squared deviations; None at test time
    count: Tensor | float  # type: ignore[assignment]  # M: positions per channel, or the sum of their weights
    lost_rstd: Tensor | None = None  # (C,) wide: the digits of rstd that one number cannot hold; None for narrower x

    def moments(self) -> Moments:
        """The mini-batch's Moments."""
        assert self.m2 is not None, "test time has no batch statistics"
        mean = self.anchor if self.shift is None else self.anchor + self.shift
        count = self.count if isinstance(self.count, Tensor) else torch.full_like(self.m2[:0].sum(), self.count)
        return Moments(count, mean, self.m2)


class Deviation(NamedTuple):
    """z - anchor: (N, C, *) wide, and what it lost to rounding; None for narrower x, which loses nothing."""

    value: Tensor
    lost: Tensor | None = None


class Affine(NamedTuple):
    """What is applied to z_norm: gamma, beta, the residual and the activation of (4) and (5); None where absent."""

    weight: Tensor | None  # (C,) gamma
    bias: Tensor | None  # (C,) beta
    residual: Tensor | None  # (N, C, *)
    activation: str | None


class Gradients(NamedTuple):
    """Of the loss: each like what it is the gradient of, None where nothing asked."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None


def per_channel(channel: Tensor, rank: int) -> Tensor:
    """(C,) -> a view that broadcasts against (N, C, *) of `rank` dimensions."""
    return channel if rank == 2 else channel.view((-1,) + (1,) * (rank - 2))


def training_centre(x: Tensor, *, weights: Tensor | None, eps: float) -> tuple[Centre, Deviation]:
    """(1) and (2): what the mini-batch is normalized by, and how far each value is from its centre.

    Args:
        x: (N, C, *) floating, at least one value.
        weights: how often each position counts, x's shape with one channel, wide; None is once.
    """
    rank, wide = x.dim(), wide_dtype(x.device)
    dims = (0, *range(2, rank))
    values = x.to(wide)
    # No float(): a traced or exported graph keeps the count as a function of the shape.
    count: Tensor | float = x.numel() // x.shape[1] if weights is None else weights.sum()
    if weights is not None:
        values = torch.where(weights > 0, values, 0)  # a masked position may hold anything, NaN included
    mean = _mean(values, weights, count, dims)
    if x.dtype != wide and x.device.type == "cpu":
        deviation = values - per_channel(mean, rank)
        m2 = _sum(deviation * deviation, weights, dims)
        return Centre(mean, None, _rstd(m2, count, eps), m2, count), Deviation(deviation)
    anchor = _value_near(mean.detach(), values.detach())
    deviation = values - per_channel(anchor, rank)
    shift = _mean(deviation, weights, count, dims)
    squares = (deviation - per_channel(shift, rank)).square()
    m2 = _sum(squares, weights, dims)
    if x.dtype != wide:
        return Centre(anchor, shift, _rstd(m2, count, eps), m2, count), Deviation(deviation)
    # The sum once more, of what half its digits leave: small numbers of both signs, whose sum rounds to little.
    variance = lost_digits.head((m2 / _at_least_one(count)).detach())
    rest = _mean(squares.detach() - per_channel(variance, rank), weights, count, dims)
    m2 = m2 + ((variance + rest) * count - m2).detach()
    rstd = _rstd(m2, count, eps)
    centre = Centre(anchor, shift, rstd, m2, count, lost_digits.of_root(variance, rest, eps, rstd))
    return centre, Deviation(deviation, lost_digits.of_difference(values, per_channel(anchor, rank), deviation))


def evaluation_centre(
    x: Tensor, running_mean: Tensor, running_var: Tensor, *, weights: Tensor | None, eps: float
) -> tuple[Centre, Deviation]:
    """Test time: centred by the running statistics, which are constants. x: (N, C, *)."""
    wide = wide_dtype(x.device)
    values = x.to(wide)
    if weights is not None:
        values = torch.where(weights > 0, values, 0)
    anchor = running_mean.detach().to(wide)
    variance = running_var.detach().to(wide)
    rstd = torch.rsqrt(variance + eps)
    deviation = values - per_channel(anchor, x.dim())
    if x.dtype != wide:
        return Centre(anchor, None, rstd, None, 1.0), Deviation(deviation)
    lost_rstd = lost_digits.of_root(variance, torch.zeros_like(variance), eps, rstd)
    lost = lost_digits.of_difference(values, per_channel(anchor, x.dim()), deviation)
    return Centre(anchor, None, rstd, None, 1.0, lost_rstd), Deviation(deviation, lost)


def normalize(
    deviation: Deviation, centre: Centre, affine: Affine, *, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(3) to (5), rounded to `dtype`; 0 where a position does not count."""
    z = _pre_activation(deviation, centre, affine, weights)
    y = z if affine.activation is None else ACTIVATIONS[affine.activation].value(z)
    if weights is not None:
        y = torch.where(weights > 0, y, 0)
    return y.to(dtype)


def backward(
    dy: Tensor,
    x: Tensor,
    centre: Centre,
    affine: Affine,
    *,
    weights: Tensor | None,
    needs: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> Gradients:
    """(6) to (9) from x, the channels' centre and nothing else that was kept.

    Args:
        dy: (N, C, *) the loss's gradient in y.
        needs: which gradients are asked for: x, weight, bias, residual.
    """
    rank, wide = x.dim(), centre.rstd.dtype
    dims = (0, *range(2, rank))
    needs_x, needs_weight, needs_bias, needs_residual = needs
    deviation = x.to(wide) - per_channel(centre.anchor, rank)
    # In the memory format of x, which the gradient of x is to have; dy may come in any.
    g = dy.to(wide) if dy.stride() == x.stride() else torch.empty_like(x, dtype=wide).copy_(dy)
    if weights is not None:
        deviation, g = torch.where(weights > 0, deviation, 0), torch.where(weights > 0, g, 0)
    if affine.activation is not None:
        g = ACTIVATIONS[affine.activation].slope(_pre_activation(Deviation(deviation), centre, affine, weights), g)
    if centre.shift is not None:
        deviation = deviation - per_channel(centre.shift, rank)
    training = centre.m2 is not None
    dx = dweight = None
    dbias = g.sum(dims) if needs_bias or (needs_x and training) else None
    if needs_weight or (needs_x and training):
        dweight = (g * deviation).sum(dims) * centre.rstd
    if needs_x:
        scale = centre.rstd if affine.weight is None else centre.rstd * affine.weight.to(wide)
        dx = g
        if training:
            assert dbias is not None
            assert dweight is not None
            count = _at_least_one(centre.count)
            towards_mean = torch.addcmul(
                per_channel(dbias / count, rank), deviation, per_channel(dweight * centre.rstd / count, rank)
            )
            dx = g - towards_mean if weights is None else g - towards_mean * weights
        dx = (dx * per_channel(scale, rank)).to(x.dtype)
    return Gradients(
        dx,
        dweight.to(affine.weight.dtype) if needs_weight and dweight is not None and affine.weight is not None else None,
        dbias.to(affine.bias.dtype) if needs_bias and dbias is not None and affine.bias is not None else None,
        g.to(affine.residual.dtype) if needs_residual and affine.residual is not None else None,
    )


def _pre_activation(deviation: Deviation, centre: Centre, affine: Affine, weights: Tensor | None) -> Tensor:
    value, rank, wide = deviation.value, deviation.value.dim(), deviation.value.dtype
    weight = None if affine.weight is None else affine.weight.to(wide)
    bias = None if affine.bias is None else affine.bias.to(wide)
    scale = centre.rstd if weight is None else centre.rstd * weight
    start = bias
    if centre.shift is not None:
        start = -centre.shift * scale if bias is None else bias - centre.shift * scale
    lost = _lost(deviation, centre, weight, bias, scale)
    scale, start = per_channel(scale, rank), None if start is None else per_channel(start, rank)
    if lost is not None:
        start = lost if start is None else lost + start
    z = value * scale if start is None else torch.addcmul(start, value, scale)
    if affine.residual is None:
        return z
    residual = affine.residual.to(wide)
    # NaN at a masked position would come back through the activation's slope, as 0 * NaN.
    return z + (residual if weights is None else torch.where(weights > 0, residual, 0))


def _lost(
    deviation: Deviation, centre: Centre, weight: Tensor | None, bias: Tensor | None, scale: Tensor
) -> Tensor | None:
    """What rounding takes from bias + (deviation - shift) * scale, (N, C, *) wide; None where x is narrower."""
    if deviation.lost is None or centre.lost_rstd is None:
        return None
    rank = deviation.value.dim()
    of_scale = lost_digits.of_scale(weight, centre.rstd, centre.lost_rstd)
    lost = deviation.lost * per_channel(scale.detach(), rank)
    if centre.shift is not None:
        lost = lost + per_channel(lost_digits.of_start(bias, centre.shift, scale, of_scale), rank)
    lost = torch.addcmul(lost, deviation.value.detach(), per_channel(of_scale, rank))
    return torch.nan_to_num(lost, nan=0.0, posinf=0.0, neginf=0.0)  # infinite values have lost nothing


def _value_near(mean: Tensor, values: Tensor) -> Tensor:
    """The first value of each channel where that may be the mean but for rounding, else the mean; (C,).

    The mean of equal values must be that value, so that a constant channel is centred to exactly 0.
    """
    first = values[0]
    while first.dim() > 1:
        first = first[..., 0]
    return torch.where((first - mean).abs() <= mean.abs() * 16 * torch.finfo(mean.dtype).eps, first, mean)


def _rstd(m2: Tensor, count: Tensor | float, eps: float) -> Tensor:
    return torch.rsqrt(m2 / _at_least_one(count) + eps)


def _sum(values: Tensor, weights: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    return (values if weights is None else values * weights).sum(dims)


def _mean(values: Tensor, weights: Tensor | None, count: Tensor | float, dims: tuple[int, ...]) -> Tensor:
    return values.mean(dims) if weights is None else _sum(values, weights, dims) / _at_least_one(count)


def _at_least_one(count: Tensor | float) -> Tensor | float:
    """A divisor for sums over `count` values: all of them 0 where there is none."""
    return count.clamp(min=1e-30) if isinstance(count, Tensor) else count
