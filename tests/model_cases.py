"""Model files to test with: any network, filled with numbers a trained one could have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from batchnorm.data.column import Column, Target
from batchnorm.data.schema import Schema
from batchnorm.model_file import ModelFile
from batchnorm.model_file.header import make_metadata
from batchnorm.model_file.spec import NetworkSpec, expected_tensors

SPEC = NetworkSpec(
    inputs=5,
    hidden=(7, 4),
    outputs=3,
    activation="relu",
    placement="before",
    norm="batch",
    eps=1e-5,
    input_norm=True,
)
TRAINED = {"settings": {"epochs": 3, "solver": "adam", "momentum": 0.1}, "metrics": {"accuracy": 0.975}, "seed": 7}


def number_schema(features: int, target: Target) -> Schema:
    """So many number columns x0, x1, ... and a target."""
    columns = tuple(Column(f"x{number}", "number", fill=0.5) for number in range(features))
    return Schema(columns=columns, target=target, header=True)


def classes(count: int) -> Target:
    return Target("kind", "class", tuple(f"class {number}" for number in range(count)))


def model(seed: int = 0, *, regression: bool = False, target: Target | None = None, **changes: Any) -> ModelFile:
    """A model file with random tensors for `SPEC` with these changes."""
    spec = replace(SPEC, **({"outputs": 1} if regression else {}) | changes)
    rng = np.random.default_rng(seed)
    target = target or (Target("price", "number") if regression else classes(spec.outputs))
    tensors = {
        name: np.asarray(values(name, tensor.shape, rng), dtype=tensor.dtypes[0])
        for name, tensor in expected_tensors(spec, regression=regression).items()
    }
    return ModelFile(tensors=tensors, network=spec, schema=number_schema(spec.inputs, target), trained=TRAINED)


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    normal = np.asarray(rng.normal(size=shape))
    match name.rpartition(".")[2]:
        case "std" | "running_var":
            return np.asarray(np.exp(normal))
        case "num_batches_tracked":
            return np.asarray(1234.0)
        case "weight" if len(shape) == 2:
            return normal / np.sqrt(shape[1])
        case _:
            return normal


def forge(
    path: Path, model_file: ModelFile, *, about: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None
) -> Path:
    """Write what no ModelFile can hold, with a checksum that fits: as another program, or an attacker, could."""
    said = {
        "network": model_file.network.to_dict(),
        "schema": model_file.schema.to_dict(),
        "trained": dict(model_file.trained),
    } | (about or {})
    held = {**model_file.tensors, **(tensors or {})}
    held = {name: array for name, array in held.items() if array is not None}
    path.write_bytes(safetensors.numpy.save(held, make_metadata(said, held)))
    return path


def same(a: ModelFile, b: ModelFile) -> bool:
    """Whether two model files mean the same, to the last bit."""
    return (
        (a.network, a.schema, a.trained) == (b.network, b.schema, b.trained)
        and a.tensors.keys() == b.tensors.keys()
        and all(
            (array.dtype, array.shape, array.tobytes())
            == (b.tensors[name].dtype, b.tensors[name].shape, b.tensors[name].tobytes())
            for name, array in a.tensors.items()
        )
    )
