"""Cells of polars frames: cleaned on arrival, then read as numbers, truths or texts by the rules of cells.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from batchnorm.data.cells import MISSING_TEXTS, SPACE, TRUTHS, text
from batchnorm.data.naming import flag
from batchnorm.data.suspects import dates_message
from batchnorm.data.table import Array, refuse_duplicates
from batchnorm.errors import DataError, legible, quoted


def from_object(source: Any, *, name: str) -> pl.DataFrame:
    """A polars or pandas frame as a polars frame, with texts for names.

    Raises:
        DataError: two columns share a name.
    """
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    names = [str(column) for column in source.columns]
    refuse_duplicates(names, name=name)
    return pl.DataFrame([series(source.iloc[:, i], column) for i, column in enumerate(names)])


def series(source: Any, name: str = "") -> pl.Series:
    """A polars or pandas series, an array or a sequence as a polars series; missing cells become null."""
    if isinstance(source, pl.Series):
        return source.rename(name)
    if isinstance(source, np.ndarray) and source.dtype.kind in "biuf":
        return pl.Series(name, np.ascontiguousarray(source.astype(_polars_type(source.dtype), copy=False)))
    if hasattr(source, "isna"):
        gone = source.isna().to_numpy()
        if not gone.any() and source.to_numpy().dtype.kind in "biuf":
            return series(source.to_numpy(), name)
        source = [None if missing else value for value, missing in zip(source.tolist(), gone, strict=True)]
    values = source.tolist() if isinstance(source, np.ndarray) else list(source)
    kinds = {type(value) for value in values} - {type(None)}
    if str in kinds and len(kinds) > 1:
        # A frame's column has one type: numbers among texts are kept as the texts they print as.
        values = [None if value is None else text(value) for value in values]
    try:
        return pl.Series(name, values, strict=kinds != {int, float})
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if value is None else text(value) for value in values], dtype=pl.String)


def _polars_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The native type that polars and NumPy share and that holds every value of `dtype`."""
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


def clean(frame: pl.DataFrame, na: Iterable[str] = ()) -> pl.DataFrame:
    """Texts stripped and unquoted as `cells.plain` does; texts that mean "missing", and NaN, become null."""
    types = frame.schema
    floats = [name for name, dtype in types.items() if dtype.is_float()]
    texts = [name for name, dtype in types.items() if dtype in (pl.String, pl.Categorical, pl.Enum)]
    frame = frame.with_columns(pl.col(floats).fill_nan(None), pl.col(texts).cast(pl.String).str.strip_chars(SPACE))
    opened = frame.select(pl.col(texts).str.contains("^['\"]").any())
    quoted = [name for name in texts if opened[name].item()]
    missing = sorted(MISSING_TEXTS.union(na))
    return frame.with_columns(
        pl.col(quoted).str.replace(r"""(?s)^(?:'(.*)'|"(.*)")$""", "$1$2").str.strip_chars(SPACE)
    ).with_columns(pl.when(pl.col(texts).is_in(missing)).then(None).otherwise(pl.col(texts)).name.keep())


def is_plain(column: pl.Series) -> bool:
    """Does the column hold numbers, truths or texts?"""
    return column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String, pl.Null)


def refuse_type(column: pl.Series, *, table: str) -> None:
    """Raise for a column whose type is no number, boolean or text: dates by that name."""
    if column.dtype.is_temporal():
        raise DataError(dates_message(column.name, str(column.dtype), table=table))
    if not is_plain(column):
        raise DataError(
            f"{table}: column {quoted(column.name)} has type {legible(str(column.dtype))}, expected numbers, "
            f"true/false or text: leave it out with {flag('--drop', column.name)}."
        )


def numbers(column: pl.Series) -> tuple[Array, Array]:
    """A cleaned column as (N,) float64, NaN where missing or no finite number, and (N,) bool: where it is no number."""
    values = column.cast(pl.Float64, strict=False)
    # "inf" and "nan" written out pass the cast; so do numbers that overflow.
    wrong = (column.is_not_null() & ~values.is_finite().fill_null(False)).to_numpy()
    result = values.fill_null(float("nan")).to_numpy(writable=True)
    if wrong.any():
        result[wrong] = np.nan
    return result, wrong


def truths(column: pl.Series) -> tuple[Array, Array]:
    """As `numbers`, for a boolean column: 1.0, 0.0 or NaN, and where it is neither true nor false."""
    if column.dtype != pl.String:
        values, wrong = numbers(column)
    else:
        said = column.str.to_lowercase().replace_strict(
            list(TRUTHS), [float(value) for value in TRUTHS.values()], default=None, return_dtype=pl.Float64
        )
        values, wrong = numbers(said.fill_null(column.cast(pl.Float64, strict=False)))
        wrong = wrong | (column.is_not_null().to_numpy() & np.isnan(values))
    wrong = wrong | ~(np.isnan(values) | (values == 0) | (values == 1))
    values[wrong] = np.nan
    return values, wrong


def is_boolean(column: pl.Series) -> bool:
    """Is every cell that is there true/false or yes/no?"""
    if column.dtype == pl.Boolean:
        return True
    if column.dtype != pl.String:
        return False
    known = column.drop_nulls().str.to_lowercase().is_in(list(TRUTHS))
    return len(known) > 0 and bool(known.all())
