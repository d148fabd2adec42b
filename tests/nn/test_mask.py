"""mask=: a position that does not count is in no statistic, comes out 0 and gets gradient 0, whatever stands there.

The oracle drops the masked rows before it computes anything.
"""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from tests.reference.exact import ACTIVATIONS, Problem, differentiate, solve
from tests.reference.problems import SHAPES, answer, draw, leaves, tensor
from torch import Tensor
from torch.testing import assert_close

from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

LAYERS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
RANKS = {2: (6, 3), 3: (6, 3, 5), 4: (6, 3, 2, 5), 5: (6, 3, 2, 2, 2)}

each_rank = pytest.mark.parametrize("rank", list(RANKS))
each_activation = pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
each_mode = pytest.mark.parametrize("running", [False, True], ids=["train", "eval"])


def x_of(rank: int, seed: int = 0) -> Tensor:
    return torch.randn(RANKS[rank], generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 5


def some(*shape: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask.view(-1)[:2] = True
    return mask


@each_rank
def test_mask_has_one_value_per_row_or_per_position(rank: int) -> None:
    x = x_of(rank)
    n, _, *spatial = x.shape
    rows, positions = some(n), some(n, *spatial)
    of_rows = rows.view(n, *(1,) * len(spatial)).expand(n, *spatial)
    for mask, kept in ((rows, of_rows), (positions, positions), (positions.unsqueeze(1), positions)):
        layer = LAYERS[rank](3).double()
        exact = solve(Problem(x.numpy(), counts=kept.unsqueeze(1).double().numpy()))
        np.testing.assert_allclose(layer(x, mask=mask).detach(), exact.y.astype(float), rtol=0, atol=1e-13)
        np.testing.assert_allclose(layer.running_mean, 0.1 * exact.mean.astype(float), rtol=1e-13)
        unbiased = (exact.variance * exact.count / (exact.count - 1)).astype(float)
        np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * unbiased, rtol=1e-13)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@each_mode
@each_activation
def test_forward_and_backward_equal_the_oracle_that_drops_the_rows(
    activation: str | None, running: bool, residual: bool
) -> None:
    for seed, shape in enumerate(SHAPES):
        problem = draw(shape, activation=activation, running=running, residual=residual, masked=True, seed=seed)
        given = leaves(problem)
        y = answer(problem, given)
        np.testing.assert_allclose(y.detach(), solve(problem).y.astype(float), rtol=0, atol=1e-12)
        dy = np.random.default_rng(seed).normal(size=shape)
        exact = differentiate(problem, dy)
        found = dict(zip(given, torch.autograd.grad(y, list(given.values()), tensor(dy)), strict=True))
        for name, theirs in (("x", exact.x), ("weight", exact.gamma), ("bias", exact.beta)):
            np.testing.assert_allclose(found[name], theirs.astype(float), rtol=0, atol=1e-12, err_msg=name)
        if residual:
            np.testing.assert_allclose(found["residual"], exact.residual.astype(float), rtol=0, atol=1e-12)


def _gradients(problem: Problem, *, composed: bool) -> tuple[Tensor, dict[str, Tensor]]:
    given = leaves(problem)
    if not composed:
        y = answer(problem, given)
        return y.detach(), dict(zip(given, torch.autograd.grad(y.sum(), list(given.values())), strict=True))
    values = {name: t.detach() for name, t in given.items()}
    return answer(problem, values), torch.func.grad(lambda v: answer(problem, v).sum())(values)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("composed", [False, True], ids=["fused", "composed"])
@each_mode
@each_activation
def test_what_stands_at_a_masked_position_changes_nothing(
    activation: str | None, running: bool, composed: bool, poison: float
) -> None:
    """NaN in the residual of a masked row once came back as gradient NaN of everything, through the activation."""
    clean = draw((5, 3, 2), activation=activation, running=running, residual=True, masked=True)
    masked = np.broadcast_to(clean.counts == 0, clean.x.shape)
    dirty = Problem(
        **{
            **vars(clean),
            "x": np.where(masked, poison, clean.x),
            "residual": np.where(masked, poison, clean.residual),
        }
    )
    y, gradients = _gradients(dirty, composed=composed)
    expected, expected_gradients = _gradients(clean, composed=composed)
    assert_close(y, expected, rtol=0, atol=0)
    assert_close(gradients, expected_gradients, rtol=0, atol=0)
    assert not y[torch.from_numpy(masked.copy())].any()
    assert not gradients["x"][torch.from_numpy(masked.copy())].any()
    assert not gradients["residual"][torch.from_numpy(masked.copy())].any()


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_second_derivative_with_a_poisoned_masked_row_is_finite(activation: str) -> None:
    problem = draw((5, 3), activation=activation, residual=True, masked=True)
    masked = np.broadcast_to(problem.counts == 0, problem.x.shape)
    dirty = Problem(**{**vars(problem), "residual": np.where(masked, np.nan, problem.residual)})
    given = leaves(dirty)
    first = torch.autograd.grad(answer(dirty, given).pow(2).sum(), list(given.values()), create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), list(given.values()))
    assert all(bool(g.isfinite().all()) for g in (*first, *second))


@each_rank
def test_full_mask_is_no_mask(rank: int) -> None:
    x = x_of(rank)
    masked, plain = LAYERS[rank](3).double(), LAYERS[rank](3).double()
    assert_close(masked(x, mask=torch.ones(6, dtype=torch.bool)), plain(x), rtol=1e-13, atol=1e-14)
    assert_close(masked.state_dict(), plain.state_dict())


