"""InputNorm: what is learnt, from whatever the data come in, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas
import polars
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from batchnorm import InputNorm

ROWS = np.random.default_rng(0).normal([3.0, -5.0, 1e4], [1.0, 10.0, 0.1], (24, 3))
LABELS = np.arange(24)


def _chunks(size: int) -> list[np.ndarray]:
    return [ROWS[start : start + size] for start in range(0, len(ROWS), size)]


def _dataset() -> TensorDataset:
    return TensorDataset(torch.from_numpy(ROWS), torch.from_numpy(LABELS))


SOURCES: dict[str, Callable[[], Any]] = {
    "array": lambda: ROWS,
    "array-fortran": lambda: np.asfortranarray(ROWS),
    "array-reversed": lambda: ROWS[::-1],
    "array-read-only": lambda: np.broadcast_to(ROWS, ROWS.shape),
    "tensor": lambda: torch.from_numpy(ROWS),
    "tensor-wanting-gradients": lambda: torch.from_numpy(ROWS).requires_grad_(),
    "tensor-transposed": lambda: torch.from_numpy(ROWS.T.copy()).t(),
    "nested-list": lambda: ROWS.tolist(),
    "pandas": lambda: pandas.DataFrame(ROWS),
    "polars": lambda: polars.DataFrame(ROWS),
    "list-of-arrays": lambda: _chunks(7),
    "tuple-of-tensors": lambda: tuple(torch.from_numpy(chunk) for chunk in _chunks(5)),
    "list-of-nested-lists": lambda: [chunk.tolist() for chunk in _chunks(6)],
    "list-of-pairs": lambda: [(chunk, None) for chunk in _chunks(5)],
    "generator": lambda: (chunk for chunk in _chunks(10)),
    "generator-of-pairs": lambda: ([chunk, "label"] for chunk in _chunks(10)),
    "generator-of-frames": lambda: (pandas.DataFrame(chunk) for chunk in _chunks(9)),
    "loader": lambda: DataLoader(_dataset(), batch_size=7),
    "loader-of-inputs": lambda: DataLoader(torch.from_numpy(ROWS), batch_size=7),
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("source", list(SOURCES))
def test_statistics_are_the_same_whatever_the_data_come_in(source: str) -> None:
    norm = InputNorm(3).fit(SOURCES[source]())
    np.testing.assert_allclose(norm.mean, ROWS.mean(0), rtol=1e-14)
    np.testing.assert_allclose(norm.std, ROWS.std(0), rtol=1e-10)
    assert norm.count.tolist() == [24, 24, 24]


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.int8, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_, np.longdouble],
)
def test_arrays_of_any_number_are_learnt(dtype: Any) -> None:
    values = np.array([[0, 1], [1, 1], [1, 0], [1, 1]]).astype(dtype)
    norm = InputNorm(2).fit(values)
    np.testing.assert_allclose(norm.mean, [0.75, 0.75])
    np.testing.assert_allclose(norm.variance, [3 / 16, 3 / 16])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.bool], ids=str)
def test_tensors_of_any_number_are_learnt(dtype: torch.dtype) -> None:
    norm = InputNorm(2).fit(torch.tensor([[0, 1], [1, 1], [1, 0], [1, 1]]).to(dtype))
    assert norm.mean.tolist() == [0.75, 0.75]


def test_fit_forgets_and_partial_fit_goes_on() -> None:
    norm = InputNorm(3).fit(ROWS * 100)
    assert_close(norm.fit(ROWS).mean, InputNorm(3).fit(ROWS).mean, rtol=0, atol=0)
    parts = InputNorm(3)
    for chunk in _chunks(5):
        assert parts.partial_fit(chunk) is parts
    np.testing.assert_allclose(parts.mean, ROWS.mean(0), rtol=1e-14)
    np.testing.assert_allclose(parts.std, ROWS.std(0), rtol=1e-10)


def test_fit_may_go_on_from_a_saved_state() -> None:
    first = InputNorm(3).fit(ROWS[:10])
    second = InputNorm(3)
    second.load_state_dict(first.state_dict(), strict=True)
    second.partial_fit(ROWS[10:])
    np.testing.assert_allclose(second.std, ROWS.std(0), rtol=1e-10)


def test_float32_data_of_large_mean_lose_nothing() -> None:
    rows = np.random.default_rng(1).normal(1e7, 1, (5000, 2)).astype(np.float32)
    norm = InputNorm(2).fit(rows)
    np.testing.assert_allclose(norm.std, rows.astype(np.float64).std(0), rtol=1e-12)


def test_data_longer_than_a_chunk_are_learnt_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchnorm.nn.input_norm._CHUNK", 10)
    np.testing.assert_allclose(InputNorm(3).fit(ROWS).std, ROWS.std(0), rtol=1e-10)
    np.testing.assert_allclose(InputNorm(3).fit(ROWS, sample_weight=LABELS).mean, np.average(ROWS, 0, LABELS))


def test_forward_standardizes_and_inverse_undoes_it() -> None:
    norm = InputNorm(3).fit(ROWS)
    y = norm(torch.from_numpy(ROWS))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(y.std(0, correction=0), 1, rtol=1e-10)
    np.testing.assert_allclose(norm.inverse(y), ROWS, rtol=1e-14)


def test_eps_is_added_to_the_variance_inside_the_root() -> None:
    norm = InputNorm(3, eps=0.5).fit(ROWS)
    np.testing.assert_allclose(norm.std, np.sqrt(ROWS.var(0) + 0.5))
    np.testing.assert_allclose(norm.variance, ROWS.var(0))
    np.testing.assert_allclose(norm(torch.from_numpy(ROWS)), (ROWS - ROWS.mean(0)) / np.sqrt(ROWS.var(0) + 0.5))
    np.testing.assert_allclose(norm.inverse(norm(torch.from_numpy(ROWS))), ROWS, rtol=1e-13)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -1e7 - 0.1, 1e-300])
def test_constant_feature_maps_to_0_whatever_comes_later(constant: float, eps: float) -> None:
    rows = np.column_stack([np.full(1001, constant), np.arange(1001)])
    for data in (rows, [rows[:7], rows[7:300], rows[300:]], rows[:1]):
        norm = InputNorm(2, eps=eps).fit(data)
        assert norm.std[0] == norm.variance[0] == 0
        later = torch.tensor([[constant, 1.0], [5.0, 2.0], [-1e30, 3.0]], dtype=torch.float64)
        assert (norm(later)[:, 0] == 0).all()
        assert (norm.inverse(norm(later))[:, 0] == constant).all()


def test_constant_feature_maps_even_infinity_to_0() -> None:
    norm = InputNorm(1).fit([[5.0], [5.0]])
    assert norm(torch.tensor([[math.inf], [-math.inf], [5.0]])).tolist() == [[0.0], [0.0], [0.0]]


def test_nan_is_ignored_in_fitting_and_stays_in_normalizing() -> None:
    holes = ROWS.copy()
    holes[::5, 0] = holes[3, 2] = np.nan
    for data in (holes, [holes[:9], holes[9:]], torch.from_numpy(holes).float()):
        norm = InputNorm(3).fit(data)
        np.testing.assert_allclose(norm.mean, np.nanmean(holes, 0), rtol=1e-6)
        np.testing.assert_allclose(norm.std, np.nanstd(holes, 0), rtol=1e-2 if isinstance(data, Tensor) else 1e-10)
        assert norm.count.tolist() == [19, 24, 23]
        assert torch.equal(norm(torch.from_numpy(holes)).isnan(), torch.from_numpy(np.isnan(holes)))


def test_feature_of_nan_alone_counts_nothing() -> None:
    norm = InputNorm(2).fit([[math.nan, 1.0], [math.nan, 3.0]])
    assert norm.count.tolist() == [0, 2]
    assert norm.std.tolist() == [0, 1]
    norm.partial_fit([[7.0, 2.0], [9.0, 2.0]])
    assert norm.mean.tolist() == [8, 2]


def test_sample_weight_counts_rows_as_often_as_it_says() -> None:
    norm = InputNorm(3).fit(ROWS, sample_weight=LABELS % 3)
    repeated = np.repeat(ROWS, LABELS % 3, axis=0)
    np.testing.assert_allclose(norm.mean, repeated.mean(0))
    np.testing.assert_allclose(norm.std, repeated.std(0))
    fractions = InputNorm(3).fit(ROWS, sample_weight=(LABELS % 3) / 7)
    np.testing.assert_allclose(fractions.std, repeated.std(0))


IMAGES = np.random.default_rng(2).normal(size=(5, 3, 4, 6)) * np.arange(1, 4)[:, None, None] + 7

AXES: list[tuple[Any, Any, tuple[int, ...]]] = [
    # features, axis, the axes of IMAGES that are averaged over
    (6, None, (0, 1, 2)),
    (6, -1, (0, 1, 2)),
    (6, 3, (0, 1, 2)),
    (3, 1, (0, 2, 3)),
    (3, -3, (0, 2, 3)),
    (5, 0, (1, 2, 3)),
    ((3,), (1,), (0, 2, 3)),
    ((4, 6), None, (0, 1)),
    ((3, 4, 6), None, (0,)),
    ((3, 6), (1, 3), (0, 2)),
    ((3, 6), (1, -1), (0, 2)),
    ((3, 4), (-3, 2), (0, 3)),
]


@pytest.mark.parametrize(("features", "axis", "averaged"), AXES, ids=str)
def test_features_may_be_at_any_axis_or_axes(features: Any, axis: Any, averaged: tuple[int, ...]) -> None:
    norm = InputNorm(features, axis=axis).fit(IMAGES)
    mean, std = IMAGES.mean(averaged), IMAGES.std(averaged)
    np.testing.assert_allclose(norm.mean, mean)
    np.testing.assert_allclose(norm.std, std)
    expected = (IMAGES - IMAGES.mean(averaged, keepdims=True)) / IMAGES.std(averaged, keepdims=True)
    np.testing.assert_allclose(norm(torch.from_numpy(IMAGES)), expected, atol=1e-12)
    np.testing.assert_allclose(norm.inverse(norm(torch.from_numpy(IMAGES))), IMAGES)


@pytest.mark.parametrize(("features", "axis"), [((6, 3), (3, 1)), ((6, 3), (-1, -3)), ((4, 6, 3), (2, 3, 1))], ids=str)
def test_axes_may_come_in_another_order_than_the_inputs(features: Any, axis: Any) -> None:
    """The features' own order is that of `axis`: mean[i, j] belongs to index i of the first axis, j of the second."""
    norm = InputNorm(features, axis=axis).fit(IMAGES)
    straight = InputNorm(tuple(sorted(features, key=IMAGES.shape.index)), axis=tuple(sorted(a % 4 for a in axis)))
    straight.fit(IMAGES)
    order = np.argsort(np.argsort([a % 4 for a in axis]))
    np.testing.assert_allclose(norm.mean, straight.mean.permute(*order.tolist()))
    images = torch.from_numpy(IMAGES)
    np.testing.assert_allclose(norm(images), straight(images), atol=1e-12)
    np.testing.assert_allclose(norm.inverse(norm(images)), IMAGES)
    weighted = [n.fit(IMAGES, sample_weight=np.arange(5))(images) for n in (norm, straight)]
    np.testing.assert_allclose(weighted[0], weighted[1], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_output_has_the_inputs_dtype(dtype: torch.dtype) -> None:
    norm = InputNorm(3).fit(ROWS)
    y = norm(torch.from_numpy(ROWS).to(dtype))
    assert y.dtype == norm.inverse(y).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
def test_output_of_integers_has_the_default_dtype(dtype: torch.dtype) -> None:
    norm = InputNorm(2).fit([[0.0, 0.0], [1.0, 1.0]])
    assert norm(torch.tensor([[0, 1]]).to(dtype)).tolist() == [[-1.0, 1.0]]
    assert norm(torch.tensor([[0, 1]]).to(dtype)).dtype == torch.float32


CASTS: list[Callable[[nn.Module], nn.Module]] = [
    lambda m: m.half(),
    lambda m: m.bfloat16(),
    lambda m: m.float(),
    lambda m: m.to(torch.float16),
    lambda m: m.double().half(),
    lambda m: m.cpu(),
]


@pytest.mark.parametrize("cast", CASTS)
def test_state_stays_float64_with_all_its_digits_whatever_the_model_becomes(
    cast: Callable[[nn.Module], nn.Module],
) -> None:
    norm = InputNorm(3).fit(ROWS)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    network = cast(nn.Sequential(norm, nn.Linear(3, 2)))
    assert network[0] is norm
    assert {value.dtype for value in norm.state_dict().values()} == {torch.float64}
    assert_close(dict(norm.state_dict()), before, rtol=0, atol=0)
    assert norm.mean.dtype == norm.std.dtype == torch.float64
    x = torch.from_numpy(ROWS).to(network[1].weight.dtype)
    assert network(x).dtype == x.dtype


def test_state_is_kept_by_copies_and_state_dicts() -> None:
    norm = InputNorm(3, eps=0.1).fit(ROWS)
    assert list(norm.state_dict()) == ["anchor", "shift", "count", "m2"]
    loaded = InputNorm(3, eps=0.1)
    loaded.load_state_dict(norm.state_dict(), strict=True)
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm)), loaded):
        assert_close(twin(torch.from_numpy(ROWS)), norm(torch.from_numpy(ROWS)), rtol=0, atol=0)
        assert repr(twin) == repr(norm) == "InputNorm(3, axis=(-1,), eps=0.1)"
    assert repr(InputNorm((1, 28, 28))) == "InputNorm((1, 28, 28), axis=(-3, -2, -1), eps=0.0)"


