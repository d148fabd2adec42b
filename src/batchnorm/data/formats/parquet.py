"""Parquet: typed columns, through polars."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from batchnorm.data.formats.content import content
from batchnorm.data.frame import clean
from batchnorm.data.table import Table
from batchnorm.errors import DataError, legible


def read_parquet(path: Path, *, na: tuple[str, ...] = ()) -> Table:
    """A Parquet file as a Table.

    Raises:
        DataError: the file is damaged or no Parquet, or has no rows.
    """
    data = content(path)
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (Exception, pl.exceptions.PanicException) as problem:  # a damaged file can make polars panic
        reason = legible(f"{problem}".partition("\n")[0], most=200)
        raise DataError(f"{path.name} cannot be read as Parquet: {reason}: write it again.") from problem
    if not len(frame):
        raise DataError(f"{path.name} has {frame.width} columns and no rows: expected at least one row.")
    return Table(path.name, tuple(frame.columns), clean(frame, na), na=na)
