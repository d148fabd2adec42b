from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.data import split
from batchnorm.errors import SettingsError

fractions = st.floats(0, 0.95)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), fractions, fractions, st.integers(0, 9))
def test_split_keeps_every_row_once_and_every_class_in_training(
    classes: list[int], test: float, validation: float, seed: int
) -> None:
    labels = np.array(classes)
    parts = split(len(labels), labels, test_fraction=test, validation_fraction=validation, seed=seed)
    together = np.concatenate([parts.train, parts.valid, parts.test])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(labels)))
    assert set(labels[parts.train]) == set(classes)
    again = split(len(labels), labels, test_fraction=test, validation_fraction=validation, seed=seed)
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(parts, part), getattr(again, part))
        assert (np.diff(getattr(parts, part)) > 0).all()


@settings(deadline=None)
@given(st.integers(1, 300), fractions, fractions)
def test_split_without_classes_has_the_sizes_that_were_asked_for(rows: int, test: float, validation: float) -> None:
    parts = split(rows, test_fraction=test, validation_fraction=validation)
    wanted = min(max(round(test * rows), int(test > 0 and rows > 1)), rows - 1)
    assert len(parts.test) == wanted
    left = rows - wanted
    assert len(parts.valid) == min(max(round(validation * left), int(validation > 0 and left > 1)), left - 1)


@settings(deadline=None)
@given(st.lists(st.integers(5, 60), min_size=2, max_size=5), st.floats(0.1, 0.5), st.integers(0, 9))
def test_split_gives_every_class_its_share_within_one_row(sizes: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = split(len(labels), labels, test_fraction=fraction, validation_fraction=0.0, seed=seed)
    assert len(parts.test) == round(fraction * len(labels))
    for label, size in enumerate(sizes):
        share = len(parts.test) / len(labels) * size
        assert abs((labels[parts.test] == label).sum() - share) < 1.0 + 1e-9
    assert len(parts.valid) == 0


def test_split_of_another_seed_has_other_rows() -> None:
    parts, others = split(100, seed=1), split(100, seed=2)
    assert not np.array_equal(parts.test, others.test)


def test_split_is_the_same_on_every_machine() -> None:
    parts = split(12, np.repeat([0, 1, 2], 4), test_fraction=0.25, validation_fraction=0.34, seed=7)
    assert [part.tolist() for part in (parts.train, parts.valid, parts.test)] == [
        [1, 2, 6, 7, 8, 9],
        [3, 5, 11],
        [0, 4, 10],
    ]


@pytest.mark.parametrize("name", ["test_fraction", "validation_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2, float("nan")])
def test_split_refuses_a_share_that_is_none(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} expected a share from 0 up to but not including 1, got {value}"):
        split(10, **{name: value})


def test_split_refuses_a_negative_seed() -> None:
    with pytest.raises(SettingsError, match="seed expected 0 or a positive integer, got -1"):
        split(10, seed=-1)