@pytest.mark.parametrize("momentum", [0.1, None])
@each_rank
def test_all_masked_gives_zeros_and_updates_nothing(rank: int, momentum: float | None) -> None:
    layer = LAYERS[rank](3, momentum=momentum, activation="sigmoid").double()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = x_of(rank).requires_grad_()
    residual = x_of(rank, seed=2).requires_grad_()
    y = layer(x, residual=residual, mask=torch.zeros(6, dtype=torch.bool))
    assert not y.any()
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    for gradient in torch.autograd.grad(y.sum(), [x, residual, *layer.parameters()]):
        assert not gradient.any()


@each_rank
def test_all_masked_in_evaluation_gives_zeros(rank: int) -> None:
    y = LAYERS[rank](3, activation="sigmoid").double().eval()(x_of(rank), mask=torch.zeros(6, dtype=torch.bool))
    assert not y.any()


@each_rank
def test_one_value_left_in_a_channel_is_torchs_error_and_changes_nothing(rank: int) -> None:
    layer = LAYERS[rank](3).double()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = x_of(rank)
    mask = torch.zeros(6, *x.shape[2:], dtype=torch.bool)
    mask.view(-1)[0] = True
    words = "Expected more than 1 value per channel when training, got input size"
    with pytest.raises(ValueError, match=re.escape(words)):
        torch.nn.BatchNorm1d(3).double()(x_of(2)[:1])
    with pytest.raises(ValueError, match=f"^{re.escape(f'{words} {x.shape}')}$"):
        layer(x, mask=mask)
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert layer.eval()(x, mask=mask).count_nonzero() == 3  # test time needs no second value


def test_one_row_left_with_many_positions_is_enough() -> None:
    layer = BatchNorm1d(3).double()
    x = x_of(3)
    y = layer(x, mask=torch.tensor([False, True, False, False, False, False]))
    alone = BatchNorm1d(3).double()(x[1:2])
    assert_close(y[1:2], alone, rtol=0, atol=1e-14)


def test_mask_may_be_a_view_of_any_strides() -> None:
    x = x_of(4)
    mask = some(6, 2, 5)
    strided = mask.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(
        BatchNorm2d(3).double()(x, mask=strided), BatchNorm2d(3).double()(x, mask=mask), rtol=1e-13, atol=1e-14
    )
    rows = torch.tensor([True]).expand(6)
    assert_close(BatchNorm2d(3).double()(x, mask=rows), BatchNorm2d(3).double()(x), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_values_are_masked_as_well(dtype: torch.dtype) -> None:
    x, mask = x_of(2).to(dtype), torch.tensor([True, False, True, True, False, True])
    x[~mask] = torch.nan
    y = BatchNorm1d(3, dtype=dtype)(x, mask=mask)
    assert y.dtype == dtype
    exact = solve(Problem(x[mask].double().numpy())).y
    np.testing.assert_allclose(y[mask].detach().double(), exact.astype(float), atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("shape", "mask", "expected"),
    [
        ((4, 3), (3,), "mask expected shape (4,) or (4, 1) for input (4, 3), got (3,)"),
        ((4, 3), (4, 3), "mask expected shape (4,) or (4, 1) for input (4, 3), got (4, 3)"),
        ((4, 3, 5), (4, 3, 5), "mask expected shape (4,) or (4, 5) or (4, 1, 5) for input (4, 3, 5), got (4, 3, 5)"),
        ((4, 3, 5), (5,), "mask expected shape (4,) or (4, 5) or (4, 1, 5) for input (4, 3, 5), got (5,)"),
        ((4, 3, 5), (), "mask expected shape (4,) or (4, 5) or (4, 1, 5) for input (4, 3, 5), got ()"),
    ],
)
def test_mask_of_another_shape_is_refused_with_the_right_ones(
    shape: tuple[int, ...], mask: tuple[int, ...], expected: str
) -> None:
    layer = BatchNorm1d(3)
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        layer(torch.randn(shape), mask=torch.ones(mask, dtype=torch.bool))
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("mask", [torch.ones(4), torch.ones(4, dtype=torch.uint8), [True] * 4, np.ones(4, bool)])
def test_mask_that_is_no_boolean_tensor_is_refused(mask: object) -> None:
    got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
    with pytest.raises(TypeError) as error:
        BatchNorm1d(3)(torch.randn(4, 3), mask=mask)
    assert str(error.value) == (
        f"mask expected a boolean tensor, got {got}: write mask != 0, True where a position counts"
    )


def test_input_without_channels_is_torchs_error_with_a_mask_too() -> None:
    for x in (torch.tensor(1.0), torch.ones(4)):
        with pytest.raises(Exception) as torchs:  # noqa: PT011 - whatever torch raises
            torch.nn.functional.batch_norm(x, torch.zeros(1), torch.ones(1))
        with pytest.raises(torchs.type):
            batch_norm(x, torch.zeros(1), torch.ones(1), mask=torch.ones(4, dtype=torch.bool))


def test_gradcheck_passes_with_a_mask() -> None:
    for activation, running in itertools.product([None, "tanh"], [False, True]):
        problem = draw((4, 2, 3), activation=activation, running=running, residual=True, masked=True)
        given = leaves(problem)
        names = list(given)
        function = lambda *values, p=problem, n=names: answer(p, dict(zip(n, values, strict=True)))  # noqa: E731
        assert torch.autograd.gradcheck(function, tuple(given.values()))
        assert torch.autograd.gradgradcheck(function, tuple(given.values()))
