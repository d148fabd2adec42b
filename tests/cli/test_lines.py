"""Bytes become lines, and lines rows, whatever the pieces that they come in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.cli import lines as lines_module
from batchnorm.cli.answers import Answers
from batchnorm.cli.lines import waiting_lines
from batchnorm.cli.rows import CsvRows, JsonRows
from batchnorm.errors import DataError
from batchnorm.predictor import Predictions


class Pieces:
    """A stream that gives its bytes in pieces of these sizes, over and over."""

    def __init__(self, content: bytes, sizes: Sequence[int]) -> None:
        self._content, self._sizes, self._turn = io.BytesIO(content), sizes, 0

    def read1(self, size: int, /) -> bytes:
        self._turn += 1
        return self._content.read(min(size, self._sizes[self._turn % len(self._sizes)]))


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")), max_size=20), sizes, st.booleans())
def test_lines_are_the_same_in_any_pieces(lines: list[bytes], sizes: list[int], is_ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if is_ended and lines else b"")
    found = [line for some in waiting_lines(Pieces(content, sizes)) for line in some]
    assert found == content.split(b"\n")[: None if content and not content.endswith(b"\n") else -1]


@given(st.lists(st.integers(0, 60), max_size=10), sizes)
def test_lines_too_long_are_errors_and_the_others_stay(lengths: list[int], sizes: list[int]) -> None:
    content = b"".join(b"x" * length + b"\n" for length in lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "_LONGEST", 40)
        patch.setattr(lines_module, "_CHUNK", 40)
        found = [line for some in waiting_lines(Pieces(content, sizes)) for line in some]
    assert [isinstance(line, DataError) for line in found] == [length > 40 for length in lengths]
    assert [line for line in found if isinstance(line, bytes)] == [b"x" * n for n in lengths if n <= 40]


# The standard library's writer quotes what it must; "\r" within a line it takes for a line end.
cell = st.text(st.sampled_from('a1 ,;"\n|'), max_size=6)


@given(st.lists(st.lists(cell, min_size=2, max_size=4), max_size=8), sizes, st.sampled_from(",;|"))
def test_csv_that_the_standard_library_writes_is_read_back_in_any_pieces(
    rows: list[list[str]], sizes: list[int], separator: str
) -> None:
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator="\n").writerows(rows)
    reader = CsvRows(separator, has_names=False, na=())
    found, number = [], 0
    for some in waiting_lines(Pieces(written.getvalue().encode(), sizes)):
        lines = [(number + place, line.decode()) for place, line in enumerate(some, start=1)]  # type: ignore[union-attr]
        number += len(some)
        found += reader.read(lines, is_end=False)
    found += reader.read([], is_end=True)
    assert [record for _, record in found] == [row for row in rows if any(c.strip() for c in row) or len(row) > 1]
    starts = [1 + sum(1 + sum(c.count("\n") for c in row) for row in rows[:place]) for place in range(len(rows))]
    assert [number for number, _ in found] == starts


def test_csv_waits_for_a_quote_to_be_closed_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchnorm.cli.rows._MOST_LINES", 4)
    reader = CsvRows(",", has_names=False, na=())
    assert reader.read([(1, '"a'), (2, "b"), (3, "c")], is_end=False) == []
    assert reader.read([(4, 'd",e')], is_end=False) == [(1, ["a\nb\nc\nd", "e"])]
    found = reader.read([(5, '"a'), (6, "b"), (7, "c"), (8, "d"), (9, "e")], is_end=False)
    assert [(number, isinstance(record, DataError)) for number, record in found] == [
        (5, True),
        (6, False),
        (7, False),
        (8, False),
        (9, False),
    ]


def test_csv_cell_too_long_for_the_standard_library_is_an_error_of_its_line() -> None:
    reader = CsvRows(",", has_names=False, na=())
    (first, second) = reader.read([(1, '"' + "x" * 200_000 + '",1'), (2, "1,2")], is_end=True)
    assert isinstance(first[1], DataError)
    assert "cannot be cut" in str(first[1])
    assert second == (2, ["1", "2"])


def test_csv_texts_that_mean_missing_are_none() -> None:
    reader = CsvRows(",", has_names=True, na=("?",))
    assert reader.read([(1, " a ,b"), (2, '?,"?"')], is_end=True) == [(2, {"a": None, "b": None})]


def test_json_lines_that_are_blank_are_passed_over() -> None:
    assert JsonRows().read([(1, ""), (2, " \t"), (3, "[1]")], is_end=True) == [(3, [1])]


labels = st.one_of(
    st.lists(st.text(max_size=8), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(-5, 5), min_size=2, max_size=4, unique=True),
    st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=4, unique=True),
    st.just([False, True]),
    st.just(["50%", "%r", "{}", '"', "\\", "ä\x1b"]),
)


@given(labels, st.data())
def test_answers_are_what_json_dumps_writes(classes: list[Any], data: st.DataObject) -> None:
    chances = st.lists(st.floats(0, 1), min_size=len(classes), max_size=len(classes))
    rows = data.draw(st.lists(st.tuples(st.sampled_from(classes), chances), max_size=4))
    values = np.empty(len(rows), dtype=object)
    values[:] = [value for value, _ in rows]
    shares = np.array([row for _, row in rows]).reshape(len(rows), len(classes))
    expected = [
        json.dumps({"prediction": value, "probabilities": dict(zip(map(str, classes), row, strict=True))})
        for value, row in rows
    ]
    assert Answers(classes).texts(Predictions(values, shares)) == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_answers_of_numbers_are_what_json_dumps_writes(numbers: list[float]) -> None:
    expected = [json.dumps({"prediction": number}) for number in numbers]
    assert Answers(()).texts(Predictions(np.array(numbers, dtype=np.float64), None)) == expected
