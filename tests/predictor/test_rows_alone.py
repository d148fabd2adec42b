"""A row gets the same, to the last bit, alone and in any batch, at any place in it, with any number of threads.

A client and a nightly batch must never disagree on a row. BLAS does not promise it; see `predictor/product.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.model_cases import model
from tests.predictor.unfolded import inputs, wide
from threadpoolctl import threadpool_limits

from batchnorm.model_file.spec import ACTIVATIONS
from batchnorm.predictor import Predictor, product

networks = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "inputs": st.integers(1, 60),
        "hidden": st.lists(st.integers(1, 130), max_size=3).map(tuple),
        "outputs": st.integers(2, 40),
        "placement": st.sampled_from(["before", "after"]),
        "activation": st.sampled_from(ACTIVATIONS),
        "input_norm": st.booleans(),
    }
)


def answers(predictor: Predictor, x: NDArray[np.float64]) -> list[bytes]:
    """All that is said of each row, as bytes."""
    found = predictor.predictions(x)
    scores = predictor.decision_scores(x)
    chances = scores if found.probabilities is None else found.probabilities
    return [
        a.tobytes() + b.tobytes() + repr(c).encode()
        for a, b, c in zip(scores, chances, found.values.tolist(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(network=networks, rows=st.integers(1, 1000), is_wide=st.booleans(), data=st.data())
def test_a_row_alone_gets_what_it_gets_in_any_batch(
    network: dict[str, object], rows: int, is_wide: bool, data: st.DataObject
) -> None:
    file = model(**network)  # type: ignore[arg-type]
    predictor = Predictor(wide(file) if is_wide else file)
    x = inputs(rows, file.network.inputs)
    together = answers(predictor, x)
    for row in data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=8)):
        assert answers(predictor, x[row : row + 1]) == [together[row]]
    order = np.random.default_rng(0).permutation(rows)
    assert answers(predictor, x[order]) == [together[row] for row in order]
    start, stop = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    assert answers(predictor, x[start:stop]) == together[start:stop]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 513, 1000])
def test_the_same_row_at_every_place_of_a_batch_gets_the_same(activation: str, size: int) -> None:
    """Edges of tiles and ends of vectors, where other instructions run, are at other places for each size."""
    for features, hidden, outputs in [(5, (7, 4), 3), (13, (33, 16), 2), (64, (100, 17), 10), (100, (61,), 1)]:
        file = model(inputs=features, hidden=hidden, outputs=outputs, activation=activation, regression=outputs == 1)
        predictor = Predictor(file)
        row = inputs(1, features)
        assert set(answers(predictor, np.repeat(row, size, axis=0))) == set(answers(predictor, row))
        amid = inputs(size, features, seed=1)
        for place in {0, size // 3, size // 2, size - 1}:
            amid[place] = row[0]
            assert answers(predictor, amid)[place] == answers(predictor, row)[0]


@pytest.mark.parametrize(
    ("features", "hidden"),
    [(13, (32,)), (100, (100, 100)), (784, (100,)), (701, (703,)), (9001, (60,)), (10_500, (1,))],
)
def test_any_number_of_threads_gives_the_same(features: int, hidden: tuple[int, ...]) -> None:
    """(701, 703) and 9001 features are shared among threads by BLAS if it is let: without pieces this fails there."""
    predictor = Predictor(model(inputs=features, hidden=hidden))
    x = inputs(40, features)
    found = set()
    for threads in (1, 2, 3, 5, 8):
        with threadpool_limits(threads, "blas"):
            together = answers(predictor, x)
            found.add((*together,))
            assert [answers(predictor, x[row : row + 1])[0] for row in (0, 17, 39)] == [
                together[row] for row in (0, 17, 39)
            ]
    assert len(found) == 1


@pytest.mark.parametrize("whole", [1, 100, 5000])
def test_a_product_in_pieces_gives_a_row_alone_what_it_gets_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr(product, "_WHOLE", whole)
    monkeypatch.setattr(product, "_LONGEST", 50)
    predictor = Predictor(model(inputs=130, hidden=(60, 51), outputs=7))
    x = inputs(300, 130)
    together = answers(predictor, x)
    assert [answers(predictor, x[row : row + 1])[0] for row in range(300)] == together


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "offset"])
def test_the_layout_in_memory_changes_nothing(layout: str) -> None:
    predictor = Predictor(model(inputs=60, hidden=(100,)))
    x = inputs(50, 60)
    match layout:
        case "fortran":
            other = np.asfortranarray(x)
        case "strided":
            other = np.repeat(x, 3, axis=1)[:, ::3]
        case "reversed":
            other = x[::-1, ::-1].copy()[::-1, ::-1]
        case _:
            other = np.frombuffer(b"\0" * 8 + x.tobytes(), np.float64)[1:].reshape(x.shape)
    assert answers(predictor, other) == answers(predictor, x)
    assert answers(predictor, other[7:8]) == [answers(predictor, x)[7]]
