"""What the folded network must agree with: the same network unfolded, in torch's own layers, evaluation mode."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchnorm.model_file import ModelFile

ACTIVATIONS: dict[str, torch.nn.Module] = {
    "relu": torch.nn.ReLU(),
    "leaky_relu": torch.nn.LeakyReLU(0.01),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
}


def unfolded(model_file: ModelFile, dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    """The network after the normalization of its inputs."""
    spec, modules = model_file.network, []
    widths = [spec.inputs, *spec.hidden]
    for number, (before, after) in enumerate(pairwise(widths)):
        layer: dict[str, torch.nn.Module] = {
            "linear": torch.nn.Linear(before, after, bias=spec.norm is None),
            "act": ACTIVATIONS[spec.activation],
        }
        if spec.norm == "batch":
            layer["norm"] = torch.nn.BatchNorm1d(after, eps=spec.eps)
        for part in ("linear", "norm"):
            if part in layer:
                prefix = f"layers.{number}.{part}."
                state = {k.removeprefix(prefix): v for k, v in model_file.tensors.items() if k.startswith(prefix)}
                layer[part].load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        order = ["linear", "norm", "act"] if spec.placement == "before" else ["linear", "act", "norm"]
        modules += [layer[part] for part in order if part in layer]
    head = torch.nn.Linear(widths[-1], spec.outputs)
    head.load_state_dict({name: torch.tensor(model_file.tensors[f"head.{name}"]) for name in ("weight", "bias")})
    return torch.nn.Sequential(*modules, head).to(dtype).eval()


def expected_scores(
    model_file: ModelFile, x: NDArray[Any], dtype: torch.dtype = torch.float64
) -> NDArray[np.floating[Any]]:
    """The head's outputs for x: (N, F), inputs normalized in float64, the rest in `dtype`."""
    rows = torch.tensor(x, dtype=torch.float64)
    if model_file.network.input_norm:
        mean, std = (torch.tensor(model_file.tensors[f"input_norm.{name}"]) for name in ("mean", "std"))
        rows = torch.where(std > 0, (rows - mean) / std, torch.zeros(()).double())
    with torch.inference_mode():
        found: NDArray[np.floating[Any]] = unfolded(model_file, dtype)(rows.to(dtype)).numpy()
    return found


def inputs(rows: int, features: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Rows to predict."""
    return np.random.default_rng(seed).normal(size=(rows, features)) * 3


def wide(model_file: ModelFile) -> ModelFile:
    """The same model as if it had been trained in float64."""
    tensors = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in model_file.tensors.items()
    }
    return ModelFile(tensors, model_file.network, model_file.schema, model_file.trained)
