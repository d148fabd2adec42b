"""Everything a training run needs of its data, from one call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

import numpy as np

from batchnorm.data.digits import rounded
from batchnorm.data.inputs import read_like
from batchnorm.data.learn import learn_schema
from batchnorm.data.naming import columns_of
from batchnorm.data.read import read
from batchnorm.data.schema import Schema
from batchnorm.data.source import Source
from batchnorm.data.split import split
from batchnorm.data.table import Array, Table
from batchnorm.data.target import refuse_missing
from batchnorm.data.task import Task, learn_target
from batchnorm.errors import DataError, SettingsError, quoted


@dataclass(frozen=True, eq=False)
class Prepared:
    """Encoded training, validation and test rows.

    Attributes:
        x_train, x_valid, x_test: (N, F) float64, or float32 where that is exact; not yet normalized.
        y_train, y_valid, y_test: (N,) int64 class numbers, or float64.
        schema: learnt from the training rows alone.
        name: of the data, for titles.
        w_train, w_valid: (N,) how often each row counts; None is once.
        test_table: the test rows as they were read, for showing single ones.
        notes: what the user should be told.
        numbers_train: (N,) what the source calls each training row: counted from 1.
    """

    x_train: Array
    y_train: Array
    x_valid: Array
    y_valid: Array
    x_test: Array
    y_test: Array
    schema: Schema
    name: str
    test_table: Table
    w_train: Array | None = None
    w_valid: Array | None = None
    notes: tuple[str, ...] = ()
    numbers_train: Array | None = None


def prepare(
    source: Source,
    *,
    target: str | int | None = None,
    test: Source | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 0,
    task: Task = "auto",
    header: bool = True,
    separator: str | None = None,
    na: Iterable[str] = (),
    drop: Iterable[str | int] = (),
    categorical: Iterable[str | int] = (),
    labels: str | PathLike[str] | None = None,
    test_labels: str | PathLike[str] | None = None,
    weight: str | int | None = None,
) -> Prepared:
    """Read, split, learn the schema from the training rows, encode.

    Args:
        source, target, header, separator, na, drop, categorical, labels, weight: as for `read`.
        test: a separate source of test rows; then `test_fraction` is not used.
        test_fraction: of the rows, for testing.
        validation_fraction: of the rows that are left.
        seed: of the split.
        task: "auto" decides as `task.learn_target` says.
        test_labels: the labels file of `test`; IDX files find theirs beside them.

    Raises:
        DataError: the data cannot be used as they are; the message says what to do.
        SettingsError: a fraction, a seed, a task or a separator makes no sense.

    >>> data = prepare("wine", seed=1)
    >>> data.x_train.shape, data.x_valid.shape, data.x_test.shape
    ((128, 13), (14, 13), (36, 13))
    """
    if task not in ("auto", "classification", "regression"):
        raise SettingsError(f"task expected auto, classification or regression, got {quoted(task)}", setting="task")
    table = read(
        source,
        target=target,
        header=header,
        separator=separator,
        na=na,
        drop=drop,
        categorical=categorical,
        labels=labels,
        weight=weight,
    )
    if table.target is None or table.target_name is None:
        raise DataError(_no_target(table))
    refuse_missing(table.target, name=table.target_name, table=table.name, row_number=table.row_number)
    learnt = learn_target(table.target, name=table.target_name, table=table.name, task=task)
    settled: Task = "classification" if learnt.kind == "class" else "regression"
    parts = split(
        len(table),
        np.unique(table.target, return_inverse=True)[1].reshape(-1) if learnt.kind == "class" else None,
        test_fraction=test_fraction if test is None else 0.0,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    schema = learn_schema(table, parts.train, task=settled)
    notes: tuple[str, ...] = ()
    if test is None:
        test_table = table.take(parts.test)
    else:
        test_table, notes = read_like(test, schema, header=header, separator=separator, labels=test_labels)
        if test_table.target is None:
            raise DataError(
                f"{test_table.name} has no target: expected test rows with {quoted(schema.target.name)} (for arrays, "
                "a labels file: --test-labels)."
            )
    train, valid = table.take(parts.train), table.take(parts.valid)
    return Prepared(
        schema.encode(train),
        schema.encode_target(train),
        schema.encode(valid),
        schema.encode_target(valid),
        schema.encode(test_table),
        schema.encode_target(test_table),
        schema,
        table.name,
        test_table,
        train.weights,
        valid.weights,
        (*notes, *rounded(table, schema)),
        train.numbers,
    )


def _no_target(table: Table) -> str:
    if isinstance(table.cells, np.ndarray):
        return (
            f"{table.name} has no target: expected a labels file (--labels), or the number of the column to predict, "
            f'or "last" (--target). {columns_of(table.columns, header=table.header)}'
        )
    return (
        f"{table.name}: expected the column to predict, name it with --target. "
        f'{columns_of(table.columns, header=table.header)} "last" is the last one.'
    )
