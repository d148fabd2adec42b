"""What the laboratory works on: any data that can be trained on, split anew for each seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from batchnorm.data import Prepared, Task, prepare
from batchnorm.data.source import Source
from batchnorm.errors import DataError

LEAST_ROWS = 64
"""Training rows: one batch of the usual size."""


@dataclass(eq=False)
class Material:
    """Data by whatever `data.prepare` reads, or a pair of arrays (X, y).

    Args:
        source: a path, the name of a built-in set, a frame, an array, or (X, y) with X (N, *) numbers and y (N,).
        target, task, header, separator, na, drop, categorical, labels: as for `data.prepare`.
    """

    source: Source
    target: str | int | None = None
    task: Task = "auto"
    header: bool = True
    separator: str | None = None
    na: Iterable[str] = ()
    drop: Iterable[str | int] = ()
    categorical: Iterable[str | int] = ()
    labels: str | PathLike[str] | None = None
    _prepared: dict[int, Prepared] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, tuple):
            self.source = _joined(self.source)
            self.target = _TARGET

    def of(self, seed: int) -> Prepared:
        """Four fifths of the rows to train on, the rest to judge by.

        Raises:
            DataError, SettingsError: the data cannot be used; too few rows; no input varies.
        """
        if seed not in self._prepared:
            prepared = prepare(
                self.source,
                target=self.target,
                task=self.task,
                header=self.header,
                separator=self.separator,
                na=self.na,
                drop=self.drop,
                categorical=self.categorical,
                labels=self.labels,
                validation_fraction=0.0,
                seed=seed,
            )
            if len(prepared.x_train) < LEAST_ROWS:
                raise DataError(
                    f"{prepared.name}: the laboratory expected at least {LEAST_ROWS * 5 // 4} rows ({LEAST_ROWS} to "
                    f"train on), got {len(prepared.x_train) + len(prepared.x_test)}: give it more, or digits"
                )
            if not np.ptp(prepared.x_train, axis=0).any():
                raise DataError(
                    f"{prepared.name}: expected an input that varies, got inputs that are the same in all training "
                    "rows: give it more columns, or digits"
                )
            self._prepared[seed] = prepared
        return self._prepared[seed]


_TARGET = "target"


def _joined(pair: tuple[Any, ...]) -> Any:
    """(X, y) as one frame, its last column the target."""
    import polars as pl

    if len(pair) != 2:
        raise DataError(f"data expected a pair (X, y), got a tuple of {len(pair)}")
    x, y = (np.asarray(part) for part in pair)
    if x.dtype.kind not in "biuf" or x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise DataError(
            "data expected a pair (X, y), X (N, *) of numbers and y (N,), got shapes "
            f"{x.shape} and {y.shape} of dtypes {x.dtype} and {y.dtype}: give anything else as a frame, with target="
        )
    columns = x.reshape(len(x), -1).T
    return pl.DataFrame({**{str(i): column for i, column in enumerate(columns)}, _TARGET: y})
