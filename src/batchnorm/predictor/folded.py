"""A trained network as one affine map and one activation per layer.

At test time batch normalization is an affine map with constants (Ioffe & Szegedy 2015, Algorithm 2, step 11):

    s = gamma / sqrt(running_var + eps)        norm(z) = s * z + (beta - s * running_mean)

so it disappears into a neighbour: placed before the activation into its own linear map, W' = diag(s) W; placed after it
into the next one, the head included, W' = W diag(s), b' = b + W (beta - s * running_mean). That is done in float64 and
then rounded once, to the dtype that the network was trained in. The normalization of the inputs is not folded: a column
of mean 1e9 and standard deviation 1 would lose its digits in float32 weights. It is applied in float64, then rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import ModelFileError
from batchnorm.model_file import ModelFile

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """x: (N, F) -> x @ weight.T + bias: (N, C)."""

    weight: Array  # (C, F)
    bias: Array  # (C,)


@dataclass(frozen=True, eq=False)
class InputScale:
    """x: (N, F) -> (x - centre) / divisor, each (1, F); a divisor of inf, of a constant feature, maps finite x to 0."""

    centre: Array
    divisor: Array


@dataclass(frozen=True, eq=False)
class Folded:
    """Inputs centred and divided, then the affine maps with the activation between each two; `dtype` to compute in."""

    scale: InputScale | None
    layers: tuple[Affine, ...]  # the head last
    activation: str
    dtype: np.dtype[Any]


def fold(model_file: ModelFile) -> Folded:
    """Fold gamma, beta, running statistics and eps of every layer into the affine maps.

    Raises:
        ModelFileError: the folded values leave the range of the network's dtype.
    """
    network, tensors = model_file.network, model_file.tensors
    dtype = np.result_type(*(array.dtype for name, array in tensors.items() if name.endswith(".weight")))
    names = [*(f"layers.{number}" for number in range(len(network.hidden))), "head"]
    layers = []
    norm: ScaleShift | None = None  # of the layer before, where it follows the activation
    for name in names:
        with np.errstate(all="ignore"):
            layer = _linear(model_file, name)
            if norm is not None:
                layer = Affine(layer.weight * norm.scale, layer.bias + layer.weight @ norm.shift)
            norm = _norm(model_file, name) if network.norm == "batch" and name != "head" else None
            if norm is not None and network.placement == "before":
                layer = Affine(layer.weight * norm.scale[:, None], layer.bias * norm.scale + norm.shift)
                norm = None
            fits = all(np.isfinite(values.astype(dtype)).all() for values in (layer.weight, layer.bias))
        if not fits:
            raise ModelFileError(
                f"{name} expected weights that {dtype} can hold once normalized, got larger: train again"
            )
        layers.append(layer)
    scale = None
    if network.input_norm:
        centre, divisor = tensors["input_norm.mean"][None], tensors["input_norm.std"][None]
        scale = InputScale(centre, np.where(divisor > 0, divisor, np.inf))
    return Folded(scale, tuple(layers), network.activation, dtype)


@dataclass(frozen=True, eq=False)
class ScaleShift:
    """Batch normalization with constants: z -> scale * z + shift, each (C,)."""

    scale: Array
    shift: Array


def _norm(model_file: ModelFile, layer: str) -> ScaleShift:
    gamma, beta, mean, var = (
        model_file.tensors[f"{layer}.norm.{name}"].astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + model_file.network.eps)
    return ScaleShift(scale, beta - scale * mean)


def _linear(model_file: ModelFile, layer: str) -> Affine:
    prefix = layer if layer == "head" else f"{layer}.linear"
    weight = model_file.tensors[f"{prefix}.weight"].astype(np.float64)
    bias = model_file.tensors.get(f"{prefix}.bias", np.zeros(len(weight)))
    return Affine(weight, bias.astype(np.float64))
