"""One safe file for a trained network: a .safetensors file whose header carries the network, the schema and a checksum.

The header's metadata has one entry, "batchnorm": a JSON object with `format`, `format_version`, `checksum`, `network`,
`schema` and `trained`. The checksum is SHA-256 over everything that has a meaning: that object without the checksum, and
each tensor's name, dtype, shape and bytes. Reading trusts nothing: sizes are checked before memory is taken, and what is
truncated, altered, foreign, newer or impossible is refused with one sentence. There is no pickle and no code in the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from batchnorm.atomic import atomic_write
from batchnorm.data.schema import Schema
from batchnorm.errors import DataError, ModelFileError, SettingsError
from batchnorm.network_spec import NetworkSpec, check_tensors

__all__ = ["FORMAT_VERSION", "ModelFile", "NetworkSpec", "read_model_file", "write_model_file"]

FORMAT = "batchnorm model"
FORMAT_VERSION = 1
MAX_HEADER = 2**25  # bytes: some 200 000 columns; keeps the JSON of a forged header from filling the memory

_ENTRY = "batchnorm"
_PARTS = {"format", "format_version", "checksum", "network", "schema", "trained"}
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}
_REMEDY = "name a file that `batchnorm train` wrote, take another copy of it, or train again"
_NOT_NEGATIVE = {"running_var": "variance", "std": "standard deviation", "num_batches_tracked": "count"}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A trained network and all that is needed to use it: checked when built, so that an impossible one does not exist.

    Attributes:
        tensors: the names, shapes and dtypes of `network_spec.expected_tensors`; float values finite, variances >= 0,
            standard deviations >= 0 where 0 marks a constant feature.
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
        features, target = len(self.schema.feature_names), self.schema.target
        if features != self.network.inputs:
            raise ModelFileError(f"the schema makes {features} features, the network expected {self.network.inputs}")
        outputs = 1 if target.kind == "number" else len(target.classes)
        if outputs != self.network.outputs:
            raise ModelFileError(f"the target {target.name!r} expected {outputs} outputs, the network has {self.network.outputs}")
        found = {name: (array.dtype.name, array.shape) for name, array in self.tensors.items()}
        check_tensors(found, self.network, regression=target.kind == "number")
        for name, array in self.tensors.items():
            _check_values(name, array)


def write_model_file(path: str | os.PathLike[str], model_file: ModelFile) -> None:
    """Write a model file, wholly or not at all; the same model gives the same bytes.

    Raises:
        ModelFileError: `trained` or the schema holds something that is not a JSON value (NaN is not one).
        OutputError: it could not be written; whatever was at `path` before is still there.
    """
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": model_file.network.to_dict(),
        "schema": model_file.schema.to_dict(),
        "trained": dict(model_file.trained),
    }
    tensors = {  # safetensors takes the memory as it lies: it must lie in C order and little-endian
        name: np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C") for name, array in model_file.tensors.items()
    }
    try:
        about = _parse(_canonical(about))  # what a reader will see: tuples are lists, keys are text
        text = _canonical(about | {"checksum": _checksum(about, tensors)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"cannot write {os.fspath(path)!r}: the schema and what is said of the training expected JSON values "
            f"(text, finite numbers, lists), got something else ({error})"
        ) from error
    data = safetensors.numpy.save(tensors, {_ENTRY: text})
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise ModelFileError(f"cannot write {os.fspath(path)!r}: its schema takes over {MAX_HEADER:,} bytes: use fewer columns")
    atomic_write(path, data)


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file, checking everything.

    Raises:
        ModelFileError: no such file, not a file, no permission, not a batchnorm model, written by a newer version,
            cut short, altered, or holding impossible values: one sentence that says which, and what to do.
    """
    name = os.fspath(path)
    try:
        with _open(name) as file:
            return _read(file)
    except (ModelFileError, DataError, SettingsError) as error:
        remedy = "upgrade batchnorm" if isinstance(error, _NewerFormatError) else _REMEDY
        raise ModelFileError(f"cannot use the model file {name!r}: {error}: {remedy}") from error.__cause__
    except RecursionError:
        raise ModelFileError(f"cannot use the model file {name!r}: its metadata is nested too deeply: {_REMEDY}") from None
    except MemoryError:
        raise ModelFileError(f"cannot use the model file {name!r}: it does not fit in this machine's memory") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"cannot use the model file {name!r}: {reason}: check the path and its permissions") from error


