from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batchnorm.data import Column, Schema, learn_schema, read
from batchnorm.errors import DataError


def learnt(columns: dict[str, list[object]], **options: object) -> Schema:
    """The schema of a frame with these columns and a target of two classes."""
    rows = len(next(iter(columns.values())))
    frame = pl.DataFrame({**columns, "y": ["no", "yes"] * (rows // 2)}, strict=False)
    return learn_schema(read(frame, target="y", **options))  # type: ignore[arg-type]


def only(cells: list[object], **options: object) -> Column:
    return learnt({"a": cells}, **options).columns[0]


def test_numbers_become_one_feature_with_their_mean() -> None:
    assert only(["1", "2.5", ".5", "0"]) == Column("a", "number", fill=1.0)
    assert only([1, 2, 3, 4]) == Column("a", "number", fill=2.5)


def test_missing_numbers_add_an_indicator_and_do_not_count_in_the_mean() -> None:
    assert only(["1", "", "3", "NA"]) == Column("a", "number", fill=2.0, indicator=True)
    assert only([1.0, None, 3.0, float("nan")]) == Column("a", "number", fill=2.0, indicator=True)


def test_mean_of_numbers_whose_sum_overflows_is_finite() -> None:
    assert only([1e308] * 10).fill == pytest.approx(1e308)
    table = read(np.array([[1e308, 0.0]] * 9 + [[1e308, 1.0]]), target="last")
    assert learn_schema(table).columns[0].fill == pytest.approx(1e308)


@pytest.mark.parametrize("cells", [["true", "False"], ["yes", "NO"], [True, False]])
def test_truths_become_a_boolean(cells: list[object]) -> None:
    assert only(cells * 2) == Column("a", "boolean", fill=0.5)
    assert only([*cells, None, None]) == Column("a", "boolean", fill=0.5, indicator=True)


def test_constant_column_is_kept() -> None:
    assert only(["7"] * 4) == Column("a", "number", fill=7.0)


def test_texts_become_sorted_categories() -> None:
    assert only(["b", "a", "b", "c"]) == Column("a", "category", ("a", "b", "c"))
    assert only(["b", None, "b", "c"]) == Column("a", "category", ("b", "c"), indicator=True)


def test_rare_categories_go_to_other() -> None:
    assert only(["a", "b"] * 20 + ["c", "c", "d", "e"]) == Column("a", "category", ("a", "b", "c"), other=True)
    assert only(["a", "b"] * 2000 + ["c"] * 3 + ["d"] * 5).categories == ("a", "b", "d")


def test_categories_beyond_the_hundred_most_frequent_go_to_other() -> None:
    column = only([f"c{number:03}" for number in range(120)] * 3 + [f"c{number:03}" for number in range(100)])
    assert column.categories == tuple(f"c{number:03}" for number in range(100))
    assert column.other


def test_numbers_that_are_said_to_be_categories_are() -> None:
    expected = Column("a", "category", ("1", "2"))
    assert only(["1", "2"] * 3, categorical=["a"]) == expected
    assert only([1, 2] * 3, categorical=["a"]) == expected
    assert only([1.0, 2.0] * 3, categorical=["a"]) == expected
    table = read(np.array([[1.0, 0], [2.0, 1]] * 3), target="last", categorical=[0])
    assert learn_schema(table).columns[0] == Column("0", "category", ("1", "2"))


@pytest.mark.parametrize(
    "dates",
    [
        ["2024-01-31", "2024-2-1"],
        ["2024-01-31T10:00:00Z", "2024/02/01 11:00"],
        ["31.01.2024", "1.2.24"],
        ["1/31/2024", "02/01/24 11:00"],
        ["31-Jan-2024", "1 February 2024"],
        ["Jan 31, 2024", "Thu, Feb 1 2024"],
        ["10:30", "11:30:15"],
    ],
)
def test_dates_are_refused_by_the_name_of_the_column_with_the_fix(dates: list[object]) -> None:
    with pytest.raises(DataError, match=r"column 'sign up' holds dates or times .* leave it out with --drop 'sign up'"):
        learnt({"x": [1, 2] * 20, "sign up": dates * 20})


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime, pl.Time, pl.Duration])
def test_columns_of_a_date_type_are_refused_by_name(dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 4], "day": pl.Series([1, 2, 3, 4]).cast(dtype), "y": [0, 1, 0, 1]})
    with pytest.raises(DataError, match=r"column 'day' holds dates or times .* --drop day"):
        learn_schema(read(frame, target="y"))
    assert learn_schema(read(frame, target="y", drop=["day"])).names == ("a",)


