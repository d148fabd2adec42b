"""Training, validation and test rows: seeded, stratified by class, every class among the training rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchnorm.data.table import Array
from batchnorm.errors import SettingsError


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of rows, each array sorted; together they are every row exactly once.

    Attributes:
        train, valid, test: integers from 0; `valid` and `test` may be empty.
    """

    train: Array
    valid: Array
    test: Array


def split(
    rows: int,
    classes: Array | None = None,
    *,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Split:
    """Divide `rows` rows at random; the same arguments give the same rows on every machine.

    Each class gives its share to every part, as near as whole rows allow, but its last row always stays in training.

    Args:
        classes: (N,) class numbers to stratify by; None for a target that is a number.
        test_fraction: of all rows.
        validation_fraction: of the rows that are not test rows.

    Raises:
        SettingsError: a fraction outside [0, 1), or a negative seed.

    >>> parts = split(10, np.repeat([0, 1], 5), test_fraction=0.2, validation_fraction=0.25, seed=1)
    >>> len(parts.train), len(parts.valid), len(parts.test)
    (6, 2, 2)
    """
    for name, fraction in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0.0 <= fraction < 1.0:
            raise SettingsError(
                f"{name} expected a share from 0 up to but not including 1, got {fraction!r}", setting=name
            )
    if seed < 0:
        raise SettingsError(f"seed expected 0 or a positive integer, got {seed!r}", setting="seed")
    generator = np.random.default_rng(seed)
    groups = np.zeros(rows, dtype=np.int64) if classes is None else np.asarray(classes)
    everything = np.arange(rows)
    rest, test = _take(everything, groups, test_fraction, generator)
    train, valid = _take(rest, groups[rest], validation_fraction, generator)
    return Split(train, valid, test)


def _take(rows: Array, groups: Array, fraction: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """`rows` without a random share of them, and that share, the same from every group as near as can be."""
    wanted = round(fraction * len(rows))
    if fraction > 0 and len(rows) > 1:
        wanted = max(wanted, 1)
    shuffled = generator.permutation(len(rows))
    # Stable: within a group the order stays random.
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, sizes = np.unique(groups, return_counts=True)
    shares = _shares(sizes, wanted, generator)
    starts = np.cumsum(sizes) - sizes
    chosen = np.zeros(len(rows), dtype=bool)
    for start, share in zip(starts, shares, strict=True):
        chosen[by_group[start : start + share]] = True
    return rows[~chosen], rows[chosen]


def _shares(sizes: Array, wanted: int, generator: np.random.Generator) -> Array:
    """How many rows each group gives: proportional, `wanted` in all where possible, never a group's last row."""
    most = np.maximum(sizes - 1, 0)
    ideal = sizes * (wanted / max(int(sizes.sum()), 1))
    shares: Array = np.minimum(np.floor(ideal).astype(np.int64), most)
    # The largest remainders first; equal ones in random order, so that no class is favoured for its name.
    order = generator.permutation(len(sizes))
    order = order[np.argsort((shares - ideal)[order], kind="stable")]
    while (lacking := wanted - int(shares.sum())) > 0:
        able = order[shares[order] < most[order]][:lacking]
        if not len(able):
            break
        shares[able] += 1
    return shares
