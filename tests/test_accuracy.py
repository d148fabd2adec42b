"""Accuracy at the rounding floor: the benchmark's questions, fewer rows; 2^24 of them in `make test-all`.

benchmarks/accuracy.py prints the table beside torch, Keras and flax.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.accuracy import MANY, MANY_ROWS, MOST, keep, measure, recorded, table
from benchmarks.accuracy_cases import FLOAT, INPUTS, LAYOUTS, as_array, questions, ratios
from benchmarks.accuracy_rivals import rivals

from batchnorm.functional import batch_norm

ANSWERS = rivals()
OURS = next(name for name in ANSWERS if name.startswith("batchnorm"))
TORCHS = next(name for name in ANSWERS if name.startswith("torch"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inputs", list(INPUTS))
def test_error_is_at_most_four_times_that_of_rounding(inputs: str, layout: str) -> None:
    """Training and evaluation, every dtype that holds such values."""
    for question in questions(rows=1024, channels=8, layouts=(layout,), inputs={inputs: INPUTS[inputs]}):
        errors = question.errors(ANSWERS[OURS](question))
        worst = float(ratios(errors, question.floor()).max())
        assert worst <= MOST, (question.dtype, question.mode)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inputs", list(MANY))
def test_error_of_many_rows_is_at_most_four_times_that_of_rounding(inputs: str, layout: str) -> None:
    for question in questions(rows=MANY_ROWS, channels=2, layouts=(layout,), inputs={inputs: MANY[inputs]}):
        errors = question.errors(ANSWERS[OURS](question))
        assert float(ratios(errors, question.floor()).max()) <= MOST, question.mode


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [2, 3, 7, 1000])
def test_constant_channels_give_exactly_the_bias(rows: int, dtype: torch.dtype) -> None:
    values = torch.tensor([0.1, 1 / 3, 3.3, -7.7, 123.456, 2047.7, 6e4, 1e-7], dtype=torch.float64).to(dtype)
    x = values.expand(rows, 8)
    bias = torch.linspace(-1, 1, 8, dtype=dtype)
    weight = torch.full((8,), 1.7, dtype=dtype)
    for given in (x, x.unsqueeze(2).expand(rows, 8, 5)):
        y = batch_norm(given, None, None, weight, bias, training=True)
        assert torch.equal(y.movedim(1, -1), bias.expand(y.movedim(1, -1).shape))


@pytest.mark.parametrize(
    ("inputs", "least"),
    [
        ("mean 10000, std 1", 1e3),
        ("mean 1e+07, std 1", 1e6),
        ("a few ulps around 1 (float32)", 1e3),
        ("constant channels", np.inf),
    ],
)
def test_torch_is_far_from_the_floor(inputs: str, least: float) -> None:
    """So the measurement can fail, and says of torch what is known of it."""
    (question,) = (
        q
        for q in questions(rows=1024, channels=8, layouts=("(N, C)",), inputs={inputs: INPUTS[inputs]})
        if q.training and q.x.dtype == FLOAT
    )
    errors = question.errors(ANSWERS[TORCHS](question))
    assert float(ratios(errors, question.floor()).max()) >= least


def test_questions_lay_out_the_same_values() -> None:
    found = [
        question.x.movedim(1, -1).reshape(1024, 8)
        for question in questions(rows=1024, channels=8, inputs={"mean 0, std 1": INPUTS["mean 0, std 1"]})
    ]
    assert len(found) == 2 * 2 * len(LAYOUTS)
    half = len(found) // 2
    assert all(torch.equal(x, found[0]) for x in found[:half])
    assert all(torch.equal(x, found[half]) for x in found[half:])


def test_layouts_are_what_they_are_called() -> None:
    asked = questions(rows=1024, channels=8, inputs={"scale 0.001": INPUTS["scale 0.001"]})
    for question in asked:
        x, layout = question.x, question.layout
        assert x.dim() == {"(N, C)": 2, "(N, C, L)": 3, "NCHW": 4, "NCDHW": 5}[layout.removesuffix(" channels-last")]
        assert x.is_contiguous() != layout.endswith("channels-last")
        assert min(x.shape) > 1


def test_error_of_the_exact_result_rounded_is_the_floor() -> None:
    (question, *_) = questions(rows=512, channels=3)
    rounded = as_array(torch.from_numpy(question.exact.astype(np.float64)).to(question.x.dtype))
    back = np.moveaxis(rounded.reshape(*np.moveaxis(question.x.numpy(), 1, -1).shape), -1, 1)
    assert (ratios(question.errors(back), question.floor()) == 1).all()
    assert np.isinf(question.errors(np.full_like(back, np.nan))).all()


def test_table_shows_what_was_measured_and_what_was_recorded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.accuracy.RESULTS", tmp_path / "accuracy.csv")
    inputs = {"constant channels": INPUTS["constant channels"]}
    measured = list(measure(questions(rows=512, channels=3, layouts=("(N, C)",), inputs=inputs), ANSWERS))
    assert recorded(measured) == []
    others = [row | {"implementation": "keras 9.9"} for row in measured if row["implementation"] == OURS]
    keep(measured + others)
    kept = recorded(measured)
    assert kept == others
    shown = table(measured, kept)
    assert "keras 9.9 (recorded)" in shown
    assert TORCHS + " (recorded)" not in shown
    assert shown.splitlines()[1].startswith("float32   constant channels")
