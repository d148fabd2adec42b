"""Where the layers are better than torch.nn's: each law here holds for ours, and is seen to fail for torch's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import batchnorm
from batchnorm.errors import StatisticsWarning
from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm1d, BatchNorm2d

Layer = type[nn.Module]

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "(N, C)": lambda rows: rows,
    "(N, C, L)": lambda rows: rows.view(100, -1, 4).transpose(1, 2).contiguous(),
    "NCHW": lambda rows: rows.view(100, 100, -1, 4).permute(0, 3, 1, 2).contiguous(),
    "channels-last": lambda rows: rows.view(100, 100, -1, 4).permute(0, 3, 1, 2),
    "NCDHW": lambda rows: rows.view(100, 10, 10, -1, 4).permute(0, 4, 1, 2, 3).contiguous(),
    "volumes channels-last": lambda rows: rows.view(100, 10, 10, -1, 4).permute(0, 4, 1, 2, 3),
}


def of_rank(home: object, rank: int) -> Layer:
    return getattr(home, {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}[rank])


def fails_for_torch(law: Callable[[Layer], None]) -> None:
    """The law holds for ours and, so that it means something, does not hold for torch's."""
    law(BatchNorm1d)
    with pytest.raises(AssertionError):
        law(nn.BatchNorm1d)


# A channel that is not finite keeps its running values


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_channel_that_is_not_finite_keeps_its_running_values(bad: float, momentum: float | None) -> None:
    """The variance of values around 1e30 overflows float32, though the values do not."""

    def law(build: Layer) -> None:
        layer = build(3, momentum=momentum)
        good = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 5
        layer(good)
        before = layer.running_mean.clone(), layer.running_var.clone()
        x = good + 1
        x[2, 1] = bad
        layer(x)
        assert torch.isfinite(layer.running_mean).all()
        assert torch.isfinite(layer.running_var).all()
        assert (layer.running_mean[1], layer.running_var[1]) == (before[0][1], before[1][1])
        assert (layer.running_mean[[0, 2]] != before[0][[0, 2]]).all()
        assert int(layer.num_batches_tracked) == 2
        assert torch.isfinite(layer.eval()(good)).all()

    fails_for_torch(law)


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_other_channels_move_as_if_the_bad_one_were_good() -> None:
    good = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[0, 1] = math.nan
    layer, other = BatchNorm1d(3), BatchNorm1d(3)
    layer(bad)
    other(good)
    assert_close(layer.running_mean[[0, 2]], other.running_mean[[0, 2]])
    assert_close(layer.running_var[[0, 2]], other.running_var[[0, 2]])


def test_refusal_is_said_once_with_layer_and_channels() -> None:
    layer, x = BatchNorm2d(5), torch.zeros(2, 5, 2, 2)
    x[:, 1], x[0, 3, 1, 1] = math.nan, math.inf
    expected = (
        "BatchNorm2d(5): the batch mean or variance of 2 of 5 channels is not finite; their running statistics were "
        "kept (channels 1, 3). Look for NaN, inf or overflow in what enters the layer."
    )
    with pytest.warns(StatisticsWarning) as said:
        layer(x)
    assert [str(w.message) for w in said] == [expected]
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)  # said already
    with pytest.warns(StatisticsWarning):
        BatchNorm2d(5)(x)  # another layer says so itself


def test_refusal_of_many_channels_names_the_first_eight() -> None:
    with pytest.warns(StatisticsWarning, match=r"100 of 100 channels .* \(channels 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\)"):
        BatchNorm1d(100)(torch.full((4, 100), math.nan))


def test_function_says_it_too_and_keeps_the_values() -> None:
    mean, var = torch.zeros(2), torch.ones(2)
    x = torch.tensor([[1.0, math.inf], [2.0, 3.0]])
    with pytest.warns(StatisticsWarning, match="batch_norm: the batch mean or variance of 1 of 2 channels") as said:
        batch_norm(x, mean, var, training=True)
    assert said[0].filename == __file__
    assert (mean[1].item(), var[1].item()) == (0.0, 1.0)
    assert mean[0].item() == pytest.approx(0.15)


def test_output_of_a_bad_channel_is_not_finite_as_in_torch() -> None:
    """What enters wrong leaves wrong: only the memory of it is refused."""
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    x[0, 0] = math.nan
    with pytest.warns(StatisticsWarning):
        y = BatchNorm1d(2)(x)
    assert torch.isfinite(y).tolist() == torch.isfinite(nn.BatchNorm1d(2)(x)).tolist() == [[False, True]] * 4


# Running statistics that arrive