def test_mean_and_std_print_as_the_constants_of_a_transform() -> None:
    norm = InputNorm(2).fit([[1.0, 0.0], [3.0, 10.0]])
    assert (norm.mean.tolist(), norm.std.tolist()) == ([2.0, 5.0], [1.0, 5.0])
    assert str(norm.std) == "tensor([1., 5.], dtype=torch.float64)"
    twin = InputNorm.from_constants(norm.mean, norm.std)
    x = torch.randn(4, 2)
    assert_close(twin(x), norm(x))


def test_it_has_no_parameters_and_lets_gradients_through() -> None:
    norm = InputNorm(3).fit(ROWS)
    assert list(norm.parameters()) == []
    x = torch.from_numpy(ROWS).requires_grad_()
    norm(x).sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(1 / ROWS.std(0), ROWS.shape), rtol=1e-10)
    assert torch.autograd.gradcheck(norm, (x,))


def test_it_works_under_vmap_and_compile() -> None:
    norm = InputNorm(3).fit(ROWS)
    x = torch.from_numpy(ROWS)
    assert_close(torch.func.vmap(norm)(x), norm(x))
    torch._dynamo.reset()
    assert_close(torch.compile(norm, backend="aot_eager", fullgraph=True)(x), norm(x))
    torch._dynamo.reset()


