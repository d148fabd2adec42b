"""All dtypes, mixed and under autocast: results in the input's dtype, statistics in float32 or wider."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.exact import Problem, differentiate, solve
from torch import Tensor, nn
from torch.testing import assert_close

from batchnorm.nn import BatchNorm1d, BatchNorm2d

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NARROW = [torch.bfloat16, torch.float16]

each_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
each_narrow = pytest.mark.parametrize("dtype", NARROW, ids=str)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def values(*shape: int, mean: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + mean


def layers(dtype: torch.dtype, **keywords: Any) -> tuple[BatchNorm1d, nn.BatchNorm1d]:
    """Ours and torch's with parameters that every dtype can hold."""
    made = BatchNorm1d(3, dtype=dtype, **keywords), nn.BatchNorm1d(3, dtype=dtype, **keywords)
    for layer in made:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, 1.25, -2.0]))
            layer.bias.copy_(torch.tensor([1.0, 0.0, -0.25]))
    return made


@each_dtype
@each_mode
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5)], ids=str)
def test_output_is_the_exact_one_rounded_once(shape: tuple[int, ...], training: bool, dtype: torch.dtype) -> None:
    layer, _ = layers(dtype)
    x = values(*shape).to(dtype)
    y = layer.train(training)(x)
    assert y.dtype == dtype
    running = None if training else (np.zeros(3), np.ones(3))
    gamma, beta = (p.detach().double().numpy() for p in layer.parameters())
    exact = solve(Problem(x.double().numpy(), gamma, beta, running=running)).y
    tolerance = 4 * torch.finfo(dtype).eps * float(np.abs(exact).max())
    np.testing.assert_allclose(y.detach().double(), exact.astype(float), rtol=0, atol=tolerance)


@each_dtype
@each_mode
def test_gradients_are_the_exact_ones_rounded_once(training: bool, dtype: torch.dtype) -> None:
    layer, _ = layers(dtype)
    x, dy = values(8, 3).to(dtype).requires_grad_(), values(8, 3, mean=0.0, seed=1).to(dtype)
    found = torch.autograd.grad(layer.train(training)(x), [x, layer.weight, layer.bias], dy)
    assert {g.dtype for g in found} == {dtype}
    running = None if training else (np.zeros(3), np.ones(3))
    gamma, beta = (p.detach().double().numpy() for p in layer.parameters())
    problem = Problem(x.detach().double().numpy(), gamma, beta, running=running)
    exact = differentiate(problem, dy.double().numpy())
    for mine, theirs in zip(found, (exact.x, exact.gamma, exact.beta), strict=True):
        largest = float(np.abs(theirs).max())
        np.testing.assert_allclose(
            mine.double(), theirs.astype(float), rtol=0, atol=4 * torch.finfo(dtype).eps * largest
        )


