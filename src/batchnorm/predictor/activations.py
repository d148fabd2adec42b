"""The activations in NumPy, for predicting without torch: float64 in, float64 out, quiet at any finite value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def activate(z: Array, activation: str) -> Array:
    """Apply an activation by its name (`spec.ACTIVATIONS`) to each value of z: (N, C).

    Example:
        >>> activate(np.array([[-1e4, 0.0, 1e4]]), "sigmoid")
        array([[0. , 0.5, 1. ]])
    """
    with np.errstate(under="ignore"):  # a tail that rounds to 0 is right
        return _FUNCTIONS[activation](z)


def _relu(z: Array) -> Array:
    return np.maximum(z, 0.0)


def _leaky_relu(z: Array) -> Array:
    return np.maximum(z, 0.01 * z)


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))  # never overflows
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def _tanh(z: Array) -> Array:
    return np.tanh(z)


def _silu(z: Array) -> Array:
    return z * _sigmoid(z)


def _gelu(z: Array) -> Array:
    from scipy.special import ndtr  # type: ignore[import-untyped]  # the exact 0.5 * (1 + erf(z / sqrt(2))), in its tail too

    product: Array = z * ndtr(z)
    return product


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
}
