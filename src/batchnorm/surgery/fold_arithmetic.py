"""The numbers of folding: batch norm at test time as scale and shift, and both into the weights beside it.

    s = gamma / sqrt(running_var + eps)     t = beta - s * running_mean     norm(z) = s * z + t
    norm(W x + b) = (s W) x + (s b + t)     W norm(x) + b = (W s) x + (b + W t)

Source: Ioffe and Szegedy 2015, Algorithm 2, step 11. Everything in float64, rounded once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.surgery.fold_layers import TRANSPOSED


@dataclass(frozen=True, eq=False)
class ScaleShift:
    """z -> scale * z + shift, each (C,) float64."""

    scale: Tensor
    shift: Tensor


def scale_shift(layer: Any) -> ScaleShift:
    """A batch norm layer at test time. Libraries' layers of constants without an eps have 1e-5."""
    mean, var = layer.running_mean.detach().double(), layer.running_var.detach().double()
    scale = torch.rsqrt(var + getattr(layer, "eps", 1e-5))
    if getattr(layer, "weight", None) is not None:
        scale = scale * layer.weight.detach().double()
    shift = -scale * mean
    if getattr(layer, "bias", None) is not None:
        shift = shift + layer.bias.detach().double()
    return ScaleShift(scale, shift)


def fold_after(linear: Any, norm: ScaleShift) -> None:
    """Give a linear map the weights that it and the batch norm layer after it have together."""
    weight, bias = linear.weight.detach().double(), _bias(linear, norm.scale)
    _write(linear, _by_output(linear, weight, norm.scale), bias * norm.scale + norm.shift)


def fold_before(linear: Any, norm: ScaleShift) -> None:
    """Give a linear map the weights that it and the batch norm layer before it have together."""
    weight = linear.weight.detach().double()
    moved = _by_input(linear, weight, norm.shift).flatten(2) if weight.dim() > 2 else weight * norm.shift
    if isinstance(linear, TRANSPOSED):  # (in, out / groups, taps): inputs are the first axis, within groups
        shift = _grouped(linear, moved.sum(2)).sum(1).flatten()
    else:
        shift = moved.flatten(1).sum(1)
    bias = _bias(linear, shift) + shift
    _write(linear, _by_input(linear, weight, norm.scale), bias)


def why_no_shift_before(linear: Any) -> str | None:
    """Why what the layer before adds is no constant after this linear map; None where it is."""
    if isinstance(linear, nn.Linear):
        return None
    name = type(linear).__name__
    if isinstance(linear, TRANSPOSED):
        taps = (*linear.kernel_size, *linear.stride)
        padded = any(linear.padding) or any(linear.output_padding)
        return f"{name} spreads the layer's shift unevenly" if padded or any(tap != 1 for tap in taps) else None
    if linear.padding_mode != "zeros" or linear.padding == "valid":
        return None
    if linear.padding == "same":
        padded = any(dilation * (size - 1) for dilation, size in zip(linear.dilation, linear.kernel_size, strict=True))
    else:
        padded = any(linear.padding)
    return f"{name} pads with zeros, which the layer before it would have shifted" if padded else None


def _by_output(linear: Any, weight: Tensor, factor: Tensor) -> Tensor:
    """The weight times a factor for each output, (out,)."""
    if not isinstance(linear, TRANSPOSED):
        return weight * factor.view(-1, *[1] * (weight.dim() - 1))
    grouped = _grouped(linear, weight)  # (groups, in / groups, out / groups, *)
    return (grouped * factor.view(linear.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)


def _by_input(linear: Any, weight: Tensor, factor: Tensor) -> Tensor:
    """The weight times a factor for each input, (in,)."""
    if isinstance(linear, nn.Linear):
        return weight * factor
    if isinstance(linear, TRANSPOSED):
        return weight * factor.view(-1, *[1] * (weight.dim() - 1))
    grouped = _grouped(linear, weight)  # (groups, out / groups, in / groups, *)
    return (grouped * factor.view(linear.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)


def _grouped(linear: Any, tensor: Tensor) -> Tensor:
    return tensor.reshape(linear.groups, -1, *tensor.shape[1:])


def _bias(linear: Any, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if linear.bias is None else linear.bias.detach().double()


def _write(linear: Any, weight: Tensor, bias: Tensor) -> None:
    old = linear.weight
    linear.weight = nn.Parameter(weight.to(old.dtype).contiguous(), requires_grad=old.requires_grad)
    linear.bias = nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad)
