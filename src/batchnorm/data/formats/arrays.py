"""Arrays: .npy, .npz and IDX files, and arrays in memory. One row is one entry of the first axis, flattened."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from batchnorm.data.formats.content import content, instead_of_a_file, is_regular
from batchnorm.data.formats.idx import is_idx, labels_beside, read_idx
from batchnorm.data.naming import count, listing
from batchnorm.data.table import Array, Table
from batchnorm.errors import DataError, legible


def matrix(array: Array, *, name: str) -> Array:
    """(N, *) -> (N, C): what `array` holds per row, as a numeric matrix in this machine's byte order.

    Raises:
        DataError: the array is not numeric, has fewer than two dimensions, no rows or no columns.
    """
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: expected an array of numbers, got dtype {array.dtype}. Texts and dates need a CSV or Parquet "
            "file, where columns have their own types."
        )
    if array.ndim < 2:
        raise DataError(f"{name}: expected an array (N, C) of N rows and C columns, got shape {array.shape}.")
    if array.shape[0] == 0 or array.size == 0:
        raise DataError(f"{name}: expected at least one row and one column, got shape {array.shape}.")
    flat = array.reshape(array.shape[0], -1)
    return flat.astype(np.float64 if flat.dtype.itemsize > 8 else flat.dtype.newbyteorder("="), copy=False)


def numbered(array: Array, *, name: str, labels: Array | None = None, target_name: str = "label") -> Table:
    """A Table over an array whose columns are known by number.

    Args:
        array: (N, *), numeric.
        labels: (N,) or (N, 1), or None.

    Raises:
        DataError: the array cannot be a matrix, or there are not as many labels as rows.
    """
    cells = matrix(array, name=name)
    columns = tuple(map(str, range(cells.shape[1])))
    if labels is None:
        return Table(name, columns, cells, header=False)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{name}: expected labels (N,), one per row, got shape {labels.shape}.")
    if len(labels) != len(cells):
        raise DataError(
            f"{name}: expected as many labels as rows, got {count(len(labels), 'label')} for "
            f"{count(len(cells), 'row')}: are these labels those of another file?"
        )
    from batchnorm.data.target import as_target

    return Table(name, columns, cells, as_target(labels), target_name, header=False)


def read_array(path: Path, *, labels: Path | None = None) -> Table:
    """An .npy, .npz or IDX file as a Table; nothing pickled is ever loaded.

    Args:
        path: for .npz, the arrays X and, where there is one, y are taken.
        labels: an .npy or IDX file with one label per row. An IDX file of images finds the one beside it by itself.

    Raises:
        DataError: the file is damaged, holds objects, no numbers, or labels for another number of rows.
    """
    if is_idx(path):
        labels = labels or labels_beside(path)
        array, own = read_idx(path), None
    elif path.suffix.lower() == ".npz":
        array, own = _npz(path)
    else:
        array, own = _npy(path), None
    if labels is not None:
        if own is not None:
            raise DataError(f"{path.name} has its own labels y: expected no labels file beside it, got {labels.name}.")
        return numbered(array, name=path.name, labels=_labels(labels))
    return numbered(array, name=path.name, labels=own, target_name="y")


def _labels(path: Path) -> Array:
    if not is_regular(path):
        instead = instead_of_a_file(path)
        what = f"there is no labels file {path}" if instead is None else f"the labels file {path} is {instead}"
        raise DataError(f"{what}: expected an .npy or IDX file with one label per row.")
    return _npy(path) if path.suffix.lower() == ".npy" else read_idx(path)


def _npy(path: Path) -> Array:
    return _loaded(io.BytesIO(content(path)), name=path.name)


def _loaded(stream: io.BytesIO, *, name: str) -> Array:
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as problem:  # damaged headers go through NumPy's parser, which raises nearly anything
        said = f"{problem}"
        reason = "it holds Python objects" if "Object arrays" in said else legible(said.partition("\n")[0], most=200)
        raise DataError(f"{name} cannot be read as a NumPy array: {reason}.") from problem


def _npz(path: Path) -> tuple[Array, Array | None]:
    try:
        with zipfile.ZipFile(io.BytesIO(content(path))) as archive:
            members = {member.removesuffix(".npy"): archive.read(member) for member in archive.namelist()}
    except DataError:
        raise
    except Exception as problem:  # damaged archives make zipfile raise BadZipFile, ValueError, zlib.error and more
        raise DataError(
            f"{path.name} is a damaged .npz file ({legible(str(problem), most=200)}): write it again with numpy.savez."
        ) from problem
    found = {name.lower(): name for name in members}
    if "x" not in found:
        raise DataError(
            f"{path.name}: expected an array X with the features and an array y with the target, got "
            f"{listing(sorted(members)) or 'no array at all'}: write it with numpy.savez(file, X=..., y=...)."
        )
    arrays = [
        _loaded(io.BytesIO(members[found[key]]), name=f"{path.name}:{found[key]}") if key in found else None
        for key in ("x", "y")
    ]
    assert arrays[0] is not None
    return arrays[0], arrays[1]
