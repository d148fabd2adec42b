"""The activations that a batch norm layer can end in, and their slopes: values and derivatives, nothing kept.

Each slope is written in terms of the pre-activation z, because the backward pass recomputes z from x anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.01  # the slope of leaky_relu below zero, torch's default


def _sigmoid_slope(z: Tensor, dy: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return dy * (s * (1 - s))


def _tanh_slope(z: Tensor, dy: Tensor) -> Tensor:
    t = torch.tanh(z)
    return dy * (1 - t * t)


def _silu_slope(z: Tensor, dy: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return dy * (s * (1 + z * (1 - s)))


def _gelu_slope(z: Tensor, dy: Tensor) -> Tensor:
    cdf = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    pdf = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return dy * (cdf + z * pdf)


# name -> (z -> activation, (z, dy) -> dy * slope at z)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda z, dy: torch.where(z <= 0, 0, dy)),
    "leaky_relu": (lambda z: F.leaky_relu(z, LEAK), lambda z, dy: torch.where(z > 0, dy, LEAK * dy)),
    "sigmoid": (torch.sigmoid, _sigmoid_slope),
    "tanh": (torch.tanh, _tanh_slope),
    "gelu": (F.gelu, _gelu_slope),
    "silu": (F.silu, _silu_slope),
}


def check_activation(name: str | None) -> None:
    """Raise ValueError unless `name` is one of the activations or None."""
    if name is not None and name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation expected one of {known}, or None; got {name!r}")
