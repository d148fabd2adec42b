"""Records as they come: the features that the schema's own encoder gives, one by one or many at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model_cases import TRAINED, classes, model
from tests.predictor.unfolded import inputs

from batchnorm.data.column import Column
from batchnorm.data.encode_records import ColumnwiseEncoder
from batchnorm.data.schema import Schema
from batchnorm.errors import DataError
from batchnorm.model_file import ModelFile
from batchnorm.predictor import Predictor

COLUMNS = (
    Column("age", "number", fill=40.0, indicator=True),
    Column("height", "number", fill=1.75),
    Column("member", "boolean", fill=0.25),
    Column("sea", "category", ("1", "2.50", "BAY", "INLAND", "true"), other=True, indicator=True),
    Column("port", "category", ("Köln", "Ulm")),
    Column("ship", "category", ("a", "b"), other=True),
)
NUMBERS = (Column("a", "number", fill=0.5), Column("b", "number", fill=-1.0), Column("c", "number", fill=1e9))

numerals = ["1", "0", " 2.5 ", "'3'", "1e3", "1e400", "-.5", "+4.", "1_0", "inf", "nan", "\u0663", "0x1", "e", "--1"]
words = ["NA", "", "?", "yes", "No", "TRUE", "true", "BAY", "Ulm", "Köln", "a", "b\0", "2.50", "2.5", "1\n2"]
texts = st.sampled_from(numerals + words)
cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    texts,
    st.sampled_from([10**400, [], {}, [1], np.float64(2)]),
)
good_cells = st.one_of(st.floats(-1e6, 1e6), st.integers(-9, 9), st.none(), st.just(float("nan")))


def one_by_one(schema: Schema, records: list[Any]) -> bytes | None:
    try:
        return schema.encode_records(records).tobytes()
    except DataError:
        return None


@settings(max_examples=400, deadline=None)
@given(data=st.data(), columns=st.sampled_from([COLUMNS, NUMBERS, COLUMNS[2:3], COLUMNS[4:5], NUMBERS[:1]]))
def test_many_at_once_get_the_features_that_each_gets_alone(data: st.DataObject, columns: tuple[Column, ...]) -> None:
    """Any kinds of cells, mixed in any way; what does not fit is left to the encoder that has words for it."""
    schema = Schema(columns, classes(2), na=("?",))
    cell = data.draw(st.sampled_from([good_cells, texts, cells]))
    names = [column.name for column in columns]
    row = st.one_of(
        st.lists(cell, min_size=len(names), max_size=len(names)),
        st.fixed_dictionaries(dict.fromkeys(names, cell), optional={"other": cell}),
        st.dictionaries(st.sampled_from(names), cell),
    )
    kind = data.draw(st.sampled_from([row, st.fixed_dictionaries(dict.fromkeys(names, cell))]))
    records = data.draw(st.lists(kind, max_size=6))
    encoder = ColumnwiseEncoder(columns, schema.na)
    found = encoder.encode(records)
    expected = one_by_one(schema, records)
    if found is not None:
        assert found.dtype == np.float64
        assert found.tobytes() == expected
    elif expected is not None:  # left to the other one, which costs time: only where kinds of records are mixed
        assert not records or len({type(record) for record in records}) > 1


def test_a_column_of_ever_new_texts_is_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchnorm.data.encode_records._MOST_TEXTS", 10)
    columns = (Column("port", "category", ("Ulm",), other=True),)
    encoder = ColumnwiseEncoder(columns)
    found = encoder.encode([{"port": f"port {number}"} for number in range(100)] + [{"port": "Ulm"}])
    assert found is not None
    assert found.sum(axis=0).tolist() == [1, 100]


def test_predictor_of_records_agrees_with_the_encoded_matrix() -> None:
    predictor = Predictor(model())
    x = inputs(4)
    records = [{"ignored": 1, **{f"x{column}": value for column, value in reversed(list(enumerate(row)))}} for row in x]
    found = predictor.predict_records(records)
    assert found.probabilities is not None
    assert found.probabilities.tobytes() == predictor.predict_proba(x).tobytes()
    assert found.values.tolist() == predictor.predict(x).tolist()
    one_at_a_time = [predictor.predict_records([json.loads(json.dumps(record))]).values[0] for record in records]
    assert one_at_a_time == found.values.tolist()


def test_predictor_of_records_takes_any_iterable() -> None:
    predictor = Predictor(model())
    rows = inputs(3).tolist()
    assert predictor.predict_records(tuple(row) for row in rows).values.tolist() == predictor.predict(rows).tolist()
    assert predictor.predict_records([]).values.shape == (0,)
    assert predictor.predict_records([[1, 2, 3, 4, 5], {f"x{n}": n for n in range(5)}]).values.shape == (2,)


def test_predictor_of_records_with_categories_uses_the_schema() -> None:
    age = Column("age", "number", fill=40.0, indicator=True)
    sea = Column("sea", "category", ("BAY", "INLAND"), other=True)
    plain = model()
    predictor = Predictor(ModelFile(plain.tensors, plain.network, Schema((age, sea), plain.schema.target), TRAINED))
    found = predictor.predict_records([{"sea": "INLAND", "age": "41.5"}, {"sea": "MOON", "age": None}])
    expected = predictor.predict_proba([[41.5, 0, 0, 1, 0], [40, 1, 0, 0, 1]])
    assert found.probabilities is not None
    assert np.array_equal(found.probabilities, expected)


def test_predictor_of_a_bad_record_says_which() -> None:
    predictor = Predictor(model())
    right = {f"x{column}": 1.0 for column in range(5)}
    with pytest.raises(DataError, match=r"^record 2: .*x3"):
        predictor.predict_records([right, {name: value for name, value in right.items() if name != "x3"}])
    with pytest.raises(DataError, match=r"^record 1: .*x2"):
        predictor.predict_records([{**right, "x2": "many"}])
