"""Target values as what a loss takes: class numbers, or finite float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from batchnorm.data.cells import is_number, plain
from batchnorm.data.cells import text as text_of
from batchnorm.data.column import Label, Target
from batchnorm.data.naming import listing
from batchnorm.data.table import Array
from batchnorm.data.target import refuse_missing
from batchnorm.errors import DataError, quoted


class ClassIndex:
    """Finds the number of a class, however the class is written: 1, 1.0, "1" and " 1" are one class."""

    def __init__(self, target: Target) -> None:
        self._indices: dict[Label, int] = {label: index for index, label in enumerate(target.classes)}

    def of(self, value: object) -> int | None:
        """The number of the class that `value` names, or None."""
        candidates: list[Any] = [value.item() if isinstance(value, np.generic) else value]
        if isinstance(value, str):
            said = plain(value)
            candidates = [said]
            if is_number(said):
                candidates.append(int(said) if said.lstrip("+-").isdigit() else float(said))
            elif said.lower() in ("true", "false"):
                candidates.append(said.lower() == "true")
        else:
            candidates.append(text_of(candidates[0]))
        for candidate in candidates:
            try:
                found = self._indices.get(candidate)
            except TypeError:
                return None
            if found is not None:
                return found
        return None


def encode_classes(values: Array, target: Target, *, table: str, row_number: Callable[[int], int]) -> Array:
    """(N,) int64: the number of each row's class.

    Args:
        values: (N,) from `as_target`.

    Raises:
        DataError: a row's class is missing or was not among the training rows.
    """
    refuse_missing(values, name=target.name, table=table, row_number=row_number)
    index = ClassIndex(target)
    if values.dtype == object:
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        distinct: list[Any] = list(numbers)
        inverse = np.fromiter((numbers[value] for value in values), np.int64, len(values))
    else:
        found, inverse = np.unique(values, return_inverse=True)
        distinct = found.tolist()
    numbers_of = [index.of(value) for value in distinct]
    classes = np.array([-1 if number is None else number for number in numbers_of], dtype=np.int64)
    result: Array = classes[inverse.reshape(-1)] if len(values) else np.zeros(0, dtype=np.int64)
    unseen = np.flatnonzero(result < 0)
    if len(unseen):
        first = values[unseen[0]]
        said = quoted(first.item() if isinstance(first, np.generic) else first)
        raise DataError(
            f"{table}: target {quoted(target.name)} is {said} in row {row_number(int(unseen[0]))}, a class that no "
            f"training row has: expected {listing(target.classes)}."
        )
    return result


def encode_numbers(values: Array, target: Target, *, table: str, row_number: Callable[[int], int]) -> Array:
    """(N,) float64, finite.

    Args:
        values: (N,) from `as_target`.

    Raises:
        DataError: a row's target is missing, infinite or no number.
    """
    refuse_missing(values, name=target.name, table=table, row_number=row_number)
    for row, value in enumerate(values if values.dtype == object else ()):
        if isinstance(value, str) and not is_number(value):
            raise DataError(
                f"{table}: expected a number as target {quoted(target.name)}, got {quoted(value)} in row "
                f"{row_number(row)}."
            )
    result = np.array([float(value) for value in values]) if values.dtype == object else values.astype(np.float64)
    infinite = np.flatnonzero(~np.isfinite(result))
    if len(infinite):
        raise DataError(f"{table}: target {quoted(target.name)} is infinite in row {row_number(int(infinite[0]))}.")
    return result
