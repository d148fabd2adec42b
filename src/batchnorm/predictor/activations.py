"""The activations in NumPy, for predicting without torch: in place, in the dtype that comes.

Each value depends on its own input alone. At any finite input the result is finite and right; on the way there exp may
overflow, and 1 / (1 + inf) is the 0 that is meant, so the caller silences NumPy (`quiet.quiet`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
Activation: TypeAlias = Callable[[Floats], object]
"""Replaces each value of a float array by its activation."""


# Constants as arrays, which NumPy takes in half the time of a Python number; float64 takes float32 values as they are.
_ZERO = np.zeros((), np.float32)
_ONE = np.ones((), np.float32)


def activation_of(name: str) -> Activation:
    """The activation that `spec.ACTIVATIONS` calls `name`.

    Example:
        >>> from batchnorm.predictor.quiet import quiet
        >>> z = np.array([-1e3, 0.0, 1e3], dtype=np.float32)
        >>> quiet().run(activation_of("sigmoid"), z)
        >>> z.tolist()
        [0.0, 0.5, 1.0]
    """
    return _gelu() if name == "gelu" else _FUNCTIONS[name]


def _relu(z: Floats) -> None:
    np.maximum(z, _ZERO, out=z)


def _leaky_relu(z: Floats) -> None:
    np.maximum(z, 0.01 * z, out=z)


def _sigmoid(z: Floats) -> None:
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += _ONE
    np.reciprocal(z, out=z)


def _tanh(z: Floats) -> None:
    np.tanh(z, out=z)


def _silu(z: Floats) -> None:
    below = np.negative(z)
    np.exp(below, out=below)
    below += _ONE
    z /= below


def _gelu() -> Activation:
    from scipy.special import ndtr  # type: ignore[import-untyped]  # the exact 0.5 * (1 + erf(z / sqrt(2))), in its tail too

    def gelu(z: Floats) -> None:
        z *= ndtr(z)

    return gelu


_FUNCTIONS: dict[str, Activation] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": _silu,
}
