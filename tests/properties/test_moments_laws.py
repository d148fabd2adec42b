"""The laws of Moments: merging does not care for order, chunks or rests; shifting and scaling pass through."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.testing import assert_close

from batchnorm import Moments

Values = NDArray[np.float64]

# Squares of smaller numbers would be too small for all their digits.
numbers = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-100 else 0.0)
batches = st.integers(1, 8).flatmap(lambda rows: arrays.arrays(np.float64, (rows, 2), elements=numbers))
ordinary = settings(max_examples=40, deadline=None)


def of(x: Values) -> Moments:
    return Moments.of(torch.from_numpy(x), dims=0)


def assert_same(a: Moments, b: Moments, *, size: float) -> None:
    """Equal up to rounding of values of `size`: sums of squares round relative to the squares that went in."""
    assert_close(a.count.expand(a.mean.shape), b.count.expand(b.mean.shape), rtol=0, atol=0)
    assert_close(a.mean, b.mean, rtol=0, atol=1e-14 * size)
    assert_close(a.m2, b.m2, rtol=1e-10, atol=1e-13 * size * size)


def largest(*batches: Values) -> float:
    return max(float(np.abs(b).max(initial=0)) for b in batches)


@ordinary
@given(batches, batches)
def test_merge_gives_the_moments_of_both(a: Values, b: Values) -> None:
    assert_same(of(a).merge(of(b)), of(np.concatenate([a, b])), size=largest(a, b))


@ordinary
@given(batches, batches)
def test_merge_is_commutative(a: Values, b: Values) -> None:
    assert_same(of(a).merge(of(b)), of(b).merge(of(a)), size=largest(a, b))


@ordinary
@given(batches, batches, batches)
def test_merge_is_associative(a: Values, b: Values, c: Values) -> None:
    left, right = of(a).merge(of(b)).merge(of(c)), of(a).merge(of(b).merge(of(c)))
    assert_same(left, right, size=largest(a, b, c))


@ordinary
@given(arrays.arrays(np.float64, (24, 2), elements=numbers), st.lists(st.integers(1, 23), max_size=6))
def test_chunking_does_not_matter(x: Values, cuts: list[int]) -> None:
    merged = Moments.empty((2,))
    for chunk in np.split(x, sorted(set(cuts))):
        merged = merged.merge(of(chunk))
    assert_same(merged, of(x), size=largest(x))


@ordinary
@given(batches, st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_a_weight_is_a_number_of_repetitions(x: Values, counts: list[int]) -> None:
    repetitions = counts[: len(x)]
    weights = torch.tensor(repetitions, dtype=torch.float64)[:, None]
    weighted = Moments.of(torch.from_numpy(x), dims=0, weights=weights)
    assert_same(weighted, of(np.repeat(x, repetitions, axis=0)), size=largest(x))


@ordinary
@given(batches, st.floats(-1e6, 1e6))
def test_shifting_all_values_shifts_the_mean_alone(x: Values, shift: float) -> None:
    plain, shifted = of(x), of(x + shift)
    assert_close(shifted.mean, plain.mean + shift, rtol=0, atol=1e-9)
    assert_close(shifted.m2, plain.m2, rtol=1e-9, atol=1e-3)


@ordinary
@given(batches, st.integers(-60, 60))
def test_scaling_by_a_power_of_two_is_exact(x: Values, exponent: int) -> None:
    scale = 2.0**exponent
    plain, scaled = of(x), of(x * scale)
    assert_close(scaled.mean, plain.mean * scale, rtol=0, atol=0)
    assert_close(scaled.m2, plain.m2 * scale * scale, rtol=0, atol=0)


@ordinary
@given(batches)
def test_m2_is_never_negative(x: Values) -> None:
    assert bool((of(x).m2 >= 0).all())
    assert bool((of(x).merge(of(x[:1])).m2 >= 0).all())
