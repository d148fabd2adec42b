"""A trained network as one affine map and one activation per layer, in float64.

At test time batch normalization is an affine map with constants (Ioffe & Szegedy 2015, Algorithm 2, step 11):

    s = gamma / sqrt(running_var + eps)        norm(z) = s * z + (beta - s * running_mean)

so it disappears into a neighbour: placed before the activation into its own linear map, W' = diag(s) W; placed after it
into the next one, the head included, W' = W diag(s), b' = b + W (beta - s * running_mean).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchnorm.errors import ModelFileError
from batchnorm.model_file import ModelFile
from batchnorm.predictor.activations import Array, activate


@dataclass(frozen=True, eq=False)
class Affine:
    """x: (N, F) -> x @ weight.T + bias: (N, C)."""

    weight: Array  # (C, F)
    bias: Array  # (C,)


@dataclass(frozen=True, eq=False)
class FoldedNetwork:
    """Inputs centred and divided, then the affine maps with the activation between each two."""

    centre: Array  # (F,)
    divisor: Array  # (F,), inf for a constant feature: it maps to 0 whatever comes
    layers: tuple[Affine, ...]  # the head last
    activation: str

    def scores(self, x: Array) -> Array:
        """The head's outputs (N, outputs) for encoded features x: (N, F); not finite where x is too large."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            a = (x - self.centre) / self.divisor
            for layer in self.layers[:-1]:
                a = activate(a @ layer.weight.T + layer.bias, self.activation)
            head = self.layers[-1]
            return a @ head.weight.T + head.bias


def fold(model_file: ModelFile) -> FoldedNetwork:
    """Fold gamma, beta, running statistics and eps of every layer into the affine maps.

    Raises:
        ModelFileError: the folded values leave the range of float64.
    """
    network, tensors = model_file.network, model_file.tensors
    centre, divisor = np.zeros(network.inputs), np.ones(network.inputs)
    if network.input_norm:
        centre, divisor = tensors["input_norm.mean"], tensors["input_norm.std"]
    names = [*(f"layers.{number}" for number in range(len(network.hidden))), "head"]
    layers = []
    norm: ScaleShift | None = None  # of the layer before, where it follows the activation
    for name in names:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            layer = _linear(model_file, name)
            if norm is not None:
                layer = Affine(layer.weight * norm.scale, layer.bias + layer.weight @ norm.shift)
            norm = _norm(model_file, name) if network.norm == "batch" and name != "head" else None
            if norm is not None and network.placement == "before":
                layer = Affine(layer.weight * norm.scale[:, None], layer.bias * norm.scale + norm.shift)
                norm = None
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise ModelFileError(
                f"{name} expected weights that float64 can hold once normalized, got larger: train again"
            )
        layers.append(layer)
    return FoldedNetwork(centre, np.where(divisor > 0, divisor, np.inf), tuple(layers), network.activation)


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