def test_texts_that_only_resemble_dates_are_categories() -> None:
    assert only(["40-49", "1-2", "10-14", "ratio 1/2"]).kind == "category"


def test_columns_of_lists_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"column 'a' has type List\(Int64\), expected numbers, true/false or text"):
        only([[1], [2]] * 2)


def test_empty_column_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"column 'a' is empty in all 4 training rows: .* --drop a\."):
        only([None] * 4)
    with pytest.raises(DataError, match=r"columns '0', '2' are empty in all 4 training rows: .* --drop 0 --drop 2"):
        learn_schema(read(np.array([[np.nan, 1, np.nan, 0], [np.nan, 1, np.nan, 1]] * 2), target="last"))


def test_column_that_is_empty_in_the_training_rows_alone_is_refused() -> None:
    table = read(pl.DataFrame({"a": [None, None, None, 1, 2], "y": [0, 1, 0, 1, 0]}), target="y")
    with pytest.raises(DataError, match="empty in all 3 training rows"):
        learn_schema(table, np.array([0, 1, 2]))


@pytest.mark.parametrize(
    "cells", [["1", "inf", "2", "-Infinity"], ["1", "1e400", "2", "-1e400"], [1, np.inf, 2, -np.inf]]
)
def test_infinite_numbers_are_refused_with_their_rows(cells: list[object]) -> None:
    with pytest.raises(DataError, match=r"column 'a' holds infinite values, .* in 2 rows, first in row 2"):
        only(cells)


def test_infinite_numbers_of_a_matrix_are_refused_with_their_rows() -> None:
    table = read(np.array([[1, 0, 0], [2, -np.inf, 1], [3, np.inf, 0]]), target="last")
    with pytest.raises(DataError, match=r"column '1' holds infinite values, .* in 2 rows, first in row 2"):
        learn_schema(table)


def test_numbers_with_an_unknown_text_among_them_are_refused_with_both_fixes() -> None:
    with pytest.raises(
        DataError, match=r"numbers in 3 rows and '\?' in 1 row: say --na '\?' if .* or --categorical a if"
    ):
        only(["1", "2", "?", "3"])
    assert only(["1", "2", "?", "3"], na=["?"]).fill == 2.0
    assert only(["1", "2", "?", "3"], categorical=["a"]).categories == ("1", "2", "3", "?")


@pytest.mark.parametrize("cell", ["1,5", "-12,25", "1,234", "1,234,567.8", "1.234,5"])
def test_numbers_written_with_commas_are_refused(cell: str) -> None:
    with pytest.raises(DataError, match=rf"column 'a' holds numbers written with a comma \({cell}\)"):
        only([cell] * 4)


def test_texts_that_hardly_repeat_are_refused_as_identifiers() -> None:
    names = [f"passenger {number}" for number in range(30)]
    with pytest.raises(DataError, match=r"'a' holds 30 different texts in 30 rows, .* --drop a, .* --categorical a"):
        only(names)
    assert only(names, categorical=["a"]) == Column("a", "category", (), other=True)


def test_schema_is_learnt_from_the_training_rows_alone() -> None:
    rows = np.array([0, 1, 4, 5])
    frame = pl.DataFrame({"a": ["x", "y", "z", "z", "x", "y"], "b": [1, 2, 99, None, 3, 4], "y": [0, 1, 0, 1, 0, 1]})
    table = read(frame, target="y")
    assert learn_schema(table, rows) == learn_schema(read(frame[rows], target="y"))
    assert learn_schema(table, rows).columns[1] == Column("b", "number", fill=2.5)


def test_matrix_and_frame_of_the_same_numbers_have_the_same_columns() -> None:
    values = np.array([[1.0, np.nan, 3.0, 0.0], [4.0, 5.0, np.nan, 1.0], [7.0, 8.0, 10.0, 0.0]])
    matrix = learn_schema(read(values, target="last"))
    frame = learn_schema(read(pl.DataFrame(values, schema=["0", "1", "2", "3"]), target="3"))
    assert matrix.columns == frame.columns


def test_table_without_target_or_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no target yet"):
        learn_schema(read(np.ones((2, 2))))
    with pytest.raises(DataError, match="at least one training row, got none"):
        learn_schema(read("wine"), np.array([], dtype=np.int64))
