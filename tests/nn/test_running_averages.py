"""debias= and half_life(): what the running statistics are averages of.

The oracle averages the batches' statistics in NumPy with the weights written out.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from batchnorm.kernels import choice
from batchnorm.nn import BatchNorm1d, BatchNorm2d, half_life

pytestmark = pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")


@pytest.fixture(params=["auto", "spec"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    with choice.using(request.param):
        yield request.param


def batches(number: int, *, channels: int = 3, seed: int = 0) -> list[Tensor]:
    """Batches of 6 rows whose means drift."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, channels, generator=generator, dtype=torch.float64) * (i + 1) + i for i in range(number)]


def averaged(values: list[np.ndarray], momentum: float) -> np.ndarray:
    """Exponential weights over the batches alone, latest heaviest, over their sum."""
    weights = (1 - momentum) ** np.arange(len(values))[::-1]
    return np.tensordot(weights / weights.sum(), np.stack(values), 1)


def expected(seen: list[Tensor], momentum: float) -> tuple[np.ndarray, np.ndarray]:
    arrays = [x.numpy() for x in seen]
    return (
        averaged([a.mean(0) for a in arrays], momentum),
        averaged([a.var(0, ddof=1) for a in arrays], momentum),
    )


def check(layer: nn.Module, seen: list[Tensor], momentum: float, *, rtol: float = 1e-12) -> None:
    mean, variance = expected(seen, momentum)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(layer.running_var, variance, rtol=rtol)


@pytest.mark.parametrize("momentum", [0.1, 0.003, 0.9, 1.0])
def test_debiased_averages_are_of_batches_alone(kernels: str, momentum: float) -> None:
    layer = BatchNorm1d(3, momentum=momentum, dtype=torch.float64, debias=True)
    given = batches(30)
    for i, x in enumerate(given):
        layer(x)
        with np.errstate(divide="ignore"):
            check(layer, given[: i + 1], momentum)
    assert layer.num_batches_tracked == 30


def test_debiased_averages_of_float32_and_of_masked_batches(kernels: str) -> None:
    layer = BatchNorm1d(3, debias=True)
    mask = torch.tensor([True, True, False, True, True, True])
    for x in batches(5):
        layer(x.float(), mask=mask)
    check(layer, [x.float().double()[mask] for x in batches(5)], 0.1, rtol=1e-6)


def test_first_batch_is_taken_whole_and_without_debias_one_tenth_of_it() -> None:
    x = torch.full((4, 1), 50.0) + torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    debiased, usual = BatchNorm1d(1, debias=True), BatchNorm1d(1)
    debiased(x), usual(x)
    assert debiased.running_mean.item() == 50.0
    assert math.isclose(usual.running_mean.item(), 5.0, rel_tol=1e-6)
    assert math.isclose(usual.running_var.item(), 0.9 + 0.1 * 4 / 3, rel_tol=1e-6)


def test_plain_average_and_no_average_stay_what_they_are(kernels: str) -> None:
    for momentum in (None, 0.0):
        debiased, usual = (BatchNorm1d(3, momentum=momentum, debias=d, dtype=torch.float64) for d in (True, False))
        for x in batches(4):
            debiased(x), usual(x)
        assert_close(debiased.state_dict(), usual.state_dict(), rtol=0, atol=0)


def test_channel_that_refused_a_batch_does_not_count_it(kernels: str) -> None:
    """With the number of batches alone, a channel whose first batch was NaN would keep some of its initial values."""
    layer = BatchNorm1d(3, dtype=torch.float64, debias=True)
    given = batches(6)
    for i in (0, 3):
        given[i] = given[i].clone()
        given[i][2, 1] = math.nan
    for x in given:
        layer(x)
    for channel, seen in ((0, given), (1, [given[i] for i in (1, 2, 4, 5)])):
        mean, variance = expected([x[:, channel : channel + 1] for x in seen], 0.1)
        np.testing.assert_allclose(layer.running_mean[channel], mean[0], rtol=1e-12)
        np.testing.assert_allclose(layer.running_var[channel], variance[0], rtol=1e-12)


def test_wholly_masked_and_empty_batches_are_not_counted(kernels: str) -> None:
    layer = BatchNorm1d(3, dtype=torch.float64, debias=True)
    given = batches(3)
    layer(torch.empty(0, 3, dtype=torch.float64))
    for x in given:
        layer(x)
        layer(x, mask=torch.zeros(6, dtype=torch.bool))
    check(layer, given, 0.1)


def test_resumed_layer_equals_one_never_stopped(kernels: str) -> None:
    """The number of batches is all that the weights need: nothing that the state_dict lacks."""
    whole = BatchNorm1d(3, debias=True, dtype=torch.float64)
    for i, x in enumerate(batches(8)):
        if i == 3:
            resumed = BatchNorm1d(3, debias=True, dtype=torch.float64)
            resumed.load_state_dict(whole.state_dict())
            theirs = nn.BatchNorm1d(3, dtype=torch.float64)
            theirs.load_state_dict(whole.state_dict())
            assert_close(theirs.eval()(x), copy.deepcopy(whole).eval()(x))
        if i >= 3:
            resumed(x)
        whole(x)
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_changed_momentum_leaves_initial_values_without_a_share(kernels: str) -> None:
    """Statistics that started from 1e6 end as those that started from 0, whatever the momentum was when."""
    ended = []
    for start in (0.0, 1e6):
        layer = BatchNorm1d(3, debias=True, dtype=torch.float64)
        layer.running_mean.fill_(start), layer.running_var.fill_(start)
        for momentum, x in zip((0.1, 0.1, 0.01, 0.5, 0.001, 0.9), batches(6), strict=True):
            layer.momentum = momentum
            layer(x)
        ended.append(layer.state_dict())
    assert_close(ended[0], ended[1], rtol=1e-10, atol=0)


