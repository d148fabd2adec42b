"""The lessons of the design page, each as a law; and the wrong formulas in circulation, each told apart from the right.

Source: Ioffe and Szegedy 2015, arXiv 1502.03167, Algorithms 1 and 2; section 3.3 for the scale of the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm1d, BatchNorm2d

EPS = 1e-5

LAYERS_BEFORE: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), lambda: BatchNorm1d(3), (20, 5)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3), lambda: BatchNorm2d(3), (6, 2, 5, 5)),
}


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients_before(kind: str, *, normalized: bool) -> tuple[nn.Module, Tensor]:
    """A layer whose gradients are filled in, with or without normalization after it; and the gradient it was given."""
    build, norm, shape = LAYERS_BEFORE[kind]
    torch.manual_seed(1)
    before, after = build().double(), norm().double()
    with torch.no_grad():
        after.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
    z = before(100 * values(*shape) + 300)
    z.retain_grad()
    y = after(z) if normalized else z
    (torch.sin(y) * values(*y.shape, seed=2)).sum().backward()
    assert z.grad is not None
    return before, z.grad


@pytest.mark.parametrize("kind", list(LAYERS_BEFORE))
def test_gradient_of_a_bias_before_normalization_is_zero(kind: str) -> None:
    """b is subtracted again with mu: networks here leave it out. Relative to the sum of what cancels."""
    layer, dz = gradients_before(kind, normalized=True)
    cancelled = dz.abs().sum([d for d in range(dz.dim()) if d != 1])
    assert (layer.bias.grad.abs() <= 1e-12 * cancelled).all()
    plain, _ = gradients_before(kind, normalized=False)
    assert (plain.bias.grad.abs() > 1e-3).all()


@pytest.mark.parametrize("kind", list(LAYERS_BEFORE))
def test_weights_before_normalization_are_orthogonal_to_their_gradient(kind: str) -> None:
    """BN(a W x) = BN(W x): the loss does not change along W, neuron by neuron; exactly so for eps = 0."""
    layer, _ = gradients_before(kind, normalized=True)
    products = (layer.weight * layer.weight.grad).flatten(1)
    # What eps leaves: about eps / sigma2 of the products' size, 1e-5 / 1e3.
    assert (products.sum(1).abs() <= 1e-7 * products.abs().sum(1)).all()


def test_weights_are_orthogonal_to_their_gradient_to_rounding_where_eps_vanishes() -> None:
    w, x = values(3, 5).requires_grad_(), values(20, 5, seed=1) + 3
    y = batch_norm(x @ w.t(), None, None, training=True, eps=1e-300)
    (torch.tanh(y) * values(20, 3, seed=2)).sum().backward()
    products = w.detach() * w.grad
    assert (products.sum(1).abs() <= 1e-12 * products.abs().sum(1)).all()


def test_scale_of_the_weights_does_not_matter() -> None:
    w, x = values(3, 5), values(20, 5, seed=1)
    y = batch_norm(x @ w.t(), None, None, training=True, eps=1e-300)
    for scale in (1e-6, 3.0, 1e6):
        torch.testing.assert_close(batch_norm(x @ (scale * w).t(), None, None, training=True, eps=1e-300), y)


@pytest.mark.parametrize("shape", [(20, 3), (6, 3, 4), (4, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_gamma_of_the_deviation_and_beta_of_the_mean_give_the_input_back(shape: tuple[int, ...], eps: float) -> None:
    """The layer can represent the identity."""
    x = values(*shape) * 3 + 7
    dims = [d for d in range(x.dim()) if d != 1]
    gamma, beta = torch.sqrt(x.var(dims, correction=0) + eps), x.mean(dims)
    y = batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14 * float(x.abs().max()))


def test_test_time_uses_the_average_of_the_mini_batches() -> None:
    """running = (1 - momentum) * running + momentum * batch, the stored variance unbiased: m / (m - 1) * sigma2."""
    layer = BatchNorm1d(2, momentum=0.1).double()
    mean, var = np.zeros(2), np.ones(2)
    for step in range(20):
        x = values(8, 2, seed=step) * 2 + 3
        layer(x)
        mean = 0.9 * mean + 0.1 * x.numpy().mean(0)
        var = 0.9 * var + 0.1 * x.numpy().var(0) * 8 / 7
    x = values(5, 2, seed=99)
    expected = (x.numpy() - mean) / np.sqrt(var + EPS)
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_one_example_alone_gives_what_it_gives_in_any_batch(activation: str | None) -> None:
    layer = BatchNorm1d(3, activation=activation)
    for step in range(5):
        layer(values(8, 3, seed=step).float())
    x = values(40, 3, seed=9).float()
    together = layer.eval()(x)
    for i in range(len(x)):
        assert torch.equal(layer(x[i : i + 1]), together[i : i + 1])


# The wrong formulas in circulation. z: (m, C) of one mini-batch.

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def right(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mu = z.mean(0)
    sigma2 = ((z - mu) ** 2).mean(0)
    return gamma * (z - mu) / torch.sqrt(sigma2 + EPS) + beta


def without_the_root(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mu = z.mean(0)
    sigma2 = ((z - mu) ** 2).mean(0)
    return gamma * (z - mu) / (sigma2 + EPS) + beta


def divided_by_sigma2(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mu = z.mean(0)
    sigma2 = ((z - mu) ** 2).mean(0)
    return gamma * (z - mu) / sigma2 + beta


def variance_not_centred(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    sigma2 = (z**2).mean(0)
    return gamma * (z - z.mean(0)) / torch.sqrt(sigma2 + EPS) + beta


def brackets_missing(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mu = z.mean(0)
    sigma2 = ((z - mu) ** 2).mean(0)
    return gamma * (z - mu / torch.sqrt(sigma2 + EPS)) + beta


def eps_outside_the_root(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mu = z.mean(0)
    sigma2 = ((z - mu) ** 2).mean(0)
    return gamma * (z - mu) / (torch.sqrt(sigma2) + EPS) + beta


def unbiased_in_training(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return gamma * (z - z.mean(0)) / torch.sqrt(z.var(0, correction=1) + EPS) + beta


WRONG = [
    without_the_root,
    divided_by_sigma2,
    variance_not_centred,
    brackets_missing,
    eps_outside_the_root,
    unbiased_in_training,
]


def distance(formula: Formula, z: Tensor) -> float:
    """From the layer's result, relative to it."""
    gamma, beta = torch.tensor([1.5, 0.5], dtype=torch.float64), torch.tensor([0.25, -1.0], dtype=torch.float64)
    y = batch_norm(z, None, None, gamma, beta, training=True, eps=EPS)
    return float((formula(z, gamma, beta) - y).abs().max() / y.abs().max())


# Not standardized already, not centred, and one channel so narrow that eps shows.
BATCH = values(30, 2) * torch.tensor([3.0, 0.01]).double() + torch.tensor([5.0, -0.02]).double()


def test_layer_is_the_right_formula() -> None:
    assert distance(right, BATCH) < 1e-14


@pytest.mark.parametrize("formula", WRONG, ids=lambda formula: formula.__name__)
def test_wrong_formula_is_told_apart(formula: Formula) -> None:
    assert distance(formula, BATCH) > 1e-4


def test_standardized_values_would_tell_few_of_them_apart() -> None:
    """Why the batch above is neither centred nor of variance 1: there most of the slips cannot be seen."""
    z = values(30, 2)
    z = (z - z.mean(0)) / z.std(0, correction=0)
    unseen = [formula for formula in WRONG if distance(formula, z) < 1e-4]
    assert set(unseen) == set(WRONG) - {unbiased_in_training}
