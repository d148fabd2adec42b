"""What is refused, in which words, and that a batch that is refused leaves no trace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import batchnorm
from batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.functional import batch_norm

NAMES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
ONE_VALUE = {"BatchNorm1d": [(1, 3), (1, 3, 1)], "BatchNorm2d": [(1, 3, 1, 1)], "BatchNorm3d": [(1, 3, 1, 1, 1)]}

each_name = pytest.mark.parametrize("name", NAMES)


def error_of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is what is asked for
        call()
    return caught.value


def assert_same_error(ours: Callable[[], object], torchs: Callable[[], object]) -> None:
    expected, found = error_of(torchs), error_of(ours)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


def state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@each_name
def test_wrong_number_of_dimensions_is_torchs_error_word_for_word(name: str, training: bool) -> None:
    right = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,)}[name]
    for rank in range(7):
        if rank in right:
            continue
        x = torch.ones((2, 3, 4, 2, 2, 2)[:rank])
        layer, torchs = (getattr(home, name)(3).train(training) for home in (batchnorm, nn))
        before = state(layer)
        assert_same_error(lambda f=layer, x=x: f(x), lambda f=torchs, x=x: f(x))
        assert_close(state(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False])
@each_name
def test_one_value_per_channel_is_torchs_error_word_for_word(name: str, track: bool, momentum: float | None) -> None:
    for shape in ONE_VALUE[name]:
        x = torch.ones(shape)
        settings: dict[str, Any] = {"momentum": momentum, "track_running_stats": track}
        layer, torchs = (getattr(home, name)(3, **settings) for home in (batchnorm, nn))
        before = state(layer)
        assert_same_error(lambda f=layer, x=x: f(x), lambda f=torchs, x=x: f(x))
        assert_close(state(layer), before, rtol=0, atol=0)
        if track:
            layer.eval()(x)  # test time needs no second value


def test_torch_counts_a_batch_that_it_refuses() -> None:
    """Not so here: `test_one_value_per_channel_is_torchs_error_word_for_word`."""
    torchs, layer = nn.BatchNorm1d(3), BatchNorm1d(3)
    for refusing in (torchs, layer):
        error_of(lambda f=refusing: f(torch.ones(1, 3)))
    assert int(torchs.num_batches_tracked) == 1
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_wrong_number_of_channels_says_what_was_expected_and_holds_torchs_words(
    settings: dict[str, Any], training: bool
) -> None:
    shapes = {BatchNorm1d: [(8, 5), (8, 5, 7)], BatchNorm2d: [(8, 5, 7, 7)], BatchNorm3d: [(8, 5, 2, 7, 7)]}
    for build, given in shapes.items():
        for shape in given:
            layer = build(3, **settings).train(training)
            torchs = getattr(nn, build.__name__)(3, **settings).train(training)
            before, x = state(layer), torch.ones(shape)
            expected, found = error_of(lambda f=torchs, x=x: f(x)), error_of(lambda f=layer, x=x: f(x))
            assert type(found) is type(expected) is RuntimeError
            assert str(expected) in str(found)
            assert_close(state(layer), before, rtol=0, atol=0)


def test_wrong_number_of_channels_names_layer_shape_and_cause() -> None:
    assert str(error_of(lambda: BatchNorm2d(64)(torch.ones(8, 32, 7, 7)))) == (
        "BatchNorm2d expected input (N, 64, H, W), got (8, 32, 7, 7): 32 channels where num_features=64 "
        "(running_mean should contain 32 elements not 64)"
    )
    for layer, shape, expected in (
        (BatchNorm1d(64), (8, 32), "BatchNorm1d expected input (N, 64), got (8, 32)"),
        (BatchNorm1d(64), (8, 32, 4), "BatchNorm1d expected input (N, 64, L), got (8, 32, 4)"),
        (BatchNorm3d(64), (8, 32, 4, 4, 4), "BatchNorm3d expected input (N, 64, D, H, W), got (8, 32, 4, 4, 4)"),
    ):
        assert str(error_of(lambda f=layer, s=shape: f(torch.ones(s)))).startswith(expected + ": 32 channels")


def test_channels_do_not_matter_where_nothing_depends_on_them() -> None:
    settings = {"affine": False, "track_running_stats": False}
    x = torch.randn(4, 7)
    assert_close(BatchNorm1d(3, **settings)(x), nn.BatchNorm1d(3, **settings)(x))


def test_channel_is_missed_before_a_batch_of_one_value() -> None:
    """torch looks at the number of values first; so do we."""
    assert_same_error(lambda: BatchNorm1d(3)(torch.ones(1, 5)), lambda: nn.BatchNorm1d(3)(torch.ones(1, 5)))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan, math.inf, 9])
@each_name
def test_momentum_outside_0_and_1_is_refused_by_layers(name: str, momentum: float) -> None:
    assert str(error_of(lambda: getattr(batchnorm, name)(3, momentum=momentum))) == (
        f"{name} momentum expected a number in [0, 1], the weight of the new batch, or None for the plain average; "
        f"got {momentum}"
    )


@pytest.mark.parametrize("eps", [-1e-5, math.nan, math.inf, -math.inf])
@each_name
def test_eps_that_is_negative_or_no_number_is_refused_by_layers(name: str, eps: float) -> None:
    found = error_of(lambda: getattr(batchnorm, name)(3, eps))
    assert type(found) is ValueError
    assert str(found) == f"{name} eps must be positive (0 only for evaluation), got {eps}: 1e-5 is usual"


@each_name
def test_eps_of_0_is_refused_in_training_and_serves_in_evaluation(name: str) -> None:
    layer, x = (
        getattr(batchnorm, name)(3, eps=0.0),
        torch.randn(ONE_VALUE[name][-1]).expand(4, 3, *ONE_VALUE[name][-1][2:]),
    )
    before = state(layer)
    found = error_of(lambda: layer(x))
    assert type(found) is ValueError
    assert str(found) == "batch_norm eps must be positive during training, but got 0.0"
    assert_close(state(layer), before, rtol=0, atol=0)
    assert_close(layer.eval()(x), getattr(nn, name)(3, eps=0.0).eval()(x))


def test_unknown_activation_is_refused_by_layer_and_function() -> None:
    text = "activation expected one of relu, leaky_relu, sigmoid, tanh, gelu, silu, or None; got 'softmax'"
    assert str(error_of(lambda: BatchNorm1d(3, activation="softmax"))) == text
    assert str(error_of(lambda: batch_norm(torch.ones(4, 3), None, None, training=True, activation="softmax"))) == text


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (4,), (4, 3, 1)], ids=str)
def test_residual_of_another_shape_is_refused_and_changes_nothing(shape: tuple[int, ...]) -> None:
    layer = BatchNorm1d(3)
    before = state(layer)
    found = error_of(lambda: layer(torch.randn(4, 3), residual=torch.ones(shape)))
    assert type(found) is ValueError
    assert str(found) == f"residual expected the input's shape (4, 3), got {shape}"
    assert_close(state(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "bad", [torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 3, dtype=torch.complex64)], ids=["int", "complex"]
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_input_that_is_not_floating_is_torchs_error(bad: Tensor, training: bool) -> None:
    layer, torchs = BatchNorm1d(3).train(training), nn.BatchNorm1d(3).train(training)
    before = state(layer)
    assert_same_error(lambda: layer(bad), lambda: torchs(bad))
    assert_close(state(layer), before, rtol=0, atol=0)


FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("x", FLOATS, ids=str)
@pytest.mark.parametrize("parameters", FLOATS, ids=str)
@pytest.mark.parametrize("statistics", FLOATS, ids=str)
def test_mixture_of_dtypes_is_taken_or_refused_as_torch_does(
    x: torch.dtype, parameters: torch.dtype, statistics: torch.dtype, training: bool
) -> None:
    """Ours take one mixture more: narrow parameters with running statistics in float32, as .half() leaves a layer."""
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def call(function: Callable[..., Tensor]) -> tuple[str, str]:
        running = [torch.zeros(3, dtype=statistics), torch.ones(3, dtype=statistics)]
        affine = [torch.ones(3, dtype=parameters), torch.zeros(3, dtype=parameters)]
        try:
            y = function(values.to(x), *running, *affine, training=training)
        except Exception as error:
            return type(error).__name__, str(error)
        return str(y.dtype), str(running[0].dtype)

    more = x == parameters and x in (torch.bfloat16, torch.float16) and statistics == torch.float32
    expected = call(nn.functional.batch_norm)
    found = call(batch_norm)
    assert found == expected or (more and found == (str(x), "torch.float32"))


def _missing() -> list[tuple[Any, ...]]:
    return list(itertools.product([True, False], repeat=3))


@pytest.mark.parametrize(("has_mean", "has_var", "training"), _missing())
def test_missing_statistics_are_taken_or_refused_as_torch_does(has_mean: bool, has_var: bool, training: bool) -> None:
    x = torch.randn(4, 3)
    outcomes = []
    for function in (batch_norm, nn.functional.batch_norm):
        mean, var = torch.zeros(3) if has_mean else None, torch.ones(3) if has_var else None
        try:
            outcomes.append(function(x, mean, var, training=training).numpy().round(4).tolist())
        except Exception as error:
            outcomes.append((type(error).__name__, str(error)))
        outcomes.append(None if mean is None else mean.numpy().round(4).tolist())
    assert outcomes[:2] == outcomes[2:]


@pytest.mark.parametrize("momentum", [-0.5, 1.5, 7.0])
def test_function_takes_momentum_outside_0_and_1_as_torch_does(momentum: float) -> None:
    x = torch.randn(6, 3)
    mine, theirs = (([torch.zeros(3), torch.ones(3)]) for _ in range(2))
    batch_norm(x, *mine, training=True, momentum=momentum)
    nn.functional.batch_norm(x, *theirs, training=True, momentum=momentum)
    assert_close(mine, theirs)


@pytest.mark.parametrize("eps", [0.0, -1e-5, -1.0])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_function_takes_or_refuses_eps_as_torch_does(eps: float, training: bool) -> None:
    x = torch.randn(6, 3)
    outcomes = []
    for function in (batch_norm, nn.functional.batch_norm):
        running = [torch.zeros(3), torch.ones(3)]
        try:
            outcomes.append(function(x, *running, training=training, eps=eps).numpy().round(5).tolist())
        except Exception as error:
            outcomes.append((type(error).__name__, str(error)))
        outcomes.append([r.tolist() for r in running] if isinstance(outcomes[-1], tuple) else None)
    assert outcomes[:2] == outcomes[2:]


@pytest.mark.parametrize("wrong", ["mean", "var", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_function_refuses_wrong_sizes_in_torchs_words_and_updates_nothing(wrong: str, training: bool) -> None:
    def call(function: Callable[..., Tensor]) -> list[Tensor]:
        given = {name: torch.ones(4 if name == wrong else 3) for name in ("mean", "var", "weight", "bias")}
        error = error_of(lambda: function(torch.randn(5, 3), *given.values(), training=training))
        texts.append((type(error), str(error)))
        return list(given.values())

    texts: list[tuple[type, str]] = []
    for tensor in call(batch_norm):
        assert torch.equal(tensor, torch.ones_like(tensor))
    call(nn.functional.batch_norm)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("shape", [(5,), (2, 1), (5, 3), (5, 1, 1)])
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights expected shape \(5, 1\) for input \(5, 3\), got"):
        BatchNorm1d(3).forward_weighted(torch.randn(5, 3), torch.ones(shape))
