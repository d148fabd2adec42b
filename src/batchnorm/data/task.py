"""Is the target a class or a number? Decided once, on the training rows; the caller can settle it."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from batchnorm.data.cells import is_number
from batchnorm.data.column import Label, Target
from batchnorm.data.naming import count, flag, listing
from batchnorm.data.suspects import DATE
from batchnorm.data.table import Array
from batchnorm.errors import DataError, legible, quoted

Task: TypeAlias = Literal["auto", "classification", "regression"]

MOST_INTEGER_CLASSES = 20
"""More distinct integers than this are a number, not classes, unless the caller says otherwise."""


def learn_target(values: Array, *, name: str, table: str, task: Task = "auto") -> Target:
    """Decide what is predicted, and the classes where it is a class.

    With `task="auto"`, texts and true/false are classes; numbers are classes when they are all integers and there are
    either only two different ones, or at most 20 with at least two rows each on average; all else is a number.

    Args:
        values: (N,) from `as_target`, none missing.
        task: "classification" or "regression" settles it.

    Raises:
        DataError: one class or value only, every row its own class, infinite values, or texts where numbers are needed.

    >>> learn_target(np.array([0, 1, 1, 2, 0, 2]), name="y", table="t")
    Target(name='y', kind='class', classes=(0, 1, 2))
    >>> learn_target(np.array([0.5, 1.5, 0.5]), name="y", table="t").kind
    'number'
    """
    if not len(values):
        raise DataError(f"{table}: expected at least one row to learn target {quoted(name)} from, got none.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{table}: target {quoted(name)} is infinite in {count(int(np.isinf(values).sum()), 'row')}.")
    words = values.dtype == object and any(isinstance(value, str) for value in values)
    if words:
        _refuse_mixture(values, name=name, table=table)
        _refuse_dates(values, name=name, table=table)
    distinct: list[Any] = sorted(set(values)) if values.dtype == object else np.unique(values).tolist()
    whole = not words and values.dtype.kind != "b" and all(value == int(value) for value in distinct)
    if task == "regression":
        if words or values.dtype.kind == "b":
            raise DataError(
                f"{table}: expected numbers in target {quoted(name)} for regression, got {quoted(distinct[0])}: leave "
                "--task regression out to predict classes, or choose another target."
            )
    elif task == "auto" and not words and values.dtype.kind != "b":
        few = len(distinct) <= 2 or (len(distinct) <= MOST_INTEGER_CLASSES and 2 * len(distinct) <= len(values))
        task = "classification" if whole and few else "regression"
    if len(distinct) == 1:
        raise DataError(
            f"{table}: target {quoted(name)} is {quoted(distinct[0])} in every row: expected at least two different "
            "values to tell apart."
        )
    if task == "regression":
        return Target(name, "number")
    if len(distinct) >= len(values):
        raise DataError(
            f"{table}: expected more rows than classes, got {len(distinct):,} classes of target {quoted(name)} in "
            f"{count(len(values), 'row')}: choose another target, or say --task regression if it is a number."
        )
    classes = tuple(int(value) if whole else value for value in distinct)
    return Target(name, "class", cast(tuple[Label, ...], classes))


def _refuse_mixture(values: Array, *, name: str, table: str) -> None:
    """Numbers with a few texts among them are numbers whose way of saying "missing" is not known."""
    odd = sorted({value for value in values if not (isinstance(value, str) and is_number(value))}, key=str)
    numeric = sum(isinstance(value, str) and is_number(value) for value in values)
    if 2 * numeric >= len(values):
        raise DataError(
            f"{table}: target {quoted(name)} holds numbers in {count(numeric, 'row')} and {listing(odd, most=3)} in "
            f"others: if {quoted(odd[0])} means missing, say {flag('--na', str(odd[0]))}, and remove these rows."
        )


def _refuse_dates(values: Array, *, name: str, table: str) -> None:
    dates = [value for value in values if re.match(DATE, str(value))]
    if 2 * len(dates) > len(values):
        raise DataError(
            f"{table}: target {quoted(name)} holds dates or times ({legible(str(dates[0]))}), which cannot be "
            "predicted: put numbers in its place first, such as days since a fixed day."
        )
