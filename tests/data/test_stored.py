from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.data import Column, Schema, Target
from batchnorm.errors import DataError

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=6)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Any schema at all."""
    wanted = draw(st.lists(names, min_size=2, max_size=8, unique=True))
    columns: list[Column] = []
    for name in wanted[1:]:
        kind = draw(st.sampled_from(["number", "boolean", "category"]))
        indicator = draw(st.booleans())
        if kind == "category":
            categories = tuple(draw(st.lists(st.text(max_size=4), min_size=1, max_size=4, unique=True)))
            columns.append(Column(name, "category", categories, draw(st.booleans()), indicator=indicator))
        else:
            columns.append(Column(name, kind, fill=draw(finite), indicator=indicator))  # type: ignore[arg-type]
    labels = draw(
        st.sampled_from([(False, True)])
        | st.lists(st.integers(), min_size=2, max_size=4, unique=True)
        | st.lists(st.text(max_size=3), min_size=2, max_size=4, unique=True)
        | st.lists(finite, min_size=2, max_size=4, unique=True)
    )
    target = draw(st.sampled_from([Target(wanted[0], "class", tuple(labels)), Target(wanted[0], "number")]))
    beside = ((draw(st.integers(0, len(columns))), wanted[0]),) if draw(st.booleans()) else ()
    na = tuple(draw(st.lists(st.text(max_size=3), max_size=2, unique=True)))
    return Schema(tuple(columns), target, draw(st.booleans()), na, beside)


@settings(deadline=None)
@given(schemas())
def test_schema_goes_through_json_unchanged(schema: Schema) -> None:
    back = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert back == schema
    assert repr(back) == repr(schema)


nonsense = st.sampled_from([None, True, -1, 1.5, float("nan"), 10**400, "x", [], {}, [[]], [None], {"name": 1}, [1, 2]])


@settings(deadline=None)
@given(schemas(), nonsense, st.integers(0, 2**32))
def test_schema_with_one_value_replaced_is_refused_or_read_whole(schema: Schema, odd: Any, seed: int) -> None:
    values = json.loads(json.dumps(schema.to_dict()))
    chosen = random.Random(seed)
    place: Any = values
    while True:
        key = chosen.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or chosen.random() < 0.3:
            break
        place = place[key]
    place[key] = copy.deepcopy(odd)
    try:
        back = Schema.from_dict(values)
    except DataError as problem:
        said = str(problem)
    else:
        said = "schema: read"
        assert Schema.from_dict(back.to_dict()) == back
    assert said.startswith("schema: ")


good = Schema(
    (Column("a", "number", fill=1.0), Column("b", "category", ("x",))), Target("y", "class", (0, 1)), beside=((2, "y"),)
).to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": []}, "expected at least one column, got none"),
        ({"columns": [{"name": "a", "kind": "number", "fill": 1.0}] * 2}, "names of the columns repeat"),
        ({"columns": [{"name": "a", "kind": "date", "fill": 1.0}]}, "to be a number, boolean or category, got 'date'"),
        ({"columns": [{"name": "a", "kind": "number"}]}, "number column 'a' must have a fill and no categories"),
        (
            {"columns": [{"name": "a", "kind": "number", "fill": float("inf")}]},
            "expected the fill of column 'a' to be a finite",
        ),
        ({"columns": [{"name": "a", "kind": "category", "categories": []}]}, "category column 'a' has no category"),
        ({"columns": [{"name": "a", "kind": "category", "categories": ["x"], "fill": 1}]}, "has a fill"),
        ({"columns": [{"name": "a", "kind": "number", "fill": 1, "run": "rm"}]}, "has the unknown entry 'run'"),
        ({"target": {"name": "y", "kind": "class", "classes": [1]}}, "at least two different classes"),
        ({"target": {"name": "y", "kind": "class", "classes": [1, "a"]}}, "all of one type"),
        ({"target": {"name": "y", "kind": "class", "classes": [1, [2]]}}, r"\[2\] cannot be a class"),
        ({"target": {"name": "y", "kind": "number", "classes": [1, 2]}}, "must have no classes"),
        ({"target": {"name": "a", "kind": "number"}}, "a column is two things at once"),
        ({"beside": [[7, "y"]]}, "positions of the columns beside the features do not fit"),
        ({"beside": [[0, "y"], [0, "z"]]}, "positions of the columns beside the features do not fit"),
        ({"beside": [[0]]}, "expected a position and a name"),
        ({"header": 1}, "expected 'header' to be a bool, got 1"),
        ({"na": "?"}, "expected the texts that mean missing to be a list, got '?'"),
        ({"extra": 1}, "the schema has the unknown entry 'extra'"),
    ],
)
def test_schema_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=f"schema: .*{said}".replace("'?'", r"'\?'")):
        Schema.from_dict({**good, **change})


def test_schema_that_is_no_dict_or_lacks_entries_is_refused() -> None:
    with pytest.raises(DataError, match="expected the schema to be a dict, got None"):
        Schema.from_dict(None)
    with pytest.raises(DataError, match="the schema lacks columns, target, header, na, beside"):
        Schema.from_dict({})
