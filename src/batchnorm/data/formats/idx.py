"""IDX, the format of MNIST: two zero bytes, a type, the number of dimensions, their sizes, the values; big-endian."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from batchnorm.data.formats.content import content
from batchnorm.data.table import Array
from batchnorm.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> Array:
    """The array of an IDX file, .gz or not, in this machine's byte order.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.

    Raises:
        DataError: the file is no IDX, or holds more or fewer bytes than its header says.
    """
    data = content(path)
    dimensions = data[3] if len(data) > 3 else 0
    if data[:2] != b"\0\0" or len(data) < 4 or data[2] not in _TYPES or not dimensions:
        raise DataError(
            f"{path.name} is no IDX file: expected it to begin with two zero bytes, a type (8 to 14) and a number of "
            f"dimensions, got {data[:4].hex(' ')}."
        )
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise DataError(f"{path.name} is cut short: expected {dimensions} sizes, got {len(data)} bytes in all.")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    dtype = np.dtype(_TYPES[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        kind = "is cut short" if len(data) < expected else "has bytes after its end"
        raise DataError(
            f"{path.name} {kind}: a {' x '.join(map(str, shape))} array of {dtype.name} takes {expected:,} bytes, "
            f"got {len(data):,}."
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def is_idx(path: Path) -> bool:
    """Does the file's name say IDX: an .idx or -ubyte ending, or idx1, idx3 and the like before it?

    >>> is_idx(Path("train-images-idx3-ubyte.gz")), is_idx(Path("idx.csv"))
    (True, False)
    """
    return re.search(r"(?:\.idx|[-.]idx\d.*|[-.]ubyte)(?:\.gz)?$", path.name.lower()) is not None


def labels_beside(path: Path) -> Path | None:
    """The labels file that lies beside an images file under the names of MNIST, or None.

    train-images-idx3-ubyte.gz has its labels in train-labels-idx1-ubyte.gz, unpacked or not.
    """
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name or "images" not in path.name:
        return None
    plain = name.removesuffix(".gz")
    for candidate in (path.with_name(name), path.with_name(plain), path.with_name(f"{plain}.gz")):
        if candidate.is_file():
            return candidate
    return None
