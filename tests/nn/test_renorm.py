"""Batch renormalization against Algorithm 1 of arXiv 1702.03275, in float64 and with torch's own derivatives."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import batchnorm
from batchnorm.kernels import choice
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchRenorm1d, BatchRenorm2d, BatchRenorm3d, Ramp

LAYERS = {2: BatchRenorm1d, 3: BatchRenorm1d, 4: BatchRenorm2d, 5: BatchRenorm3d}
SHAPES = [(6, 3), (4, 3, 5), (3, 3, 2, 4), (2, 3, 2, 1, 3)]
ACTIVATIONS = {None: lambda z: z, "relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(rank: int, **settings: Any) -> nn.Module:
    layer = LAYERS[rank](3, dtype=torch.float64, **settings)
    with torch.no_grad():
        layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.running_var.copy_(torch.tensor([0.5, 1.0, 36.0]))
        for parameter in layer.parameters():
            parameter.copy_(values(3, seed=len(list(layer.parameters()))) + 1)
    return layer


def by_the_paper(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean_run: Tensor,
    var_run: Tensor,
    r_max: float,
    d_max: float,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_tilde and what the clipped r and d were, channel by channel over rows and positions, in float64."""
    columns, rs, ds, moved = [], [], [], []
    for c in range(x.shape[1]):
        z = x[:, c]
        kept = torch.ones_like(z, dtype=torch.bool) if counts is None else counts.expand_as(x)[:, c]
        mu = z[kept].mean()
        var = ((z[kept] - mu) ** 2).mean()
        sigma, sigma_run = torch.sqrt(var + 1e-5), torch.sqrt(var_run[c] + 1e-5)
        r = min(max(float((sigma / sigma_run).detach()), 1 / r_max), r_max)
        d = min(max(float(((mu - mean_run[c]) / sigma_run).detach()), -d_max), d_max)
        columns.append(weight[c] * ((z - mu) / sigma * r + d) + bias[c])
        rs.append(r), ds.append(d)
        n = int(kept.sum())
        moved.append((0.9 * mean_run[c] + 0.1 * mu, 0.9 * var_run[c] + 0.1 * var * n / (n - 1)))
    mean, var = (torch.stack([m[i] for m in moved]).detach() for i in (0, 1))
    return torch.stack(columns, 1), torch.tensor([rs, ds]), mean, var


@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "masked"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.1, 0.2), (3.0, 5.0), (math.inf, math.inf)], ids=str)
@pytest.mark.parametrize("kernel", ["auto", "spec"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_backward_and_running_statistics_equal_the_paper(
    shape: tuple[int, ...], kernel: str, limits: tuple[float, float], activation: str | None, masked: bool
) -> None:
    layer = layer_of(len(shape), r_max=limits[0], d_max=limits[1], activation=activation)
    x, residual = (values(*shape, seed=1) * 2 + 1).requires_grad_(), values(*shape, seed=2).requires_grad_()
    mask = None
    if masked:
        mask = torch.ones((shape[0], 1, *shape[2:]), dtype=torch.bool)
        mask[0] = False
    weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    z, _, mean, var = by_the_paper(x, weight, bias, layer.running_mean, layer.running_var, *limits, mask)
    expected = ACTIVATIONS[activation](z + residual)
    if mask is not None:
        expected = torch.where(mask, expected, 0.0)
    with choice.using(kernel):
        y = layer(x, residual=residual, mask=mask)
        dy = values(*shape, seed=3)
        assert_close(y, expected, rtol=0, atol=1e-12)
        found = torch.autograd.grad(y, (x, layer.weight, layer.bias, residual), dy)
    assert_close(found, torch.autograd.grad(expected, (x, weight, bias, residual), dy), rtol=0, atol=1e-11)
    assert_close(layer.running_mean, mean, rtol=1e-12, atol=0)
    assert_close(layer.running_var, var, rtol=1e-12, atol=0)


def test_cases_have_clipped_and_unclipped_channels() -> None:
    """So that the comparison above means something."""
    x = values(6, 3, seed=1) * 2 + 1
    layer = layer_of(2)
    parameters = (torch.ones(3), torch.zeros(3), layer.running_mean, layer.running_var)
    _, (r, d), _, _ = by_the_paper(x, *parameters, math.inf, math.inf)
    assert (r > 3).any()
    assert (r < 1 / 1.1).any()
    assert ((r > 1.1) & (r < 3)).any()
    assert (d.abs() > 0.2).any()
    assert (d.abs() < 0.2).any()


def test_unclipped_batch_comes_out_as_evaluation_has_it() -> None:
    layer = layer_of(2, r_max=math.inf, d_max=math.inf)
    x = values(6, 3)
    evaluated = copy.deepcopy(layer).eval()(x)
    assert_close(layer(x), evaluated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"activation": "silu", "debias": True}], ids=str)
