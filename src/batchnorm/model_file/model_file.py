"""One safe file for a trained network: a .safetensors file whose header carries the network, the schema and a checksum.

Reading trusts nothing: sizes are checked before memory is taken, and what is truncated, altered, foreign, newer or
impossible is refused with one sentence. There is no pickle and no code in the file; `header` says what is.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from batchnorm.atomic import atomic_write
from batchnorm.data.schema import Schema
from batchnorm.errors import DataError, ModelFileError, SettingsError
from batchnorm.model_file.header import (
    FORMAT_VERSION,
    MAX_HEADER,
    NewerFormatError,
    checksum,
    make_metadata,
    read_header,
)
from batchnorm.model_file.spec import NetworkSpec, check_tensors

__all__ = ["FORMAT_VERSION", "ModelFile", "NetworkSpec", "read_model_file", "save", "write_model_file"]

_REMEDY = "name a file that `batchnorm train` wrote, take another copy of it, or train again"
_NOT_NEGATIVE = {"running_var": "variance", "std": "standard deviation", "num_batches_tracked": "count"}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A trained network and all that is needed to use it: checked when built, so that an impossible one cannot exist.

    Attributes:
        tensors: the names, shapes and dtypes of `spec.expected_tensors`; all finite, variances >= 0, standard
            deviations >= 0 where 0 marks a constant feature.
        network: the network's sizes and choices.
        schema: what the columns and the target mean.
        trained: JSON values: settings, metrics, versions, seed.

    Raises:
        ModelFileError: tensors, network and schema do not belong together, or a value is impossible.
    """

    tensors: Mapping[str, NDArray[Any]]
    network: NetworkSpec
    schema: Schema
    trained: Mapping[str, Any]

    def __post_init__(self) -> None:
        network, target = self.network, self.schema.target
        features = len(self.schema.feature_names)
        if features != network.inputs:
            raise ModelFileError(f"the network expected {network.inputs} features, the schema makes {features}")
        outputs = 1 if target.kind == "number" else len(target.classes)
        if outputs != network.outputs:
            raise ModelFileError(f"the target {target.name!r} expected {outputs} outputs, got {network.outputs}")
        found = {name: (array.dtype.name, array.shape) for name, array in self.tensors.items()}
        check_tensors(found, network, regression=target.kind == "number")
        for name, array in self.tensors.items():
            _check_values(name, array)


class HoldsModelFile(Protocol):
    """A predictor, a fitted estimator."""

    @property
    def model_file(self) -> ModelFile: ...


def save(model: ModelFile | HoldsModelFile, path: str | os.PathLike[str]) -> None:
    """Write a trained model for `batchnorm.load` to read; errors as `write_model_file`."""
    write_model_file(path, model if isinstance(model, ModelFile) else model.model_file)


def write_model_file(path: str | os.PathLike[str], model_file: ModelFile) -> None:
    """Write a model file, wholly or not at all; the same model gives the same bytes.

    Raises:
        ModelFileError: `trained` holds something that is not a JSON value (NaN is none), or there are too many columns.
        OutputError: it could not be written; whatever was at `path` before is still there.
    """
    # safetensors copies the memory as it lies: it must lie in C order, little-endian
    tensors = {
        name: np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        for name, array in model_file.tensors.items()
    }
    about = {
        "network": model_file.network.to_dict(),
        "schema": model_file.schema.to_dict(),
        "trained": dict(model_file.trained),
    }
    try:
        metadata = make_metadata(about, tensors)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"cannot write {os.fspath(path)!r}: the schema and the record of the training expected JSON values "
            f"(text, finite numbers, lists), got something else ({error})"
        ) from error
    data = safetensors.numpy.save(tensors, metadata)
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER:
        raise ModelFileError(
            f"cannot write {os.fspath(path)!r}: its schema takes {header:,} bytes, at most {MAX_HEADER:,} can be read "
            "back: use fewer columns"
        )
    atomic_write(path, data)


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file, checking everything.

    Raises:
        ModelFileError: no such file, not a file, no permission, not a batchnorm model, written by a newer version, cut
            short, altered, or holding impossible values: one sentence that says which, and what to do.
    """
    name = os.fspath(path)
    try:
        with _open(name) as file:
            return _read(file)
    except NewerFormatError as error:
        reason, remedy, cause = str(error), "upgrade batchnorm", error.__cause__
    except (ModelFileError, DataError, SettingsError, SafetensorError) as error:
        reason, remedy, cause = " ".join(str(error).split()).rstrip("."), _REMEDY, error.__cause__
    except MemoryError as error:
        reason, remedy, cause = "it does not fit in this machine's memory", "use a larger machine", error
    except OSError as error:
        reason, remedy, cause = error.strerror or str(error), "check the path and its permissions", error
    raise ModelFileError(f"cannot use the model file {name!r}: {reason}: {remedy}") from cause


def _open(name: str) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # opening a pipe would wait for ever
            raise ModelFileError("it is a folder or a device, not a file")
        return open(name, "rb")
    except ModelFileError:
        raise
    except ValueError as error:  # a NUL, or what the file system's encoding does not have
        raise OSError(f"no file can have this name ({error})") from error


def _read(file: BinaryIO) -> ModelFile:
    """Nothing is read before its size is known to fit the file and the network, nor used before the checksum fits."""
    size = os.fstat(file.fileno()).st_size
    header = read_header(file, size)
    network = NetworkSpec.from_dict(header.about["network"])
    expected = check_tensors(header.tensors, network, regression="target.mean" in header.tensors)
    wanted = header.end + sum(
        math.prod(expected[name].shape) * np.dtype(dtype).itemsize for name, (dtype, _) in header.tensors.items()
    )
    if size != wanted:
        raise ModelFileError(
            f"it is {'cut short' if size < wanted else 'too long'}: expected {wanted:,} bytes, got {size:,}"
        )
    file.seek(0)
    tensors = safetensors.numpy.load(file.read(wanted))
    if header.checksum != checksum(header.about, tensors):
        raise ModelFileError("it was altered after it was written (its checksum does not fit)")
    schema = Schema.from_dict(header.about["schema"])
    return ModelFile(tensors=tensors, network=network, schema=schema, trained=header.about["trained"])


def _check_values(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise ModelFileError(f"the tensor {name!r} holds values that are not finite (did training diverge?)")
    kind = name.rpartition(".")[2]
    if kind in _NOT_NEGATIVE and (array < 0).any():
        raise ModelFileError(f"the tensor {name!r} holds a negative {_NOT_NEGATIVE[kind]} ({array.min()})")
