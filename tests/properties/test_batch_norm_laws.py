"""Laws of the layer: what may change without changing anything, and what changes with it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from batchnorm.functional import batch_norm
from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.nn import BatchNorm1d

ordinary = settings(max_examples=40, deadline=None)

seeds = st.integers(0, 2**32 - 1)
activations = st.sampled_from([None, *ACTIVATIONS])
sizes = st.integers(2, 9)


def drawn(seed: int, *shape: int) -> Tensor:
    """Values with a mean and a scale per channel; x: (N, C, *)."""
    random = np.random.default_rng(seed)
    column = (1, shape[1], *(1,) * (len(shape) - 2))
    return torch.from_numpy(random.normal(size=shape) * random.uniform(0.1, 9, column) + random.normal(0, 9, column))


def by_batch(x: Tensor, *, eps: float = 1e-5, activation: str | None = None, **keywords: Tensor) -> Tensor:
    return batch_norm(x, None, None, training=True, eps=eps, activation=activation, **keywords)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> None:
    assert_close(a, b, rtol=tolerance, atol=tolerance)


@ordinary
@given(seeds, sizes, st.integers(1, 4))
def test_output_has_mean_beta_and_variance_gamma_squared(seed: int, n: int, channels: int) -> None:
    x = drawn(seed, n, channels, 3)
    gamma, beta = drawn(seed + 1, 2, channels)
    y = by_batch(x, weight=gamma, bias=beta)
    near(y.mean((0, 2)), beta, 1e-12 * float(gamma.abs().max() + beta.abs().max() + 1))
    sigma2 = x.var((0, 2), correction=0)
    near(y.var((0, 2), correction=0), gamma**2 * sigma2 / (sigma2 + 1e-5), 1e-9)


@ordinary
@given(seeds, sizes, st.floats(-1e4, 1e4))
def test_adding_a_constant_to_a_channel_changes_nothing(seed: int, n: int, constant: float) -> None:
    x = drawn(seed, n, 3)
    near(by_batch(x + constant), by_batch(x), 1e-7)


@ordinary
@given(seeds, sizes, st.integers(-30, 30), st.sampled_from([-1, 1]))
def test_scaling_a_channel_changes_the_sign_at_most(seed: int, n: int, exponent: int, sign: int) -> None:
    x = drawn(seed, n, 3)
    near(by_batch(x * sign * 2.0**exponent, eps=1e-300), sign * by_batch(x, eps=1e-300))


@ordinary
@given(seeds, sizes, activations)
def test_order_of_rows_and_channels_passes_through(seed: int, n: int, activation: str | None) -> None:
    x = drawn(seed, n, 4)
    random = np.random.default_rng(seed)
    rows, channels = torch.from_numpy(random.permutation(n)), torch.from_numpy(random.permutation(4))
    y = by_batch(x, activation=activation)
    near(by_batch(x[rows][:, channels], activation=activation), y[rows][:, channels])


@ordinary
@given(seeds, st.integers(1, 4), st.integers(1, 3), activations)
def test_positions_are_rows(seed: int, n: int, channels: int, activation: str | None) -> None:
    """(N, C, *) is normalized as the rows (N * S, C) are, whatever the spatial shape."""
    x = drawn(seed, n, channels, 2, 3)
    rows = x.movedim(1, -1).reshape(-1, channels)
    expected = by_batch(rows, activation=activation).reshape(n, 2, 3, channels).movedim(-1, 1)
    near(by_batch(x, activation=activation), expected)
    near(by_batch(x.flatten(2), activation=activation), expected.flatten(2))
    near(by_batch(x[:, :, None], activation=activation), expected[:, :, None])


@ordinary
@given(seeds, sizes)
def test_repeating_the_batch_changes_nothing(seed: int, n: int) -> None:
    x = drawn(seed, n, 3)
    near(by_batch(torch.cat([x, x])), torch.cat([by_batch(x)] * 2))


@ordinary
@given(seeds, st.integers(3, 9), activations)
def test_masking_rows_is_leaving_them_out(seed: int, n: int, activation: str | None) -> None:
    x = drawn(seed, n, 3)
    mask = torch.from_numpy(np.random.default_rng(seed).random(n) < 0.7)
    assume(int(mask.sum()) >= 2)
    y = by_batch(x, mask=mask, activation=activation)
    near(y[mask], by_batch(x[mask], activation=activation))
    assert not y[~mask].any()


@ordinary
@given(seeds, sizes, activations)
def test_gradient_of_the_input_sums_to_zero_and_is_orthogonal_to_z_norm(
    seed: int, n: int, activation: str | None
) -> None:
    x = drawn(seed, n, 3).requires_grad_()
    y = by_batch(x, activation=activation, eps=1e-300)
    (dx,) = torch.autograd.grad(y, x, drawn(seed + 1, n, 3))
    size = dx.abs().sum(0) + 1e-300
    z_norm = by_batch(x.detach(), eps=1e-300)
    assert (dx.sum(0).abs() <= 1e-10 * size).all() or n == 2  # two values leave a gradient of rounding alone
    assert ((dx * z_norm).sum(0).abs() <= 1e-10 * size).all() or n == 2


@ordinary
@given(seeds, sizes, activations, st.booleans())
def test_composed_way_gives_the_fused_ways_result_and_gradients(
    seed: int, n: int, activation: str | None, training: bool
) -> None:
    x, weight, bias, residual = drawn(seed, n, 3), *drawn(seed + 1, 2, 3), drawn(seed + 2, n, 3)
    running = (None, None) if training else (bias.clone(), weight.abs() + 0.1)

    def loss(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        y = batch_norm(x, *running, weight, bias, training, activation=activation, residual=residual)
        return y.pow(2).sum(), y

    given = [t.clone().requires_grad_() for t in (x, weight, bias, residual)]
    value, y = loss(*given)
    assert y.grad_fn.name() == "FusedBatchNormBackward"
    fused = torch.autograd.grad(value, given)
    composed, composed_y = torch.func.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(x, weight, bias, residual)
    near(composed_y, y.detach())
    for mine, theirs in zip(composed, fused, strict=True):
        near(mine, theirs, 1e-9 * max(1.0, float(theirs.abs().max())))


@ordinary
@given(seeds, st.lists(sizes, min_size=1, max_size=5), st.floats(0, 1))
def test_running_statistics_are_the_weighted_average_of_the_batches(
    seed: int, batches: list[int], momentum: float
) -> None:
    weighted, plain = BatchNorm1d(3, momentum=momentum).double(), BatchNorm1d(3, momentum=None).double()
    given = [drawn(seed + i, n, 3) for i, n in enumerate(batches)]
    for x in given:
        weighted(x)
        plain(x)
    shares = [momentum * (1 - momentum) ** i for i in reversed(range(len(given)))]
    mean = sum(share * x.mean(0) for share, x in zip(shares, given, strict=True))
    var = (1 - momentum) ** len(given) + sum(s * x.var(0) for s, x in zip(shares, given, strict=True))
    near(weighted.running_mean, mean)
    near(weighted.running_var, var)
    near(plain.running_mean, torch.stack([x.mean(0) for x in given]).mean(0))
    near(plain.running_var, torch.stack([x.var(0) for x in given]).mean(0))


@ordinary
@given(seeds, st.integers(1, 9), activations)
def test_evaluation_treats_each_row_alone(seed: int, n: int, activation: str | None) -> None:
    layer = BatchNorm1d(3, activation=activation).double()
    layer(drawn(seed, 8, 3))
    x = drawn(seed + 1, n, 3)
    together = layer.eval()(x)
    alone = torch.cat([layer(row[None]) for row in x])
    if activation in (None, "relu", "leaky_relu"):
        assert torch.equal(alone, together)
    else:  # torch's exponentials differ in the last place between a whole vector and a rest
        assert_close(alone, together, rtol=1e-14, atol=1e-15)


@ordinary
@given(seeds, sizes, st.integers(-20, 20))
def test_float32_result_is_the_float64_one_rounded(seed: int, n: int, exponent: int) -> None:
    """At every scale: the arithmetic is in float64, and rounding happens once."""
    x = (drawn(seed, n, 3) * 2.0**exponent).float()
    wide = by_batch(x.double())
    assert_close(by_batch(x).double(), wide, rtol=2.0**-23, atol=2.0**-24 * float(wide.abs().max()) * 1e-6)