def test_r_of_1_and_d_of_0_is_batch_norm_to_the_bit(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    renorm, plain = BatchRenorm2d(3, r_max=1.0, d_max=0.0, **settings), BatchNorm2d(3, **settings)
    renorm, plain = renorm.to(dtype), plain.to(dtype)
    for seed in range(3):
        given = [(values(4, 3, 5, 5, seed=seed) + 2).to(dtype).requires_grad_() for _ in range(2)]
        answers = renorm(given[0]), plain(given[1])
        assert_close(*answers, rtol=0, atol=0)
        for y in answers:
            (y * y).sum().backward()
        assert_close(given[0].grad, given[1].grad, rtol=0, atol=0)
    assert_close(renorm.state_dict(), plain.state_dict(), rtol=0, atol=0)
    for a, b in zip(renorm.parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_default_limits_are_the_papers_over_the_steps() -> None:
    layer = BatchRenorm1d(3)
    steps = (0, 4999, 5000, 15000, 22500, 25000, 40000, 10**6)
    assert [layer.r_max(s) for s in steps] == pytest.approx([1, 1, 1, 1 + 2 / 3.5, 2, 1 + 4 / 3.5, 3, 3])
    assert [layer.d_max(s) for s in steps] == pytest.approx([0, 0, 0, 2.5, 4.375, 5, 5, 5])


def test_limits_follow_the_number_of_batches_seen_also_after_loading() -> None:
    asked: list[int] = []

    def r_max(step: int) -> float:
        asked.append(step)
        return 1.0 + step

    layer = BatchRenorm1d(3, r_max=r_max, d_max=Ramp(first=0, last=2, start=0.0, end=4.0))
    for _ in range(3):
        layer(torch.randn(4, 3))
    again = BatchRenorm1d(3, r_max=r_max)
    again.load_state_dict(layer.state_dict())
    again(torch.randn(4, 3))
    again.eval()(torch.randn(4, 3))
    assert asked == [0, 1, 2, 3]


def test_evaluation_is_batch_norms() -> None:
    layer, plain = layer_of(2).eval(), BatchNorm1d(3, dtype=torch.float64).eval()
    plain.load_state_dict(layer.state_dict())
    x = values(5, 3)
    assert_close(layer(x), plain(x), rtol=0, atol=0)


def test_activation_checkpointing_repeats_with_the_r_and_d_that_were() -> None:
    """The first pass has moved the running statistics by then; from the moved ones would come other activations."""
    x = values(6, 3, seed=1)
    gradients = []
    for through in (lambda f, v: checkpoint(f, v, use_reentrant=False), lambda f, v: f(v)):
        layer = layer_of(2, r_max=3.0, d_max=5.0)
        given = x.clone().requires_grad_()
        through(lambda v, layer=layer: layer(v) ** 3, given).sum().backward()
        gradients.append((given.grad, layer.weight.grad, layer.running_mean, layer.running_var))
    assert_close(gradients[0], gradients[1], rtol=1e-13, atol=0)


def test_checkpointed_layer_called_twice_is_refused() -> None:
    layer = layer_of(2)
    xs = [values(6, 3, seed=s).requires_grad_() for s in (1, 2)]
    loss = sum(checkpoint(lambda v: layer(v) ** 3, x, use_reentrant=False).sum() for x in xs)
    with pytest.raises(RuntimeError, match="called again before activation checkpointing repeated an earlier call"):
        loss.backward()


def test_compiled_layer_equals_the_layer() -> None:
    layer = BatchRenorm1d(3, r_max=3.0, d_max=5.0)
    mirrored = copy.deepcopy(layer)
    compiled = torch.compile(mirrored, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        x = values(6, 3, seed=seed).float()
        assert_close(compiled(x), layer(x))
    assert_close(mirrored.state_dict(), layer.state_dict())


def test_layer_is_torchs_in_keys_and_type_copies_and_pickles() -> None:
    layer = BatchRenorm1d(3)
    assert isinstance(layer, nn.BatchNorm1d)
    assert list(layer.state_dict()) == list(nn.BatchNorm1d(3).state_dict())
    x = torch.randn(4, 3)
    layer(x)
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    assert_close(again(x), layer(x), rtol=0, atol=0)
    assert "r_max=Ramp(first=5000, last=40000, start=1.0, end=3.0)" in repr(layer)
    assert batchnorm.BatchRenorm1d is BatchRenorm1d


def test_empty_batch_is_not_counted() -> None:
    layer = BatchRenorm1d(3)
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(("name", "limit"), [("r_max", 0.5), ("r_max", math.nan), ("r_max", "3"), ("d_max", -1.0)])
def test_limit_out_of_range_is_refused(name: str, limit: Any) -> None:
    least = {"r_max": 1, "d_max": 0}[name]
    said = f"BatchRenorm1d {name} expected a number of at least {least}, or a function of the step that gives one; got"
    with pytest.raises(ValueError, match=re.escape(f"{said} {limit!r}")):
        BatchRenorm1d(3, **{name: limit})
    if isinstance(limit, float):
        with pytest.raises(ValueError, match=re.escape(said)):
            BatchRenorm1d(3, **{name: lambda step: limit})(torch.randn(4, 3))


def test_layer_without_running_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchRenorm1d needs running statistics, got track_running_stats=False"):
        BatchRenorm1d(3, track_running_stats=False)


def test_one_value_per_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchRenorm1d(3)(torch.randn(1, 3))


def test_ramp_without_length_is_a_step_and_one_that_ends_before_it_begins_is_refused() -> None:
    """One divided by 0, the other gave limits far beyond its end."""
    ramp = Ramp(first=100, last=100, start=1.0, end=3.0)
    assert [ramp(step) for step in (0, 99, 100, 101)] == [1.0, 1.0, 3.0, 3.0]
    with pytest.raises(ValueError, match="a last step that is not before the first, got first=10 and last=5: exchange"):
        Ramp(first=10, last=5, start=1.0, end=3.0)