def test_reset_statistics_start_anew_after_a_refusal(kernels: str) -> None:
    """The batches refused before a reset were once taken off those counted after it: 1/0, statistics of inf."""
    for settings in ({"debias": True}, {"momentum": None}):
        layer = BatchNorm1d(3, dtype=torch.float64, **settings)
        bad = batches(1)[0].clone()
        bad[0, 0] = math.nan
        layer(bad)
        layer.reset_running_stats()
        given = batches(3)
        for x in given:
            layer(x)
        check(layer, given, 0.1 if "debias" in settings else 0.0)


def test_debiased_layer_goes_through_the_compiled_call(monkeypatch: pytest.MonkeyPatch) -> None:
    choice.current()
    call = choice.layer_call
    if call is None:
        pytest.skip("the layer's compiled call was not built")
    answers: list[Any] = []

    def watched(*arguments: Any) -> Any:
        answers.append(call(*arguments))
        return answers[-1]

    monkeypatch.setattr(choice, "layer_call", watched)
    layer = BatchNorm2d(3, debias=True)
    x = torch.randn(4, 3, 2, 2)
    layer(x), layer(x), layer.eval()(x)
    assert len(answers) == 3
    assert all(isinstance(answer, Tensor) for answer in answers)


def test_compiled_debiased_layer_equals_the_layer() -> None:
    layer = BatchNorm1d(3, debias=True)
    mirrored = copy.deepcopy(layer)
    compiled = torch.compile(mirrored, backend="aot_eager", fullgraph=True)
    for x in batches(3):
        assert_close(compiled(x.float()), layer(x.float()))
    assert_close(mirrored.state_dict(), layer.state_dict())


def test_debias_is_seen_kept_and_not_lost_in_conversion() -> None:
    layer = BatchNorm1d(3, debias=True)
    assert repr(layer).endswith("debias=True)")
    assert pickle.loads(pickle.dumps(layer)).debias
    assert not BatchNorm1d(3).debias
    with pytest.raises(ValueError, match=r"would drop debias=True of this BatchNorm1d: use batchnorm's SyncBatchNorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(layer)


@pytest.mark.parametrize("batches_", [0.25, 1, 6.5, 100, 1e6])
def test_weight_of_a_batch_halves_in_a_half_life(batches_: float) -> None:
    assert math.isclose((1 - half_life(batches_)) ** batches_, 0.5, rel_tol=1e-9)


def test_half_life_is_a_momentum_for_any_layer() -> None:
    """One batch of 8, then three of 0: after three half-lives of 1 there is an eighth of what it brought."""
    for kind in (BatchNorm1d, nn.BatchNorm1d):
        layer = kind(1, momentum=half_life(1))
        layer(torch.tensor([[15.0], [1.0]]))
        for _ in range(3):
            layer(torch.tensor([[1.0], [-1.0]]))
        assert math.isclose(layer.running_mean.item(), 8 / 2 / 8, rel_tol=1e-6)


@pytest.mark.parametrize("batches_", [0, -1, math.nan, math.inf])
def test_half_life_that_is_none_is_refused(batches_: float) -> None:
    with pytest.raises(ValueError, match=f"half_life expected a number of batches above 0, got {batches_}: "):
        half_life(batches_)


@pytest.mark.parametrize("batches_", ["100", None, True])
def test_half_life_of_no_number_is_refused(batches_: object) -> None:
    with pytest.raises(
        TypeError, match=f"half_life expected a number of batches above 0, got {type(batches_).__name__}"
    ):
        half_life(batches_)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
@pytest.mark.parametrize("settings", [{"momentum": None}, {"debias": True}], ids=str)
def test_a_graph_counts_what_its_channels_refuse(settings: dict[str, Any]) -> None:
    torch._dynamo.reset()
    eager, graph = BatchNorm1d(2, **settings), BatchNorm1d(2, **settings)
    run = torch.compile(graph, backend="aot_eager")
    bad = torch.tensor([[torch.nan, 1.0], [0.0, 5.0]])
    for x in (torch.randn(4, 2), bad, torch.randn(4, 2), bad, torch.randn(4, 2)):
        eager(x)
        run(x)
    assert_close(graph.running_mean, eager.running_mean)
    assert_close(graph.running_var, eager.running_var)
    x = torch.randn(4, 2)
    for layer in (eager, graph):  # a layer may leave its graph
        layer(x)
    assert_close(graph.running_mean, eager.running_mean)


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_a_layer_that_has_refused_batches_is_exported() -> None:
    layer = BatchNorm1d(2, momentum=None)
    layer(torch.tensor([[torch.nan, 1.0], [0.0, 5.0]]))
    refusals = copy.deepcopy(layer._refusals)
    x = torch.randn(4, 2)
    program = torch.export.export(nn.Sequential(layer), (x,))
    assert torch.equal(layer._refusals, refusals)
    assert_close(program.module()(x), layer(x))
