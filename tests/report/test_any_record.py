"""A report is made of whatever training left behind: any floats, any lengths, any number of layers and classes."""

from __future__ import annotations

import json
import re

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchnorm.report import render
from batchnorm.training.record import (
    Confusion,
    Curve,
    LayerStatistics,
    LayerTrace,
    Record,
    Residuals,
    Run,
    SinglePrediction,
)

number = st.floats()  # NaN, both infinities, 1e308 and 5e-324 among them
values = st.lists(number, max_size=6).map(tuple)
steps = st.lists(st.integers(0, 10**7), max_size=6).map(tuple)
count = st.integers(0, 10**9)
word = st.text(max_size=8)

curves = st.builds(Curve, steps=steps, seconds=values, train_loss=values, valid_loss=values, valid_metric=values)
traces = st.lists(st.builds(LayerTrace, name=word, steps=steps, p15=values, p50=values, p85=values), max_size=8)


@st.composite
def layers(draw: st.DrawFn) -> tuple[LayerStatistics, ...]:
    """Layers of equal numbers of neurons, as a network has them, full of any numbers."""
    neurons = draw(st.integers(1, 4))
    row = st.lists(number, min_size=neurons, max_size=neurons).map(tuple)
    return tuple(LayerStatistics(draw(word), *(draw(row) for _ in range(6))) for _ in range(draw(st.integers(0, 12))))


residuals = st.lists(st.tuples(number, number), max_size=6).map(
    lambda pairs: Residuals(tuple(true for true, _ in pairs), tuple(predicted for _, predicted in pairs))
)


@st.composite
def confusions(draw: st.DrawFn) -> Confusion:
    """A square matrix of counts."""
    n = draw(st.integers(0, 14))
    cell = st.integers(0, 3)
    counts = tuple(tuple(draw(cell) for _ in range(n)) for _ in range(n))
    return Confusion(tuple(draw(word) for _ in range(n)), counts)


runs = st.builds(
    Run,
    label=word,
    norm=st.sampled_from(["batch", None]),
    curve=curves,
    traces=traces.map(tuple),
    statistics=layers(),
    test_metric=number,
    test_loss=number,
    test_metric_batch_statistics=st.none() | number,
    steps=count,
    best_step=count,
    seconds=number,
    steps_to_goal=st.none() | count,
    confusion=st.none() | confusions(),
    residuals=st.none() | residuals,
)
record = st.builds(
    Record,
    title=word,
    data_name=word,
    rows_train=count,
    rows_valid=count,
    rows_test=count,
    features=count,
    task=st.sampled_from(["classification", "regression"]),
    metric_name=word,
    target_name=word,
    goal=st.none() | number,
    runs=st.lists(runs, max_size=3).map(tuple),
    singles=st.lists(st.builds(SinglePrediction, count, word, word, st.none() | number), max_size=2).map(tuple),
    settings=st.dictionaries(word, st.none() | number | word | st.lists(count, max_size=2), max_size=2),
    versions=st.dictionaries(word, word, max_size=2),
    seed=count,
)


# Shrinking a whole record takes minutes; what failed is told by the traceback well enough.
@settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(record)
def test_render_of_any_record_gives_charts_of_strict_json(any_record):
    for figure in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', render(any_record)):
        json.loads(figure, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
