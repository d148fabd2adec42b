"""How rows are cut into batches, and the order they come in: laws that hold for any sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.small import QUICK, assembled, changed, clouds, plane, trained

from batchnorm.training.batches import cuts, order
from batchnorm.training.objective import Task

CPU = torch.device("cpu")
sizes = st.integers(1, 400)


@given(rows=sizes, batch_size=sizes, least=st.integers(1, 3))
def test_cuts_cover_every_row_once_in_order(rows: int, batch_size: int, least: int) -> None:
    found = cuts(rows, batch_size, least=least)
    assert [row for start, stop in found for row in range(start, stop)] == list(range(rows))


@given(rows=sizes, batch_size=st.integers(2, 400))
def test_cuts_are_the_batch_size_but_for_the_last(rows: int, batch_size: int) -> None:
    *others, last = (stop - start for start, stop in cuts(rows, batch_size, least=2))
    assert all(size == batch_size for size in others)
    assert 2 <= last <= batch_size + 1 or rows == last == 1


@given(rows=sizes, batch_size=sizes)
def test_cuts_without_a_least_are_as_many_as_the_division_says(rows: int, batch_size: int) -> None:
    assert len(cuts(rows, batch_size, least=1)) == -(-rows // batch_size)


@given(rows=sizes, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_order_is_a_permutation_that_seed_and_epoch_decide(rows: int, seed: int, epoch: int) -> None:
    first = order(rows, seed=seed, epoch=epoch, device=CPU)
    assert sorted(first.tolist()) == list(range(rows))
    assert torch.equal(first, order(rows, seed=seed, epoch=epoch, device=CPU))


def test_order_differs_between_epochs_and_between_seeds() -> None:
    orders = {tuple(order(50, seed=s, epoch=e, device=CPU).tolist()) for s in range(5) for e in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("rows", [17, 33, 49])
def test_a_last_batch_of_one_row_joins_the_batch_before(rows: int, task: Task) -> None:
    """65 rows in batches of 16 leave one row, which has no variance: torch raises for it at the end of an epoch."""
    train = clouds(rows) if task == "classification" else plane(rows)
    assembly = trained(QUICK, task=task, train=train)
    assert assembly.run.cuts[-1] == (rows - 17, rows)
    assert assembly.run.progress.ended == "all steps"
    assert all(np.isfinite(e.train_loss) for e in assembly.run.progress.curve)


def test_without_normalization_a_batch_of_one_row_stands_alone() -> None:
    assert assembled(changed(norm=None), train=clouds(33)).run.cuts[-1] == (32, 33)
    assert assembled(changed(hidden=()), train=clouds(33)).run.cuts[-1] == (32, 33)