class _NewerFormatError(ModelFileError):
    """Nothing is wrong with the file."""


def _open(name: str) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # opening a pipe would wait for ever
            raise ModelFileError("it is a folder or a device, not a file")
        return open(name, "rb")
    except ValueError as error:
        raise OSError(f"no path can have this name ({error})") from error


def _read(file: BinaryIO) -> ModelFile:
    """Nothing is read before its size is known to fit the file and the network, nor used before the checksum fits."""
    size = os.fstat(file.fileno()).st_size
    about, checksum, entries = _take_apart(_read_header(file, size))
    network = NetworkSpec.from_dict(about["network"])
    expected = check_tensors(entries, network, regression="target.mean" in entries)
    wanted = file.tell() + sum(math.prod(expected[name].shape) * np.dtype(dtype).itemsize for name, (dtype, _) in entries.items())
    if size != wanted:
        raise ModelFileError(f"it is {'cut short' if size < wanted else 'too long'}: expected {wanted:,} bytes, got {size:,}")
    file.seek(0)
    try:
        tensors = safetensors.numpy.load(file.read(wanted))
    except SafetensorError as error:
        raise ModelFileError(f"it is damaged ({error})") from error
    if checksum != _checksum(about, tensors):
        raise ModelFileError("it was altered after it was written (its checksum does not fit)")
    return ModelFile(tensors=tensors, network=network, schema=Schema.from_dict(about["schema"]), trained=about["trained"])


def _read_header(file: BinaryIO, size: int) -> bytes:
    if size == 0:
        raise ModelFileError("it is empty")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] not in (b"{", b""):
        raise ModelFileError("it is not a safetensors file and was not opened any further")
    if size < 8 + length:
        raise ModelFileError(f"it is cut short or damaged: its header alone claims {length:,} bytes, the file has {size:,}")
    if length > MAX_HEADER:
        raise ModelFileError(f"its header claims {length:,} bytes, at most {MAX_HEADER:,} are read")
    file.seek(8)
    return file.read(length)


def _take_apart(header: bytes) -> tuple[dict[str, Any], str, dict[str, tuple[str, tuple[object, ...]]]]:
    """What the file says of itself, its checksum, and each tensor's dtype and shape as the header has them."""
    entries = _parse(header.decode(errors="replace"))  # a replaced byte cannot survive safetensors' own reading
    metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {_ENTRY} or not isinstance(metadata[_ENTRY], str):
        raise ModelFileError("it is a safetensors file of something else, not a batchnorm model")
    about = _parse(metadata[_ENTRY])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelFileError("it is a safetensors file of something else, not a batchnorm model")
    version = about.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise _NewerFormatError(f"it has format {version}, newer than the format {FORMAT_VERSION} known here")
    if type(version) is not int or version < 1 or set(about) != _PARTS or not isinstance(about["trained"], dict):
        raise ModelFileError("its metadata is incomplete or damaged")
    names = {code: name for name, code in _DTYPES.items()}
    found: dict[str, tuple[str, tuple[object, ...]]] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list) or not isinstance(entry.get("dtype"), str):
            raise ModelFileError(f"its entry for {name[:80]!r} is damaged")
        found[name] = (names.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"]))
    return {key: value for key, value in about.items() if key != "checksum"}, str(about["checksum"]), found


def _check_values(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise ModelFileError(f"the tensor {name!r} holds values that are not finite (did training diverge?)")
    kind = name.rpartition(".")[2]
    if kind in _NOT_NEGATIVE and (array < 0).any():
        raise ModelFileError(f"the tensor {name!r} holds a negative {_NOT_NEGATIVE[kind]} ({array.min()})")


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the meaning of a file, each part preceded by its length so that no two contents share one sequence."""
    digest = hashlib.sha256()

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(_canonical(about).encode())
    for name in sorted(tensors):
        array = tensors[name]
        add(_canonical([name, array.dtype.name, array.shape]).encode())
        add(memoryview(array.reshape(-1).view(np.uint8)))
    return f"sha256:{digest.hexdigest()}"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ModelFileError(f"its header is damaged ({error})") from error


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ModelFileError(f"its header names {key[:80]!r} twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> object:
    raise ModelFileError(f"its header holds {name}, which is not a JSON value")