def test_size_0_goes_through() -> None:
    norm = InputNorm(3).fit(ROWS)
    assert norm(torch.empty(0, 3)).shape == (0, 3)
    nothing = InputNorm(0).fit(np.empty((4, 0)))
    assert nothing(torch.empty(2, 0)).shape == (2, 0)


# Errors


def raised(kind: type[Exception], text: str) -> Any:
    return pytest.raises(kind, match=f"^{re.escape(text)}$")


def _failing() -> Iterator[np.ndarray]:
    yield ROWS[:10] * 1000
    yield ROWS[10:] * 1000
    raise OSError("the file ends here")


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (_failing, OSError),
        (lambda: [ROWS, ROWS[:, :2]], ValueError),
        (lambda: [ROWS, [["word"] * 3]], TypeError),
        (lambda: [ROWS, np.full((2, 3), np.inf)], ValueError),
        (list, ValueError),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_source_that_fails_midway_leaves_the_state_as_it_was(method: str, bad: Any, kind: type[Exception]) -> None:
    norm = InputNorm(3).fit(ROWS)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with pytest.raises(kind):
        getattr(norm, method)(bad())
    assert_close(dict(norm.state_dict()), before, rtol=0, atol=0)


def test_normalizing_before_fitting_is_refused() -> None:
    text = "InputNorm has no statistics yet: call fit(training_data) or load a state_dict first"
    for call in (InputNorm(3), InputNorm(3).inverse):
        with raised(RuntimeError, text):
            call(torch.ones(2, 3))


