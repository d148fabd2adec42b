"""Whatever can be read, by its name or its type, as a Table with every column a feature."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from batchnorm.data.builtin import BUILTIN, read_builtin
from batchnorm.data.formats.content import instead_of_a_file, is_regular
from batchnorm.data.formats.idx import is_idx
from batchnorm.data.naming import suggestion
from batchnorm.data.table import Table
from batchnorm.errors import DataError, quoted

Source: TypeAlias = str | PathLike[str] | Any
"""A path, the name of a built-in set, a polars or pandas frame, or a numeric array."""

_TEXT = (".csv", ".tsv", ".tab", ".txt", ".data")
_FORMATS = ".csv, .tsv, .txt, .parquet, .npy, .npz, MNIST's IDX, each also as .gz"


def open_source(
    source: Source,
    *,
    header: bool,
    separator: str | None,
    na: tuple[str, ...],
    labels: Path | None,
    named: str | int | None,
) -> Table:
    """Whatever `source` is, as a Table with every column a feature."""
    if isinstance(source, (str, PathLike)):
        return _from_path(source, header=header, separator=separator, na=na, labels=labels, named=named)
    if labels is not None:
        raise DataError("expected labels= only beside a file, got it beside a frame or an array: use read's target.")
    if isinstance(source, np.ndarray):
        from batchnorm.data.formats.arrays import numbered

        return replace(numbered(source, name="the array"), na=na)
    if not hasattr(type(source), "columns"):
        raise DataError(f"expected a path, a built-in set, a frame or an array, got {type(source).__name__}.")
    from batchnorm.data import frame

    cells = frame.clean(frame.from_object(source, name="the frame"), na)
    if not len(cells):
        raise DataError("the frame has no rows: expected at least one.")
    return Table("the frame", tuple(cells.columns), cells, na=na)


def is_text(source: Source) -> bool:
    """Whether `source` is a file that is read as text, with a separator and perhaps a header line.

    >>> is_text("housing.csv.gz"), is_text("housing.parquet"), is_text("wine")
    (True, False, False)
    """
    return isinstance(source, (str, PathLike)) and str(source) not in BUILTIN and _kind(Path(source)) == "text"


def _from_path(
    source: str | PathLike[str],
    *,
    header: bool,
    separator: str | None,
    na: tuple[str, ...],
    labels: Path | None,
    named: str | int | None,
) -> Table:
    path = Path(source)
    if str(source) in BUILTIN:
        if labels is not None:
            raise DataError(
                f"{source} brings its own target: expected no labels file, got {labels.name}: leave --labels out."
            )
        return read_builtin(str(source))
    if not is_regular(path):
        raise DataError(_no_file(path))
    kind = _kind(path)
    if kind == "array":
        from batchnorm.data.formats.arrays import read_array

        return replace(read_array(path, labels=labels), na=na)
    if labels is not None:
        raise DataError(
            f"{path.name} is a table: expected its target among its columns, got the labels file {labels.name}: name "
            "the column with --target; --labels is for .npy and IDX."
        )
    if kind == "parquet":
        from batchnorm.data.formats.parquet import read_parquet

        return read_parquet(path, na=na)
    from batchnorm.data.formats.text import read_text

    return read_text(path, header=header, separator=separator, na=na, named=named)


def _kind(path: Path) -> str:
    """The format, by the file's name."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith((".npy", ".npz")) or is_idx(path):
        return "array"
    if name.endswith(_TEXT):
        return "text"
    raise DataError(
        f"{path.name}: expected one of the formats {_FORMATS}, got {quoted(path.suffix or 'a name without ending')}."
    )


def _no_file(path: Path) -> str:
    instead = instead_of_a_file(path)
    if instead == "a directory":
        return f"{path} is a directory: expected a file ({_FORMATS}) or one of {', '.join(BUILTIN)}."
    if instead is not None:
        return (
            f"{path} is {instead}: expected a regular file ({_FORMATS}), which can be read again: write what comes "
            "from there to one first."
        )
    folder = path.parent
    try:
        beside = [entry.name for entry in folder.iterdir()]
    except OSError:
        beside = []
    hint = suggestion(path.name, [*beside, *BUILTIN])
    where = "" if folder.is_dir() else f" (there is no directory {folder} either)"
    return f"there is no file {path}{where}.{hint} Expected a file ({_FORMATS}) or one of {', '.join(BUILTIN)}."