@each_narrow
@each_mode
def test_narrow_input_may_meet_float32_parameters(training: bool, dtype: torch.dtype) -> None:
    ours, torchs = (layer.train(training) for layer in layers(torch.float32))
    x = values(8, 3).to(dtype)
    found = []
    for layer in (ours, torchs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        found.append((y, *torch.autograd.grad(y.sum(), [leaf, *layer.parameters()])))
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == theirs.dtype
        assert_close(mine, theirs, rtol=2 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)
    assert_close(ours.state_dict(), torchs.state_dict())


@each_narrow
def test_residual_may_be_of_another_dtype_than_the_input(dtype: torch.dtype) -> None:
    layer, x = BatchNorm1d(3), values(8, 3).to(dtype)
    residual = values(8, 3).float().requires_grad_()
    y = layer(x, residual=residual)
    assert y.dtype == dtype
    (gradient,) = torch.autograd.grad(y.sum(), residual)
    assert_close(gradient, torch.ones(8, 3))


CASTS = {
    "half": lambda layer: layer.half(),
    "bfloat16": lambda layer: layer.bfloat16(),
    "to": lambda layer: layer.to(torch.bfloat16),
    "type": lambda layer: layer.type(torch.float16),
    "parent": lambda layer: nn.Sequential(nn.Linear(3, 3), layer).half()[1],
    "half-of-double": lambda layer: layer.double().half(),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_running_statistics_stay_float32_with_all_their_digits(cast: Any) -> None:
    layer = BatchNorm1d(3)
    layer(values(8, 3, mean=1000.0).float())
    before = layer.running_mean.clone(), layer.running_var.clone()
    cast(layer)
    assert layer.weight.dtype in NARROW
    assert (layer.running_mean.dtype, layer.running_var.dtype) == (torch.float32, torch.float32)
    assert_close((layer.running_mean, layer.running_var), before, rtol=0, atol=0)
    x = values(8, 3).to(layer.weight.dtype)
    assert layer(x).dtype == layer.eval()(x).dtype == x.dtype


@each_narrow
def test_torchs_running_statistics_lose_them(dtype: torch.dtype) -> None:
    layer = nn.BatchNorm1d(3)
    layer(values(8, 3, mean=1000.0).float())
    before = layer.running_mean.clone()
    layer.to(dtype)
    assert layer.running_mean.dtype == dtype
    assert not torch.equal(layer.running_mean.float(), before)


def test_running_statistics_follow_to_double_and_back_to_single() -> None:
    layer = BatchNorm1d(3).double()
    assert (layer.running_mean.dtype, layer.running_var.dtype) == (torch.float64, torch.float64)
    layer(values(8, 3))
    layer.float()
    assert (layer.running_mean.dtype, layer.running_var.dtype) == (torch.float32, torch.float32)


@each_narrow
def test_layer_made_narrow_keeps_float32_statistics(dtype: torch.dtype) -> None:
    layer = BatchNorm2d(3, dtype=dtype)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert layer.num_batches_tracked.dtype == torch.int64


@each_narrow
@pytest.mark.parametrize("assign", [False, True])
def test_narrow_state_of_torch_loads_into_float32_statistics(dtype: torch.dtype, assign: bool) -> None:
    torchs = nn.BatchNorm1d(3, dtype=dtype)
    torchs(values(8, 3).to(dtype))
    layer = BatchNorm1d(3, dtype=dtype)
    layer.load_state_dict(torchs.state_dict(), assign=assign)
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert_close(layer.running_mean, torchs.running_mean.float())
    x = values(8, 3).to(dtype)
    assert layer(x).dtype == dtype
    torchs.load_state_dict(layer.state_dict())
    assert torchs.running_mean.dtype == dtype


def test_statistics_without_memory_stay_float32_too() -> None:
    layer = BatchNorm1d(3, device="meta").half()
    assert layer.running_mean.is_meta
    assert layer.running_mean.dtype == torch.float32
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    layer.reset_running_stats()
    assert layer(values(8, 3).half()).dtype == torch.float16


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
@each_mode
def test_autocast_gives_torchs_dtypes_and_values(training: bool, cast: torch.dtype) -> None:
    """Under autocast a linear layer gives narrow values and the normalization keeps its float32 parameters."""
    outcomes = []
    for layer in layers(torch.float32):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 2)).train(training)
        x = values(8, 4).float().requires_grad_()
        with torch.autocast("cpu", dtype=cast):
            z = network[0](x)
            y = layer(z)
            loss = network[2](y).float().square().sum()
        loss.backward()
        outcomes.append((z, y, x.grad, *(p.grad for p in network.parameters()), layer.running_mean, layer.running_var))
    for mine, theirs in zip(*outcomes, strict=True):
        assert mine.dtype == theirs.dtype
        scale = max(1.0, float(theirs.detach().float().abs().max()))
        assert_close(mine.float(), theirs.float(), rtol=0, atol=16 * torch.finfo(cast).eps * scale)
    assert outcomes[0][1].dtype == cast


def test_autocast_leaves_float32_input_alone_as_torch_does() -> None:
    for layer in layers(torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(values(8, 3).float()).dtype == torch.float32


def test_activations_under_autocast_keep_the_input_dtype() -> None:
    for activation, dtype in itertools.product(["relu", "gelu", "sigmoid"], [torch.float32, torch.bfloat16]):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert BatchNorm1d(3, activation=activation)(values(8, 3).to(dtype)).dtype == dtype