def test_features_of_another_number_are_refused() -> None:
    norm = InputNorm(3).fit(ROWS)
    text = "InputNorm expected features (3,) at axis (-1,), got (4,) in input (2, 4)"
    for call in (norm, norm.inverse, norm.fit):
        with raised(ValueError, text):
            call(torch.ones(2, 4))
    with raised(ValueError, "InputNorm expected features (3, 4) at axis (-2, -1), got input (3,)"):
        InputNorm((3, 4)).fit(torch.ones(3))
    with raised(ValueError, "InputNorm expected features (3,) at axis (1,), got input (3,)"):
        InputNorm(3, axis=1).fit(torch.ones(3))


def test_data_without_rows_are_refused() -> None:
    for nothing in (np.empty((0, 3)), [], [ROWS[:0], ROWS[:0]]):
        with raised(ValueError, "InputNorm.fit expected at least one row, got none"):
            InputNorm(3).fit(nothing)
    with raised(ValueError, "InputNorm.fit expected at least one axis besides the features (3,), got (3,)"):
        InputNorm(3).fit(torch.ones(3))


def test_data_that_are_no_numbers_are_refused() -> None:
    with raised(TypeError, "InputNorm.fit expected numbers, got an array of <U4"):
        InputNorm(1).fit(np.array([["word"]]))
    with raised(TypeError, "InputNorm.fit expected numbers, got an array of object"):
        InputNorm(1).fit(np.array([[None]]))
    with raised(TypeError, "InputNorm.fit expected real numbers, got complex ones"):
        InputNorm(1).fit(torch.ones(2, 1, dtype=torch.complex64))
    with raised(TypeError, "InputNorm.fit expected an array, a tensor or an iterable of batches, got int"):
        InputNorm(1).fit(5)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e200])
