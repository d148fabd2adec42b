"""A file with some bytes changed, lost or added is read, or refused with our error; nothing else comes out."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.data.files import two_classes, write_idx, write_rows

from batchnorm.data import prepare
from batchnorm.errors import BatchnormError


def _csv(path: Path) -> None:
    write_rows(path, [(f'"{size}"', colour, sold) for size, colour, sold in two_classes(30)], header="a,b,y")


def _gzipped(path: Path) -> None:
    _csv(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _npz(path: Path) -> None:
    np.savez_compressed(path, X=np.random.default_rng(0).random((30, 4)), y=np.arange(30) % 2)


FORMATS: dict[str, Callable[[Path], object]] = {
    "t.csv": _csv,
    "t.csv.gz": _gzipped,
    "t.npy": lambda path: np.save(path, np.random.default_rng(0).random((30, 4))),
    "t.npz": _npz,
    "t.parquet": lambda path: pl.DataFrame({"a": range(30), "y": [0, 1] * 15}).write_parquet(path),
    "t.idx": lambda path: write_idx(path, np.arange(60, dtype=np.uint8).reshape(30, 2)),
}


def damaged(data: bytes, chosen: random.Random) -> bytes:
    """`data` with one to ten things done to it."""
    changed = bytearray(data)
    for _ in range(chosen.choice([1, 1, 3, 10])):
        place, kind = chosen.randrange(len(changed) + 1), chosen.random()
        if kind < 0.5:
            changed[place : place + 1] = bytes([chosen.randrange(256)])
        elif kind < 0.7:
            del changed[place : place + chosen.randrange(1, 50)]
        elif kind < 0.9:
            changed[place:place] = bytes(chosen.choices(b"\",\n\r'; \t-.0?", k=3))
        else:
            del changed[place:]
    return bytes(changed)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_damaged_file_is_read_or_refused(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    whole = path.read_bytes()
    chosen = random.Random(count)
    refused = 0
    for _ in range(count):
        path.write_bytes(damaged(whole, chosen))
        try:
            prepare(path, target=None if name.endswith("npz") else "last")
        except BatchnormError:
            refused += 1
    assert refused > 0
