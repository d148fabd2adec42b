"""Rows that may count several times: weighting a row and repeating it are one thing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchnorm.data.split import split
from batchnorm.errors import SettingsError
from batchnorm.training.examples import Examples


def canonical(examples: Examples) -> Examples:
    """The same rows in an order that depends on nothing but their values, equal ones merged where weights are counts.

    A batch of all rows is a set: neither its order nor whether a row of weight 2 stands there twice may matter. In this
    form it cannot, not even in the last bit.

    >>> rows = canonical(Examples(np.array([[2.0], [1.0], [2.0]]), np.array([0, 1, 0])))
    >>> sorted(zip(rows.x[:, 0].tolist(), rows.weights.tolist()))
    [(1.0, 1.0), (2.0, 2.0)]
    """
    # Adding 0 turns -0.0 into 0.0: they are equal, but their bytes are not.
    keys = np.column_stack([examples.x.astype(np.float64), examples.y.astype(np.float64)]) + 0.0
    keys = keys if are_counts(examples) else np.column_stack([keys, examples.weights])  # type: ignore[list-item]
    as_bytes = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.itemsize * keys.shape[1]))).reshape(-1)
    if not are_counts(examples):
        order = np.argsort(as_bytes, kind="stable")
        assert examples.weights is not None
        return Examples(examples.x[order], examples.y[order], examples.weights[order])
    _, first, which = np.unique(as_bytes, return_index=True, return_inverse=True)
    weights = np.bincount(which.reshape(-1), examples.weights).astype(np.float64)
    return Examples(examples.x[first] + 0, examples.y[first], None if (weights == 1).all() else weights)


def are_counts(examples: Examples) -> bool:
    """Whether every weight is a whole number, and so says how often its row is there."""
    weights = examples.weights
    return weights is None or bool(np.equal(weights, np.rint(weights)).all())


def set_aside(
    examples: Examples, fraction: float, *, seed: int, stratified: bool, by_copy: bool
) -> tuple[Examples, Examples]:
    """Divide rows at random into some to train on and some to judge by.

    Args:
        examples: with class numbers where `stratified`.
        fraction: of the rows to judge by, in (0, 1).
        by_copy: a row of weight 3 is three rows, each of which is drawn for itself; otherwise it stays whole.

    Raises:
        SettingsError: no row can be spared.
    """
    rows = np.arange(len(examples))
    if by_copy and examples.weights is not None:
        rows = np.repeat(rows, examples.weights.astype(np.int64))
    groups = examples.y[rows] if stratified else None
    parts = split(len(rows), groups, test_fraction=0.0, validation_fraction=fraction, seed=seed)
    if len(parts.valid) == 0:
        raise SettingsError(
            f"early_stopping expected rows to set aside, got n_samples={len(examples)}, each alone in its class: give "
            "more rows, or set early_stopping=False"
        )
    train, valid = rows[parts.train], rows[parts.valid]
    if by_copy:
        return _with_counts(examples, train), _with_counts(examples, valid)
    return _taken(examples, train), _taken(examples, valid)


def weighed(examples: Examples, class_weight: tuple[float, ...] | None) -> Examples:
    """Rows to judge by, each counting for as much as its class weighs; as they were where that leaves nothing."""
    if class_weight is None:
        return examples
    weights = np.array(class_weight)[examples.y]
    weights = weights if examples.weights is None else weights * examples.weights
    return Examples(examples.x, examples.y, weights) if weights.any() else examples


def _taken(examples: Examples, rows: NDArray[np.int64]) -> Examples:
    return Examples(examples.x[rows], examples.y[rows], None if examples.weights is None else examples.weights[rows])


def _with_counts(examples: Examples, copies: NDArray[np.int64]) -> Examples:
    counts = np.bincount(copies, minlength=len(examples)).astype(np.float64)
    there = counts > 0
    weights = counts[there]
    return Examples(examples.x[there], examples.y[there], None if (weights == 1).all() else weights)
