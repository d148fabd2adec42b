"""The activations that a batch norm layer can end in, and their slopes: values and derivatives, nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.01  # the slope of leaky_relu below zero, torch's default

_aten = torch.ops.aten


class Activation(NamedTuple):
    """One activation y = value(z), element by element."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]  # (z, dy) -> dy * value'(z)
    slope_at_output: Callable[[Tensor, Tensor], Tensor] | None  # (y, dy) -> the same, where y alone tells it


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        torch.relu,
        lambda z, dy: _aten.threshold_backward(dy, z, 0),
        lambda y, dy: _aten.threshold_backward(dy, y, 0),
    ),
    "leaky_relu": Activation(
        lambda z: F.leaky_relu(z, LEAK),
        lambda z, dy: _aten.leaky_relu_backward(dy, z, LEAK, False),
        lambda y, dy: _aten.leaky_relu_backward(dy, y, LEAK, True),
    ),
    "sigmoid": Activation(
        torch.sigmoid,
        lambda z, dy: _aten.sigmoid_backward(dy, torch.sigmoid(z)),
        lambda y, dy: _aten.sigmoid_backward(dy, y),
    ),
    "tanh": Activation(
        torch.tanh, lambda z, dy: _aten.tanh_backward(dy, torch.tanh(z)), lambda y, dy: _aten.tanh_backward(dy, y)
    ),
    "gelu": Activation(F.gelu, lambda z, dy: _aten.gelu_backward(dy, z), None),
    "silu": Activation(F.silu, lambda z, dy: _aten.silu_backward(dy, z), None),
}


def check_activation(name: str | None) -> None:
    """Raise ValueError unless `name` is one of the activations or None."""
    if name is not None and name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation expected one of {known}, or None; got {name!r}")