def test_bfloat16_layer_with_a_small_momentum_reaches_the_mean() -> None:
    def law(build: Layer) -> None:
        layer = build(2, momentum=0.01).bfloat16()
        random = torch.Generator().manual_seed(0)
        for _ in range(1500):
            layer((torch.randn(64, 2, generator=random) + 10).bfloat16())
        assert_close(layer.running_mean.float(), torch.full((2,), 10.0), rtol=0, atol=0.05)

    fails_for_torch(law)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16], ids=str)
def test_statistics_stay_float32_under_a_cast(cast: torch.dtype) -> None:
    def law(build: Layer) -> None:
        layer = build(2).to(cast)
        assert (layer.running_mean.dtype, layer.running_var.dtype) == (torch.float32, torch.float32)

    fails_for_torch(law)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_running_variance_of_a_million_values_far_from_zero_is_right(layout: str) -> None:
    """(1e6, 4), mean 1000, std 1: torch's is wrong by a factor of 79 in (N, C), the layout of tables."""
    rows = np.random.default_rng(0).normal(1000, 1, (1_000_000, 4)).astype(np.float32)
    exact = rows.astype(np.float64).var(0, ddof=1)
    x = LAYOUTS[layout](torch.from_numpy(rows))
    layer = of_rank(batchnorm, x.dim())(4, momentum=1.0)
    with torch.no_grad():
        layer(x)
    np.testing.assert_allclose(layer.running_var.numpy(), exact, rtol=1e-6)
    np.testing.assert_allclose(layer.running_mean.numpy(), rows.astype(np.float64).mean(0), rtol=1e-7)


def test_running_variance_of_a_million_rows_is_wrong_in_torch() -> None:
    rows = np.random.default_rng(0).normal(1000, 1, (1_000_000, 4)).astype(np.float32)
    layer = nn.BatchNorm1d(4, momentum=1.0)
    with torch.no_grad():
        layer(torch.from_numpy(rows))
    assert abs(layer.running_var / 1.0 - 1).max() > 0.5


def test_output_far_from_zero_is_right() -> None:
    def law(build: Layer) -> None:
        rows = np.random.default_rng(0).normal(1e7, 1, (1000, 3)).astype(np.float32)
        wide = rows.astype(np.float64)
        exact = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
        y = build(3)(torch.from_numpy(rows))
        np.testing.assert_allclose(y.detach().numpy(), exact, rtol=0, atol=1e-6)

    fails_for_torch(law)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1234.567, -7.7])
def test_constant_channel_gives_exactly_the_bias(value: float) -> None:
    def law(build: Layer) -> None:
        layer = build(1)
        with torch.no_grad():
            layer.bias.fill_(0.3)
        for rows in (3, 7, 100, 1001):
            assert (layer(torch.full((rows, 1), value)) == layer.bias).all()

    fails_for_torch(law)


# Batches that are counted once, or not at all


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_activation_checkpointing_updates_once(momentum: float | None, use_reentrant: bool) -> None:
    def law(build: Layer) -> None:
        plain, checkpointed = (nn.Sequential(build(3, momentum=momentum), nn.Tanh()) for _ in range(2))
        runs = (plain, lambda x: checkpoint(checkpointed, x, use_reentrant=use_reentrant))
        inputs = []
        for run in runs:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
            run(x).pow(2).sum().backward()
            inputs.append(x)
        assert_close(inputs[1].grad, inputs[0].grad)
        assert_close([p.grad for p in checkpointed.parameters()], [p.grad for p in plain.parameters()])
        assert_close(dict(checkpointed.state_dict()), dict(plain.state_dict()))
        assert int(checkpointed[0].num_batches_tracked) == 1

    fails_for_torch(law)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_nested_checkpoints_update_once(use_reentrant: bool) -> None:
    inner, outer = BatchNorm1d(3), BatchNorm1d(3)

    def block(x: Tensor) -> Tensor:
        return outer(checkpoint(inner, x, use_reentrant=use_reentrant).sin())

    checkpoint(block, torch.randn(8, 3, requires_grad=True), use_reentrant=use_reentrant).sum().backward()
    assert int(inner.num_batches_tracked) == int(outer.num_batches_tracked) == 1


def test_training_steps_between_backward_passes_still_update() -> None:
    layer = BatchNorm1d(3)
    for _ in range(3):
        layer(torch.randn(8, 3)).sum().backward()
    assert int(layer.num_batches_tracked) == 3


def test_empty_batch_is_no_batch_in_the_plain_average() -> None:
    def law(build: Layer) -> None:
        layer = build(2, momentum=None)
        layer(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        layer(torch.empty(0, 2))
        assert_close(layer.running_mean, torch.tensor([2.0, 4.0]))
        assert int(layer.num_batches_tracked) == 1

    fails_for_torch(law)


def test_refused_batch_is_not_counted() -> None:
    def law(build: Layer) -> None:
        layer = build(2)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            layer(torch.ones(1, 2))
        assert int(layer.num_batches_tracked) == 0

    fails_for_torch(law)
