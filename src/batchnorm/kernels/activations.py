"""The activations that a batch norm layer can end in, and their slopes: values and derivatives, nothing kept.

Each slope is written in terms of the pre-activation z, because the backward pass recomputes z from x anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.01  # the slope of leaky_relu below zero, torch's default


_aten = torch.ops.aten

# name -> (z -> activation, (z, dy) -> dy * slope at z)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda z, dy: _aten.threshold_backward(dy, z, 0)),
    "leaky_relu": (lambda z: F.leaky_relu(z, LEAK), lambda z, dy: _aten.leaky_relu_backward(dy, z, LEAK, False)),
    "sigmoid": (torch.sigmoid, lambda z, dy: _aten.sigmoid_backward(dy, torch.sigmoid(z))),
    "tanh": (torch.tanh, lambda z, dy: _aten.tanh_backward(dy, torch.tanh(z))),
    "gelu": (F.gelu, lambda z, dy: _aten.gelu_backward(dy, z)),
    "silu": (F.silu, lambda z, dy: _aten.silu_backward(dy, z)),
}


def check_activation(name: str | None) -> None:
    """Raise ValueError unless `name` is one of the activations or None."""
    if name is not None and name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation expected one of {known}, or None; got {name!r}")
