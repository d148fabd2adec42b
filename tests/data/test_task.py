from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pytest

from batchnorm.data.column import Target
from batchnorm.data.schema import Schema
from batchnorm.data.target import as_target, refuse_missing
from batchnorm.data.task import learn_target
from batchnorm.errors import DataError


def learnt(values: object, **options: object) -> Target:
    return learn_target(as_target(values), name="y", table="t", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["true", "False", "TRUE"], (False, True)),
        ([True, False, True], (False, True)),
        ([1, 0, 1], (0, 1)),
        ([1.0, 2.0, 1.0], (1, 2)),
        (["2", "4", "2"], (2, 4)),
        (["1.0", "3", "1"], (1, 3)),
        (np.array([3, 7, 3], dtype=np.uint8), (3, 7)),
        (list(range(20)) * 2, tuple(range(20))),
        (["yes", "no", "no"], ("no", "yes")),
    ],
)
def test_target_that_is_few_texts_truths_or_integers_is_a_class(values: object, classes: tuple[object, ...]) -> None:
    target = learnt(values)
    assert target == Target("y", "class", classes)  # type: ignore[arg-type]
    assert [type(label) for label in target.classes] == [type(label) for label in classes]


@pytest.mark.parametrize("values", [[0.5, 1.5, 0.5], list(range(21)) * 2, [1, 2, 3, 4], ["0.1", "1", "2"]])
def test_target_of_fractions_or_many_integers_is_a_number(values: object) -> None:
    assert learnt(values) == Target("y", "number")


def test_task_that_is_given_settles_it() -> None:
    assert learnt([1, 2, 1], task="regression") == Target("y", "number")
    assert learnt([*range(30), 0], task="classification").classes == tuple(range(30))
    assert learnt([0.5, 1.5, 0.5], task="classification").classes == (0.5, 1.5)


@pytest.mark.parametrize("values", [["a", "b", "a"], [True, False, True]])
def test_regression_of_texts_or_truths_is_refused(values: object) -> None:
    with pytest.raises(DataError, match=r"expected numbers in target 'y' for regression, got"):
        learnt(values, task="regression")


@pytest.mark.parametrize("values", [["a"] * 3, [1] * 3, [0.5] * 3])
def test_target_of_one_value_is_refused(values: object) -> None:
    with pytest.raises(DataError, match=r"target 'y' is .* in every row: expected at least two different values"):
        learnt(values)


def test_target_with_as_many_classes_as_rows_is_refused() -> None:
    with pytest.raises(DataError, match="expected more rows than classes, got 3 classes of target 'y' in 3 rows"):
        learnt(["a", "b", "c"])


def test_target_that_is_infinite_is_refused() -> None:
    with pytest.raises(DataError, match="target 'y' is infinite in 2 rows"):
        learnt([0.5, np.inf, -np.inf])


def test_target_of_numbers_with_an_unknown_text_among_them_is_refused() -> None:
    with pytest.raises(DataError, match=r"target 'y' holds numbers in 2 rows and '\?' in others: .* --na '\?'"):
        learnt(["1", "2", "?"])


def test_target_of_dates_is_refused() -> None:
    with pytest.raises(DataError, match="target 'y' holds dates or times"):
        learnt(["2024-01-31", "2024-02-01", "2024-02-01"])
    with pytest.raises(DataError, match=r"the target holds dates or times \(Date\)"):
        as_target([date(2024, 1, 31)])
    with pytest.raises(DataError, match=r"has type List\(Int64\)"):
        as_target(pl.Series([[1]]))


def test_huge_integers_stay_exact_as_classes() -> None:
    first, second = 9_999_999_999_999_999_999_991, 9_999_999_999_999_999_999_992
    for values in ([str(first), str(second)] * 2, [first, second] * 2, np.array([2**64 - 1, 2**64 - 2] * 2, "u8")):
        target = learnt(values)
        schema = Schema((), target)
        assert list(schema.encode_target(values)) == ([0, 1, 0, 1] if first in target.classes else [1, 0, 1, 0])
    assert learnt([first, second] * 2).classes == (first, second)


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "b", ""],
        [1.5, None, 2.5, float("nan")],
        [1, None, 2, None],
        [True, None, False, None],
        np.array([1.0, np.nan, 2.0, np.nan]),
        pd.Series([1, None, 2, None], dtype="Int64"),
        pl.Series(["1", "NA", "2", None]),
        [str(2**70), None, str(2**71), None],
    ],
)
def test_missing_targets_are_refused_with_their_number(values: object) -> None:
    with pytest.raises(DataError, match="target 'y' is missing in 2 rows of 4, first in row 2: remove these rows"):
        refuse_missing(as_target(values), name="y", table="t", row_number=lambda row: row + 1)


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        ((1, 2), [1, 2]),
        ((1, 2), [1.0, 2.0]),
        ((1, 2), [" 1", "2.0"]),
        ((1, 2), np.array([1, 2], dtype=np.uint8)),
        ((1, 2), pd.Series([1, 2])),
        (("1", "b"), [1, "b"]),
        (("no", "yes"), ["'no'", " yes "]),
        ((False, True), ["FALSE", "true"]),
        ((False, True), [False, True]),
        ((False, True), [0, 1]),
        ((0.5, 1.5), ["0.5", 1.5]),
    ],
)
def test_classes_are_found_however_they_are_written(classes: tuple[object, ...], values: object) -> None:
    schema = Schema((), Target("y", "class", classes))  # type: ignore[arg-type]
    encoded = schema.encode_target(values)
    assert encoded.dtype == np.int64
    assert list(encoded) == [0, 1]
    assert schema.decode(encoded) == list(classes)


@pytest.mark.parametrize(("values", "said"), [([1, 7], "7 in row 2"), (["1", "x"], "'x' in row 2")])
def test_class_that_no_training_row_has_is_refused(values: object, said: str) -> None:
    with pytest.raises(DataError, match=rf"target 'y' is {said}, a class that no training row has: expected 1, 2\."):
        Schema((), Target("y", "class", (1, 2))).encode_target(values)


def test_number_targets_are_encoded_as_float64() -> None:
    schema = Schema((), Target("y", "number"))
    for values in (["1", "2.5"], [1, 2.5], np.array([1, 2.5], dtype=np.float32)):
        np.testing.assert_array_equal(schema.encode_target(values), [1.0, 2.5])
    with pytest.raises(DataError, match="expected a number as target 'y', got 'x' in row 2"):
        schema.encode_target(["1", "x"])
    with pytest.raises(DataError, match="target 'y' is infinite in row 1"):
        schema.encode_target([np.inf, 1.0])
