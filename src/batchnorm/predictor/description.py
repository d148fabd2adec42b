"""What a model file holds, in JSON values: for `batchnorm inspect` and for programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.data.schema import Schema
from batchnorm.model_file import FORMAT_VERSION, ModelFile

_GREEK = {"weight": "gamma", "bias": "beta"}


def describe(model_file: ModelFile) -> dict[str, Any]:
    """The network layer by layer, the schema, and how it was trained.

    Returns:
        `format_version`, `task` ("classification" or "regression"), `network` (sizes and choices), `parameters` (how
        many numbers were learnt), `layers` (in the order that a row passes them), `schema`, `trained`. A layer has
        `name`, `kind` and a summary of each tensor under its name (batch norm's are `gamma`, `beta`, `running_mean`,
        `running_var`): `shape`, `dtype`, `min`, `max`, `mean`, `std`, and for anything but a matrix `values`.
    """
    network = model_file.network
    layers: list[dict[str, Any]] = []
    if network.input_norm:
        layers.append(_layer(model_file, "input_norm", "InputNorm", ("mean", "std")))
    for number in range(len(network.hidden)):
        name = f"layers.{number}"
        layers.append(_layer(model_file, f"{name}.linear", "Linear", ("weight", "bias")))
        activation = {"name": f"{name}.activation", "kind": network.activation}
        if network.norm is None:
            layers.append(activation)
            continue
        norm = _layer(model_file, f"{name}.norm", "BatchNorm1d", ("weight", "bias", "running_mean", "running_var"))
        norm = {_GREEK.get(key, key): value for key, value in norm.items()}
        norm |= {"eps": network.eps, "batches": int(model_file.tensors[f"{name}.norm.num_batches_tracked"])}
        layers.extend([norm, activation] if network.placement == "before" else [activation, norm])
    layers.append(_layer(model_file, "head", "Linear", ("weight", "bias")))
    regression = model_file.schema.target.kind == "number"
    if regression:
        layers.append(_layer(model_file, "target", "in the user's units", ("mean", "std")))
    learnt = (array.size for name, array in model_file.tensors.items() if name.endswith((".weight", ".bias")))
    return {
        "format_version": FORMAT_VERSION,
        "task": "regression" if regression else "classification",
        "network": network.to_dict(),
        "parameters": sum(learnt),
        "layers": layers,
        "schema": describe_schema(model_file.schema),
        "trained": dict(model_file.trained),
    }


def describe_schema(schema: Schema) -> dict[str, Any]:
    """The schema as it is stored, and the unit of each column that names one."""
    values = schema.to_dict()
    units = [*(column.unit for column in schema.columns), schema.target.unit]
    for unit, described in zip(units, [*values["columns"], values["target"]], strict=True):
        if unit is not None:
            described["unit"] = unit
    return values


def _layer(model_file: ModelFile, name: str, kind: str, parts: tuple[str, ...]) -> dict[str, Any]:
    found = {part: model_file.tensors[f"{name}.{part}"] for part in parts if f"{name}.{part}" in model_file.tensors}
    return {"name": name, "kind": kind} | {part: _summary(array) for part, array in found.items()}


def _summary(array: NDArray[Any]) -> dict[str, Any]:
    wide = array.astype(np.float64)
    summary = {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "min": float(wide.min()),
        "max": float(wide.max()),
        "mean": float(wide.mean()),
        "std": float(wide.std()),
    }
    return summary if array.ndim > 1 else summary | {"values": wide.reshape(-1).tolist()}
