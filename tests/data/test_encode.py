"""The laws of encoding: a row alone, in a table, after JSON, from any source, is the same row."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.data import Column, Schema, Table, Target, learn_schema, read
from batchnorm.errors import DataError

target = Target("y", "class", ("a", "b"))
number_cells = st.sampled_from(["1", "-2.5", ".5", "1e3", "", "NA", " 7 ", "'3'", "0.1"])
truth_cells = st.sampled_from(["true", "No", "YES", "false", "", "null"])
category_cells = st.sampled_from(["red", "green", "blue", " red", "'blue'", "", "n/a", "other"])
code_cells = st.sampled_from(["1", "2", "3", "2.0", "", "10"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Schema]:
    """A table of texts, and the schema of its first rows."""
    rows = draw(st.integers(4, 40))
    kinds = {"n": number_cells, "m": number_cells, "t": truth_cells, "c": category_cells, "k": code_cells}
    columns = {
        name: [*start, *draw(st.lists(cells, min_size=rows, max_size=rows))]
        for (name, cells), start in zip(
            kinds.items(), (["1", "2"], ["3", "4"], ["yes", "no"], ["red", "blue"], ["1", "2"]), strict=True
        )
    }
    frame = pl.DataFrame({**columns, "y": ["a", "b"] + ["a"] * rows})
    table = read(frame, target="y", categorical=["k"])
    return table, learn_schema(table, np.arange(draw(st.integers(3, rows))))


@settings(deadline=None, max_examples=40)
@given(tables())
def test_encode_of_a_row_alone_equals_its_row_in_the_table(made: tuple[Table, Schema]) -> None:
    table, schema = made
    together = schema.encode(table)
    assert together.shape == (len(table), len(schema.feature_names))
    assert np.isfinite(together).all()
    for row in range(len(table)):
        record = table.record(row)
        np.testing.assert_array_equal(schema.encode_record(record)[0], together[row])
        np.testing.assert_array_equal(schema.encode_record(list(record.values()))[0], together[row])
        np.testing.assert_array_equal(schema.encode(table.take(np.array([row])))[0], together[row])


@settings(deadline=None, max_examples=40)
@given(tables())
def test_encode_after_a_trip_through_json_or_pickle_is_the_same(made: tuple[Table, Schema]) -> None:
    table, schema = made
    before = schema.encode(table)
    copies = [Schema.from_dict(json.loads(json.dumps(schema.to_dict()))), pickle.loads(pickle.dumps(schema))]
    for other in [*copies, copy.deepcopy(schema)]:
        assert other == schema
        assert hash(other) == hash(schema)
        np.testing.assert_array_equal(other.encode(table), before)


@settings(deadline=None, max_examples=40)
@given(tables(), st.randoms())
def test_encode_does_not_depend_on_the_order_of_columns_nor_on_further_ones(
    made: tuple[Table, Schema], random: Any
) -> None:
    table, schema = made
    assert isinstance(table.cells, pl.DataFrame)
    names = [*table.columns, "extra"]
    random.shuffle(names)
    frame = table.cells.with_columns(extra=pl.lit("ignored"))[names]
    np.testing.assert_array_equal(schema.encode(frame), schema.encode(table))
    np.testing.assert_array_equal(schema.encode(frame.rows(named=True)), schema.encode(table))
    assert schema.extra(names) == ("extra",)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=3, max_size=3), min_size=1, max_size=30)
)
def test_encode_of_a_matrix_equals_a_frame_of_it_and_its_records(rows: list[list[float]]) -> None:
    schema = Schema(
        (
            Column("0", "number", fill=0.5, indicator=True),
            Column("1", "number", fill=-1.0),
            Column("2", "category", ("1", "2"), other=True),
        ),
        target,
        header=False,
    )
    matrix = np.array(rows)
    matrix[:, 2] = np.round(matrix[:, 2]) % 4
    encoded = schema.encode(matrix)
    np.testing.assert_array_equal(schema.encode(pl.DataFrame(matrix, schema=["0", "1", "2"])), encoded)
    np.testing.assert_array_equal(schema.encode(pd.DataFrame(matrix)), encoded)
    np.testing.assert_array_equal(schema.encode_records(matrix.tolist()), encoded)
    np.testing.assert_array_equal(np.concatenate([schema.encode_record(row) for row in matrix]), encoded)


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 3000])
def test_encode_of_a_matrix_does_not_depend_on_its_blocks(rows: int) -> None:
    schema = Schema((Column("0", "number", fill=9.0, indicator=True), Column("1", "boolean", fill=0.25)), target)
    matrix = np.stack([np.arange(rows), np.arange(rows) % 2], 1).astype(float)
    matrix[::7] = np.nan
    expected = np.stack(
        [
            np.where(np.isnan(matrix[:, 0]), 9.0, matrix[:, 0]),
            np.isnan(matrix[:, 0]),
            np.nan_to_num(matrix[:, 1], nan=0.25),
        ],
        1,
    )
    np.testing.assert_array_equal(schema.encode(matrix), expected)


@pytest.mark.parametrize(("dtype", "expected"), [("uint8", "f4"), ("int16", "f4"), ("float32", "f4"), ("int32", "f8")])
def test_encode_of_values_that_float32_holds_exactly_is_float32(dtype: str, expected: str) -> None:
    table = read(np.array([[1, 2], [3, 4], [5, 6]]).astype(dtype))
    schema = Schema((Column("0", "number", fill=0.0), Column("1", "number", fill=0.0)), target, header=False)
    assert schema.encode(table).dtype == np.dtype(expected)


def test_encode_names_its_features() -> None:
    schema = Schema(
        (
            Column("age", "number", fill=1.0),
            Column("rooms", "number", fill=1.0, indicator=True),
            Column("sea", "category", ("BAY", "other"), other=True, indicator=True),
        ),
        target,
    )
    names = ("age", "rooms", "rooms is missing", "sea=BAY", "sea=other", "sea=other (rare)", "sea is missing")
    assert schema.feature_names == names
    row = schema.encode_record({"age": 3, "rooms": None, "sea": "ISLAND"})
    assert dict(zip(names, row[0], strict=True)) == {**dict.fromkeys(names, 0.0), "age": 3.0, "rooms": 1.0} | {
        "rooms is missing": 1.0,
        "sea=other (rare)": 1.0,
    }


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        (Column("a", "category", ("x", "y"), other=True), "z", [0, 0, 1]),
        (Column("a", "category", ("x", "y")), "z", [0, 0]),
        (Column("a", "category", ("x", "y"), other=True), None, [0, 0, 1]),
        (Column("a", "category", ("x", "y")), "NA", [0, 0]),
        (Column("a", "category", ("x", "y"), indicator=True), "", [0, 0, 1]),
        (Column("a", "category", ("1", "2")), 2.0, [0, 1]),
        (Column("a", "category", ("1", "2")), "1.0", [1, 0]),
        (Column("a", "category", ("1", "01")), "01", [0, 1]),
        (Column("a", "category", ("1", "01")), 1.0, [1, 0]),
        (Column("a", "category", ("01", "1.0"), other=True), 1, [0, 0, 1]),
        (Column("a", "category", ("true", "false")), True, [1, 0]),
        (Column("a", "boolean", fill=0.25), "Yes", [1]),
        (Column("a", "boolean", fill=0.25), 0, [0]),
        (Column("a", "boolean", fill=0.25, indicator=True), None, [0.25, 1]),
        (Column("a", "number", fill=4.0), None, [4]),
        (Column("a", "number", fill=4.0), True, [1]),
        (Column("a", "number", fill=4.0), np.float32(0.5), [0.5]),
    ],
)
def test_encode_of_one_cell_alone_and_in_a_frame(column: Column, cell: object, expected: list[float]) -> None:
    schema = Schema((column,), target)
    np.testing.assert_array_equal(schema.encode_record({"a": cell}), [expected])
    own = cell.item() if isinstance(cell, np.generic) else cell
    np.testing.assert_array_equal(schema.encode(pl.DataFrame({"a": [own]})), [expected])


schema = Schema((Column("age", "number", fill=1.0), Column("ok", "boolean", fill=0.5)), target, beside=((2, "y"),))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: schema.encode_record({"Age": 1}), r"lacks 2 columns: 'age', 'ok'\. Did you mean 'Age'\?"),
        (lambda: schema.encode_record({"age": "x", "ok": 1}), "expected a finite number in column 'age', got 'x'"),
        (lambda: schema.encode_record({"age": 10**400, "ok": 1}), "expected a finite number in column 'age', got 10+"),
        (lambda: schema.encode_record({"age": [1], "ok": 1}), r"expected a finite number in column 'age', got \[1\]"),
        (lambda: schema.encode_record({"age": 1, "ok": "maybe"}), "expected true or false in column 'ok', got 'maybe'"),
        (lambda: schema.encode_record([1, 0, 2, 3]), r"expected 2 feature columns \(or 3 with .*\), got 4 columns"),
        (lambda: schema.encode_record(5), "expected a record with cells by column name, or a list of cells, got int"),  # type: ignore[arg-type]
        (lambda: schema.encode_records([{"age": 1, "ok": 1}, {"age": 1}]), "record 2: the record lacks 1 column: 'ok'"),
        (lambda: schema.encode(np.ones((3, 5))), "the array: expected 2 feature columns .* got 5 columns"),
        (lambda: schema.encode(np.ones(3)), r"expected a numeric array \(N, 2\), got shape \(3,\)"),
        (lambda: schema.encode(np.array([["a", "b"]])), "texts go in a frame"),
        (lambda: schema.encode(np.array([[1, np.inf]])), "true or false in column 'ok', .* got inf in row 1"),
        (lambda: schema.encode(np.array([[1, 1], [1, 2.0]])), "true or false in column 'ok', .* got 2.0 in row 2"),
        (lambda: schema.encode(pl.DataFrame({"age": [1]})), "the frame lacks 1 column: 'ok'"),
        (lambda: schema.encode(pl.DataFrame({"age": ["1", "?"], "ok": [0, 1]})), r"got '\?' in row 2.* --na '\?'"),
        (lambda: schema.encode("age"), "expected a Table, a frame, an array"),
        (lambda: schema.encode(7), "expected a Table, a frame, an array"),
        (lambda: schema.encode({"age": 1, "ok": 0}), "one record alone goes to encode_record"),
    ],
)
def test_encode_of_what_does_not_fit_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()


def test_encode_of_dates_where_numbers_were_is_refused() -> None:
    frame = pl.DataFrame({"age": pl.Series([1]).cast(pl.Date), "ok": [1]})
    with pytest.raises(DataError, match="column 'age' holds dates or times"):
        schema.encode(frame)


def test_encode_of_no_rows_is_an_empty_matrix() -> None:
    assert schema.encode(np.ones((0, 2))).shape == (0, 2)
    assert schema.encode([]).shape == (0, 2)
    assert schema.encode(pl.DataFrame({"age": [], "ok": []})).shape == (0, 2)


@pytest.mark.parametrize(
    ("width", "expected"), [(3, (0, 1, 2)), (6, (1, 3, 5)), (5, (1, 2, 4))], ids=["features", "whole", "no target"]
)
def test_row_without_names_is_understood_in_three_widths(width: int, expected: tuple[int, ...]) -> None:
    columns = tuple(Column(name, "number", fill=0.0) for name in "135")
    numbered = Schema(columns, Target("2", "number"), header=False, beside=((0, "0"), (2, "2"), (4, "4")))
    assert numbered.positions(width) == expected
    np.testing.assert_array_equal(numbered.encode_record(list(range(width))), [expected])
    np.testing.assert_array_equal(numbered.encode(np.arange(width)[None]), [expected])
