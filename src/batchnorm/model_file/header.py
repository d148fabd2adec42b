"""What a model file says of itself: its safetensors header, read with suspicion, and the checksum over its meaning.

The header's metadata has one entry, "batchnorm": a JSON object with `format`, `format_version`, `checksum`, `network`,
`schema` and `trained`. The checksum is SHA-256 over everything that has a meaning: that object without the checksum,
and each tensor's name, dtype, shape and bytes. Spaces and the order of keys have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import ModelFileError

FORMAT = "batchnorm model"
FORMAT_VERSION = 1
MAX_HEADER = 2**25  # bytes, some 200 000 columns; keeps the JSON of a forged header from filling the memory

_ENTRY = "batchnorm"
_PARTS = {"format", "format_version", "checksum", "network", "schema", "trained"}
_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64"}


class NewerFormatError(ModelFileError):
    """Nothing is wrong with the file: a newer batchnorm wrote it."""


@dataclass(frozen=True)
class Header:
    """A header whose form is right; whether its content is, and fits the bytes after it, is still to be checked."""

    about: dict[str, Any]  # format, format_version, network, schema, trained
    checksum: str
    tensors: dict[str, tuple[str, tuple[object, ...]]]  # name -> NumPy dtype (if there is one) and shape
    end: int  # bytes before the first tensor


def make_metadata(about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The metadata of a file with these tensors; `about` has `network`, `schema` and `trained`.

    Raises:
        ValueError, TypeError: something in `about` is not a JSON value (NaN and infinity are none).
    """
    seen = _parse(_canonical({"format": FORMAT, "format_version": FORMAT_VERSION, **about}))  # as a reader will see it
    return {_ENTRY: _canonical(seen | {"checksum": checksum(seen, tensors)})}


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file of `size` bytes, and no more of it than the size and `MAX_HEADER` allow.

    Raises:
        ModelFileError: empty, cut short, foreign, newer, or damaged.
    """
    if size == 0:
        raise ModelFileError("it is empty")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] not in (b"{", b""):
        raise ModelFileError("it is not a safetensors file and was not opened any further")
    if size < 8 + length:
        raise ModelFileError(f"it is cut short: its header alone claims {length:,} bytes, the file has {size:,}")
    if length > MAX_HEADER:
        raise ModelFileError(f"its header claims {length:,} bytes, at most {MAX_HEADER:,} are read")
    file.seek(8)
    entries = _parse(file.read(length).decode(errors="replace"))  # safetensors refuses what is not UTF-8 later on
    return _take_apart(entries, 8 + length)


def checksum(about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the meaning of a file; each part follows its length, so that no two contents give one sequence."""
    digest = hashlib.sha256()

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(_canonical(about).encode())
    for name in sorted(tensors):
        array = tensors[name]
        add(_canonical([name, array.dtype.name, array.shape]).encode())
        add(array.reshape(-1).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"


def _take_apart(entries: object, end: int) -> Header:
    metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(entries, dict) or not isinstance(metadata, dict) or not isinstance(metadata.get(_ENTRY), str):
        raise ModelFileError("it is a safetensors file of something else, not a batchnorm model")
    about = _parse(metadata[_ENTRY])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelFileError("it is a safetensors file of something else, not a batchnorm model")
    version = about.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise NewerFormatError(f"it has format {version}, newer than the format {FORMAT_VERSION} known here")
    if type(version) is not int or version < 1 or set(about) != _PARTS or len(metadata) != 1:
        raise ModelFileError("its metadata is incomplete or damaged")
    if not isinstance(about["trained"], dict):
        raise ModelFileError("its record of the training is damaged")
    tensors = {name: _dtype_and_shape(name, entry) for name, entry in entries.items()}
    digest = str(about.pop("checksum"))
    return Header(about=about, checksum=digest, tensors=tensors, end=end)


def _dtype_and_shape(name: str, entry: object) -> tuple[str, tuple[object, ...]]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape)}:
            return _DTYPES.get(dtype, dtype), tuple(shape)
        case _:
            raise ModelFileError(f"its entry for {name[:80]!r} is damaged")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except RecursionError:
        raise ModelFileError("its header is nested too deeply") from None
    except ModelFileError:
        raise
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
