"""Small files that the tests of `data` read."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_rows(path: Path, rows: Sequence[Sequence[object]], *, header: str = "", separator: str = ",") -> Path:
    """A text file with one line per row, below `header` where there is one."""
    lines = [separator.join(map(str, row)) for row in rows]
    path.write_text("\n".join([header, *lines] if header else lines) + "\n", encoding="utf-8")
    return path


def write_idx(path: Path, array: np.ndarray) -> Path:
    """An IDX file as the format's description has it; gzipped where the name ends in .gz."""
    code = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}[array.dtype.name]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def two_classes(rows: int = 40) -> list[tuple[object, ...]]:
    """Rows of a number, a category of three and a class of two."""
    return [(round(0.5 * row, 2), ["red", "green", "blue"][row % 3], ["yes", "no"][row % 2]) for row in range(rows)]