def test_infinite_values_are_refused_by_the_features_number(bad: float) -> None:
    rows = ROWS.copy()
    rows[3, 1] = bad
    with raised(
        ValueError, "InputNorm.fit: feature [1] holds infinite values or overflows float64; leave such rows out"
    ):
        InputNorm(3).fit(rows)


@pytest.mark.parametrize(
    "weight",
    [np.ones(5), -np.ones(24), np.ones((24, 1)), np.full(24, np.nan)],
    ids=["few", "negative", "column", "nan"],
)
def test_sample_weight_that_does_not_fit_is_refused(weight: np.ndarray) -> None:
    with raised(ValueError, f"sample_weight expected 24 numbers >= 0, got shape {weight.shape}"):
        InputNorm(3).fit(ROWS, sample_weight=weight)


def test_sample_weight_with_batches_is_refused() -> None:
    with raised(ValueError, "InputNorm.fit expected one array with sample_weight, got an iterable of batches"):
        InputNorm(3).fit(_chunks(5), sample_weight=np.ones(24))


@pytest.mark.parametrize("eps", [-1.0, math.nan])
def test_eps_that_is_no_number_above_0_is_refused(eps: float) -> None:
    with raised(ValueError, f"InputNorm eps expected a number >= 0, got {eps}"):
        InputNorm(3, eps=eps)


@pytest.mark.parametrize(
    ("features", "axis"), [(3, (1, 2)), ((3, 4), 1), ((3, 4), (1, 1)), ((3, 4), (1, 2, 3))], ids=str
)
def test_axes_that_do_not_fit_the_features_are_refused(features: Any, axis: Any) -> None:
    rank = 1 if isinstance(features, int) else len(features)
    with raised(ValueError, f"InputNorm expected one axis for each of {rank} feature dimensions, got axis={axis}"):
        InputNorm(features, axis=axis)


def test_axes_that_meet_in_the_input_are_refused() -> None:
    """1 and -1 are two axes of an image but one of a table."""
    with pytest.raises(ValueError, match="InputNorm expected"):
        InputNorm((3, 3), axis=(1, -1)).fit(ROWS)


def test_negative_number_of_features_is_refused() -> None:
    with raised(ValueError, "InputNorm expected a number of features or their shape, got -1"):
        InputNorm(-1)


@pytest.mark.parametrize(("mean", "std"), [([0.0], [1.0, 2.0]), ([0.0], [-1.0]), ([0.0], [math.nan])], ids=str)
def test_constants_that_do_not_fit_are_refused(mean: list[float], std: list[float]) -> None:
    with raised(ValueError, f"InputNorm expected mean and std >= 0 of one shape, got ({len(mean)},), ({len(std)},)"):
        InputNorm.from_constants(mean, std)
