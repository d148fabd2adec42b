"""Laws of InputNorm: chunks and order do not matter; it standardizes; inverse undoes it; units pass through."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchnorm import InputNorm

ordinary = settings(max_examples=40, deadline=None)

Table = NDArray[np.float64]

numbers = st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(np.nan)
tables = st.integers(1, 12).flatmap(lambda rows: arrays.arrays(np.float64, (rows, 3), elements=numbers))
full_tables = st.integers(1, 12).flatmap(
    lambda rows: arrays.arrays(np.float64, (rows, 3), elements=st.integers(-1000, 1000).map(lambda i: i / 8))
)


def assert_same(a: InputNorm, b: InputNorm) -> None:
    assert torch.equal(a.count, b.count)
    size = float(max(1.0, a.mean.abs().max(), a.std.max()))
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=1e-13 * size)
    np.testing.assert_allclose(a.std, b.std, rtol=1e-7, atol=1e-7 * size)


@ordinary
@given(tables, st.lists(st.integers(1, 11), max_size=5))
def test_chunks_do_not_matter(table: Table, cuts: list[int]) -> None:
    chunks = [chunk for chunk in np.split(table, sorted(set(cuts))) if len(chunk)]
    whole = InputNorm(3).fit(table)
    assert_same(InputNorm(3).fit(chunks), whole)
    assert_same(InputNorm(3).fit(chunk for chunk in chunks), whole)
    parts = InputNorm(3)
    for chunk in chunks:
        parts.partial_fit(chunk)
    assert_same(parts, whole)


@ordinary
@given(tables, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(table: Table, random: object) -> None:
    order = list(range(len(table)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert_same(InputNorm(3).fit(table[order]), InputNorm(3).fit(table))


@ordinary
@given(tables)
def test_missing_values_change_nothing_but_the_count(table: Table) -> None:
    with_holes = np.concatenate([table, np.full((4, 3), np.nan)])
    assert_same(InputNorm(3).fit(with_holes), InputNorm(3).fit(table))


@ordinary
@given(full_tables)
def test_fitted_rows_come_out_with_mean_0_and_deviation_1_or_constant_0(table: Table) -> None:
    norm = InputNorm(3).fit(table)
    y = norm(torch.from_numpy(table))
    constant = torch.from_numpy(table.min(0) == table.max(0))
    assert torch.equal(norm.std == 0, constant)
    assert not y[:, constant].any()
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(0, correction=0), (~constant).double(), atol=1e-10)


@ordinary
@given(full_tables)
def test_inverse_undoes_it(table: Table) -> None:
    norm = InputNorm(3).fit(table)
    np.testing.assert_allclose(norm.inverse(norm(torch.from_numpy(table))), table, rtol=0, atol=1e-12 * 1000)


@ordinary
@given(full_tables, st.integers(-20, 20), st.integers(-100, 100))
def test_units_do_not_matter(table: Table, exponent: int, shift: int) -> None:
    """Metres or feet, Celsius or Kelvin: the normalized values are the same."""
    plain, other = InputNorm(3).fit(table), InputNorm(3).fit(table * 2.0**exponent + shift * 2.0**exponent)
    y = plain(torch.from_numpy(table))
    np.testing.assert_allclose(other(torch.from_numpy((table + shift) * 2.0**exponent)), y, rtol=0, atol=1e-10)
