from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.data import frame
from batchnorm.data.cells import MISSING_TEXTS, is_number, number, plain, text, truth

cell_texts = st.text(alphabet="0123456789.eE+-_ \t'\"infaNtyrusox,\u00a0\u0661", max_size=8) | st.sampled_from(
    ["1e400", "-1e400", "1e-400", "nan", "inf", "Infinity", "0x10", "1_000", "9" * 40, "1.7976931348623159e308", "-0"]
)


@settings(deadline=None)
@given(st.lists(cell_texts, min_size=1, max_size=20))
def test_numbers_of_any_texts_are_the_same_in_a_frame_and_alone(texts: list[str]) -> None:
    cleaned = frame.clean(pl.DataFrame({"a": texts}))["a"]
    together, wrong = frame.numbers(cleaned)
    for cell, value, bad in zip(texts, together, wrong, strict=True):
        said = plain(cell)
        if said in MISSING_TEXTS:
            assert math.isnan(value)
            assert not bad
        else:
            try:
                assert number(said) == value
                assert not bad
            except ValueError:
                assert bad


@settings(deadline=None)
@given(st.lists(cell_texts | st.sampled_from(["Yes", "NO", "true", "False"]), min_size=1, max_size=20))
def test_truths_of_any_texts_are_the_same_in_a_frame_and_alone(texts: list[str]) -> None:
    cleaned = frame.clean(pl.DataFrame({"a": texts}))["a"]
    together, wrong = frame.truths(cleaned)
    for cell, value, bad in zip(texts, together, wrong, strict=True):
        said = plain(cell)
        if said in MISSING_TEXTS:
            assert math.isnan(value)
            assert not bad
        else:
            try:
                assert truth(said) == value
                assert not bad
            except ValueError:
                assert bad


@settings(deadline=None)
@given(st.text(max_size=12))
def test_cleaning_of_any_text_is_the_same_in_a_frame_and_alone(cell: str) -> None:
    cleaned = frame.clean(pl.DataFrame({"a": [cell]}, schema={"a": pl.String}))["a"][0]
    assert cleaned == (None if plain(cell) in MISSING_TEXTS else plain(cell))


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_of_a_printed_float_is_that_float(value: float) -> None:
    assert is_number(repr(value))
    assert number(repr(value)) == value


@pytest.mark.parametrize("cell", ["", "1_000", "١", "1 2", "inf", "0x1", "1e400", 10**400, float("inf"), [1], {}])
def test_number_of_a_cell_that_is_none_raises(cell: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        number(cell)


def test_number_of_nan_is_nan_for_it_is_a_missing_number() -> None:
    assert math.isnan(number(float("nan")))
    assert math.isnan(truth(np.float64("nan")))


@pytest.mark.parametrize("cell", ["maybe", 2, "2", -1.0])
def test_truth_of_a_cell_that_is_none_raises(cell: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        truth(cell)


def test_text_of_numbers_does_not_depend_on_their_type() -> None:
    assert {text(value) for value in (3, 3.0, np.float64(3))} == {"3"}
    assert text(True) == "true"
    assert text(1e300) == "1e+300"
