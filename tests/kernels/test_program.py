"""A program's operations against torch's, on every instruction set, and the same bits for any number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from batchnorm.kernels import choice

pytest.importorskip("batchnorm.kernels._native")
ELEMENTS = {torch.float32: 0, torch.float64: 3}
ACTIVATIONS = {"relu": 1, "leaky_relu": 2, "sigmoid": 3, "tanh": 4, "silu": 5, "gelu": 6}


def instruction_sets() -> list[str]:
    from batchnorm.kernels import _native

    return [name.replace("_", "-") for name in _native.instruction_sets()]


@pytest.fixture(params=instruction_sets())
def module(request: pytest.FixtureRequest) -> Iterator[Any]:
    with choice.using(request.param):
        yield choice.native()


@pytest.fixture
def best() -> Iterator[Any]:
    with choice.using("native"):
        yield choice.native()


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def product(module: Any, left: Tensor, right: Tensor, bias: Tensor | None, *, threads: int = 1) -> Tensor:
    out = torch.full((left.shape[0], right.shape[1]), torch.nan, dtype=left.dtype)
    program = module.Program()
    sides = ((t.data_ptr(), *t.stride()) for t in (left, right))
    address = 0 if bias is None else bias.data_ptr()
    program.product(ELEMENTS[left.dtype], *out.shape, left.shape[1], *sides, address, out.data_ptr())
    program.run(0, threads)
    return out


SIZES = [(1, 1, 1), (7, 10, 3), (60, 784, 100), (6, 17, 64), (61, 401, 33), (13, 1030, 129), (2, 0, 5)]


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize(("rows", "inner", "columns"), SIZES)
def test_products_equal_exact_ones(module: Any, rows: int, inner: int, columns: int, dtype: torch.dtype) -> None:
    """However either side lies in memory, with a bias and without, one value past every block and one before."""
    a, b, bias = (
        drawn(rows, inner, dtype=dtype),
        drawn(inner, columns, dtype=dtype, seed=1),
        drawn(columns, dtype=dtype),
    )
    expected, near = a.double() @ b.double(), torch.finfo(dtype).eps * 2 * max(2, inner)
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            assert_close(product(module, left, right, None).double(), expected, rtol=0, atol=near)
            assert_close(product(module, left, right, bias).double(), expected + bias, rtol=0, atol=near)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_products_have_the_same_bits_for_any_number_of_threads(best: Any, threads: int) -> None:
    for rows, inner, columns in ((60, 784, 100), (100, 60, 784), (256, 300, 512)):
        a, b = drawn(rows, inner, dtype=torch.float32), drawn(columns, inner, dtype=torch.float32, seed=1).t()
        for _ in range(20):
            assert torch.equal(product(best, a, b, None, threads=threads), product(best, a, b, None))


def test_a_row_of_a_product_does_not_depend_on_the_other_rows(best: Any) -> None:
    a, b = drawn(61, 300, dtype=torch.float32), drawn(300, 70, dtype=torch.float32, seed=1)
    whole = product(best, a, b, None)
    for rows in (1, 5, 12):
        assert torch.equal(product(best, a[:rows], b, None), whole[:rows])


def test_programs_of_several_threads_at_once_are_each_right(best: Any) -> None:
    """One holds the helpers; the others work alone."""
    wrong: list[int] = []

    def work(number: int) -> None:
        a, b = drawn(60, 784, dtype=torch.float32, seed=number), drawn(784, 100, dtype=torch.float32, seed=-number)
        alone = product(best, a, b, None)
        if not all(torch.equal(product(best, a, b, None, threads=3), alone) for _ in range(100)):
            wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_works_without_its_parents_helpers(best: Any) -> None:
    a, b = drawn(60, 784, dtype=torch.float32), drawn(784, 100, dtype=torch.float32, seed=1)
    expected = product(best, a, b, None, threads=3)
    child = os.fork()
    if child == 0:
        same = all(torch.equal(product(best, a, b, None, threads=3), expected) for _ in range(20))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("count", [1, 16, 37])
def test_activations_and_slopes_equal_autograd(module: Any, name: str, dtype: torch.dtype, count: int) -> None:
    z, dy = (drawn(count, dtype=dtype, seed=seed).requires_grad_(seed == 0) for seed in (0, 1))
    y, dz = torch.empty_like(dy), torch.empty_like(dy)
    program = module.Program()
    program.pointwise(ELEMENTS[dtype], ACTIVATIONS[name], count, z.data_ptr(), 0, 0, y.data_ptr())
    program.pointwise(ELEMENTS[dtype], ACTIVATIONS[name], count, z.data_ptr(), dy.data_ptr(), 0, dz.data_ptr())
    program.run(0, 1)
    expected = getattr(F, name)(z)
    assert_close(y, expected.detach())
    assert_close(dz, torch.autograd.grad(expected, z, dy)[0])


def loss(module: Any, scores: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    value, gradient = torch.zeros((), dtype=torch.float64), torch.full_like(scores, torch.nan)
    program, is_class = module.Program(), y.dtype == torch.int64
    program.loss(
        ELEMENTS[scores.dtype],
        *scores.shape,
        scores.data_ptr(),
        y.data_ptr() if is_class else 0,
        0 if is_class else y.data_ptr(),
        0 if weights is None else weights.data_ptr(),
        gradient.data_ptr(),
        value.data_ptr(),
    )
    program.run(0, 1)
    return value, gradient


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 8, 13])
def test_cross_entropy_equals_autograd(module: Any, classes: int, weighted: bool, dtype: torch.dtype) -> None:
    scores = (drawn(9, classes, dtype=dtype) * 30).requires_grad_()
    y = torch.arange(9) % classes
    weights = torch.tensor([0, 1, 2, 0.5, 1, 1, 3, 1, 1], dtype=dtype) if weighted else None
    each = F.cross_entropy(scores, y, reduction="none")
    expected = each.mean() if weights is None else (each * weights).sum() / weights.sum()
    expected.backward()
    value, gradient = loss(module, scores.detach(), y, weights)
    assert_close(value, expected.detach().double(), rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
    assert_close(gradient, scores.grad)


def test_scores_without_bound_give_the_losses_limit(module: Any) -> None:
    scores = torch.tensor([[1e38, -1e38], [0.0, 0.0], [-3e38, 3e38]])
    value, gradient = loss(module, scores, torch.tensor([0, 1, 1]), None)
    assert_close(value, torch.tensor(0.6931471805599453 / 3, dtype=torch.float64))
    assert_close(gradient, torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.0, 0.0]]) / 3)


def test_loss_of_nan_is_nan(module: Any) -> None:
    for bad in (torch.nan, torch.inf):
        value, gradient = loss(module, torch.tensor([[0.0, bad], [1.0, 2.0]]), torch.tensor([0, 1]), None)
        assert torch.isnan(value)
        assert torch.isnan(gradient[0]).any()


def test_rows_of_no_weight_teach_nothing(module: Any) -> None:
    value, gradient = loss(module, drawn(3, 4, dtype=torch.float32), torch.zeros(3).long(), torch.zeros(3))
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("number", [-1, 3])
def test_class_number_that_is_none_raises(best: Any, number: int) -> None:
    with pytest.raises(IndexError, match="class numbers expected from 0 to 2, got another"):
        loss(best, torch.zeros(1, 3), torch.tensor([number]), None)


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_column_sums_equal_exact_ones(module: Any, dtype: torch.dtype) -> None:
    x, sums = drawn(61, 130, dtype=dtype), torch.empty(130, dtype=dtype)
    program = module.Program()
    program.column_sums(ELEMENTS[dtype], 61, 130, x.data_ptr(), sums.data_ptr())
    program.run(0, 1)
    assert_close(sums.double(), x.double().sum(0), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 3, 784, 2000])
def test_gathered_rows_are_the_ones_asked_for(best: Any, width: int, threads: int) -> None:
    source, rows = (
        drawn(500, width, dtype=torch.float32),
        torch.randperm(500, generator=torch.Generator().manual_seed(0)),
    )
    to = torch.full((123, width), torch.nan)
    program = best.Program()
    program.gather(123, width * 4, source.data_ptr(), to.data_ptr())
    program.run(rows.data_ptr(), threads)
    assert torch.equal(to, source[rows[:123]])
