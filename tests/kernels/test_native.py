"""Every kernel against the exact oracle, forward and backward: shapes, memory orders, dtypes, hard values.

`make test` takes each of these by itself and some of them together; `make test-all` takes every combination.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.kernels.cases import BF16, DRAWS, F16, F32, F64, Case, Shape, given
from tests.kernels.parity import Answer, answer, check, compare, kernels
from tests.reference.exact import ACTIVATIONS

from batchnorm.functional import batch_norm
from batchnorm.kernels import choice

ACTIVATION_NAMES = (None, *ACTIVATIONS)
DTYPES = (F32, BF16, F16, F64)
LAYOUTS = [
    ((17, 5), False),
    ((6, 5, 7), False),
    ((4, 3, 5, 7), False),
    ((4, 3, 5, 7), True),
    ((3, 5, 2, 3, 5), False),
    ((3, 5, 2, 3, 5), True),
]
HARD = [name for name in DRAWS if name != "normal"]

# Around the numbers at which rows.hpp and slabs.hpp cut, fold and leave over.
ROWS: list[Shape] = [
    *itertools.product((2, 33, 65, 257), (1, 3, 16, 17, 33)),
    *((3, 1001), (67, 511), (65, 512), (1025, 64), (2051, 33), (8193, 3), (16385, 1), (65537, 1), (2, 2049)),
]
SLABS: list[Shape] = [
    *((2, 3, 16383), (2, 3, 8192), (2, 3, 8193), (1, 2, 16385), (1, 1, 32769), (5, 2, 32), (5, 2, 33), (7, 2, 31)),
    *((1, 1, 2), (1, 3, 1, 2), (2, 4, 1), (3, 5, 1, 1), (9, 3, 16, 16), (3, 1001, 2), (2, 7, 3, 5, 3)),
]

each_kernel = pytest.mark.parametrize("kernel", kernels())


def dtype_name(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


@each_kernel
@each_dtype
def test_every_memory_order_equals_the_oracle(dtype: torch.dtype, kernel: str) -> None:
    for (shape, last), training, weights, residual in itertools.product(
        LAYOUTS, (True, False), (None, "mask", "counts"), (False, True)
    ):
        check(Case(shape, dtype, last=last, training=training, weights=weights, residual=residual), kernel)


@each_kernel
@each_dtype
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation_equals_the_oracle(activation: str | None, dtype: torch.dtype, kernel: str) -> None:
    for shape, training, weights in itertools.product([(33, 5), (6, 5, 37)], (True, False), (None, "counts")):
        for residual in (False, True):
            check(Case(shape, dtype, activation, training=training, weights=weights, residual=residual), kernel)


@each_kernel
@pytest.mark.parametrize("values", HARD)
def test_hard_values_equal_the_oracle(values: str, kernel: str) -> None:
    for shape, last in [((40, 3), False), ((6, 5, 37), False), ((4, 3, 5, 7), True)]:
        for dtype, training in itertools.product((F32, F64, BF16), (True, False)):
            for activation, weights, residual in [(None, None, False), ("relu", None, False), ("gelu", "counts", True)]:
                case = Case(shape, dtype, activation, last, residual, weights, training=training, draw=values)
                check(case, kernel)


@each_kernel
@pytest.mark.parametrize("dtype", [F32, F64], ids=dtype_name)
@pytest.mark.parametrize("shapes", [ROWS, SLABS], ids=["rows", "slabs"])
def test_every_size_equals_the_oracle(shapes: list[Shape], dtype: torch.dtype, kernel: str) -> None:
    for shape in shapes:
        check(Case(shape, dtype, draw="uneven"), kernel)
        check(Case(shape, BF16 if dtype == F32 else F64, "relu", weights="counts", residual=True), kernel)


@each_kernel
@each_dtype
def test_parameters_of_another_dtype_or_absent_equal_the_oracle(dtype: torch.dtype, kernel: str) -> None:
    for shape, activation in itertools.product([(33, 5), (3, 5, 9)], (None, "silu")):
        for parameters in DTYPES:
            check(Case(shape, dtype, activation, parameters=parameters), kernel)
        for affine, training in itertools.product(("", "weight", "bias"), (True, False)):
            check(Case(shape, dtype, activation, affine=affine, training=training), kernel)


@each_kernel
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_nothing_that_counts_is_zero_without_gradients(activation: str | None, kernel: str) -> None:
    for shape, dtype in itertools.product([(5, 3), (3, 2, 7)], (F32, F64)):
        case = Case(shape, dtype, activation, residual=True, weights="nothing")
        got, before = answer(case, kernel), given(case)
        for name in ("y", "dx", "dgamma", "dbeta", "dresidual"):
            assert not got.tensors()[name].any(), name
        assert torch.equal(got.running_mean, before.mean)
        assert torch.equal(got.running_var, before.var)
        assert got.refused is None


@each_kernel
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("gradient", [1e-15, 1e-6, 1e6])
def test_gradients_of_any_size_keep_their_digits(scale: float, gradient: float, kernel: str) -> None:
    """The slope along x is in units of gradient / scale^2: float32 would have lost it."""
    for shape in [(200, 3), (20, 3, 10)]:
        case = Case(shape, F32, parameters=F32)
        plain = given(case)
        found = replace(plain, x=plain.x * scale, dy=plain.dy * gradient)
        got, exact = answer(case, kernel, found), answer(case, "spec", found)
        size = exact.dx.abs().max()
        assert float((got.dx - exact.dx).abs().max() / size) < 1e-6


def _awkward(t: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same values in orders of memory that are neither contiguous nor channels-last."""
    yield t.flip(0).flip(0).transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
    wide[..., 1::2] = t
    yield wide[..., 1::2]
    if t.dim() == 4:
        yield t.contiguous(memory_format=torch.channels_last)


@each_kernel
@each_dtype
@pytest.mark.parametrize("shape", [(9, 5), (4, 5, 7), (4, 3, 5, 6)], ids=str)
def test_any_order_of_memory_gives_what_its_copy_gives(shape: Shape, dtype: torch.dtype, kernel: str) -> None:
    case = Case(shape, dtype, "silu", residual=True, weights="mask")
    plain = given(case)
    expected = answer(case, kernel)
    for x in _awkward(plain.x):
        compare(case, answer(case, kernel, replace(plain, x=x)))
    for dy, residual in zip(_awkward(plain.dy), _awkward(plain.residual), strict=True):
        _assert_same(answer(case, kernel, replace(plain, dy=dy, residual=residual)), expected)
    gamma = plain.gamma.repeat_interleave(2)[::2]
    _assert_same(answer(case, kernel, replace(plain, gamma=gamma, mean=plain.mean.repeat_interleave(2)[::2])), expected)


@each_kernel
@pytest.mark.parametrize("dtype", [F32, F64], ids=dtype_name)
def test_expanded_values_give_what_their_copy_gives(dtype: torch.dtype, kernel: str) -> None:
    case = Case((4, 3, 5, 6), dtype, residual=True)
    plain = given(case)
    one_row, one_value = plain.x[:1].expand(4, 3, 5, 6), plain.dy[:1, :1, :1, :1].expand(4, 3, 5, 6)
    for found in (
        replace(plain, x=one_row),
        replace(plain, dy=one_value),
        replace(plain, x=one_row, dy=one_value, residual=one_value),
    ):
        packed = replace(found, x=found.x.contiguous(), dy=found.dy.contiguous())
        _assert_same(answer(case, kernel, found), answer(case, kernel, packed))


@pytest.mark.parametrize("kernel", kernels()[1:])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=dtype_name)
@pytest.mark.parametrize(
    ("shape", "last"), [((50, 4, 128, 128), False), ((50, 64, 32, 32), True), ((1, 1, 3_300_000), False)], ids=str
)
def test_values_that_no_cache_holds_are_written_as_others_are(
    shape: Shape, last: bool, dtype: torch.dtype, kernel: str
) -> None:
    """Beyond 12 MB results are stored past the caches; with a residual, of zeros here, they are not."""
    shape = (2 * shape[0], *shape[1:]) if dtype == BF16 else shape
    order = torch.channels_last if last else torch.contiguous_format
    x, dy = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    x, dy = (t.to(dtype).contiguous(memory_format=order) for t in (x, dy))
    small = given(Case((2, shape[1]), F32))
    for activation in (None, "relu"):
        case = Case(shape, dtype, activation)
        streamed = answer(case, kernel, replace(small, x=x, dy=dy))
        stored = answer(case, kernel, replace(small, x=x, dy=dy, residual=torch.zeros_like(x)))
        _assert_same(replace(streamed, dresidual=stored.dresidual), stored)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize(
    "name", ["y", "mean", "m2", "running_mean", "running_var", "dx", "dgamma", "dbeta", "dresidual"]
)
def test_an_answer_that_is_a_little_wrong_is_noticed(name: str, dtype: torch.dtype) -> None:
    case = Case((33, 5), dtype, "tanh", residual=True)
    got = answer(case, kernels()[-1])
    compare(case, got)
    right = getattr(got, name)
    off = (1e-9 if dtype == F64 else 1e-5) if name in ("mean", "m2") else 1024 * torch.finfo(right.dtype).eps
    with pytest.raises(AssertionError, match=name):
        compare(case, replace(got, **{name: right * (1 + off)}))


@pytest.mark.long
@each_kernel
@each_dtype
@pytest.mark.parametrize("values", DRAWS)
def test_every_combination_equals_the_oracle(values: str, dtype: torch.dtype, kernel: str) -> None:
    if dtype == F16 and values in ("uneven", "mean 1e7", "1e18", "3e38"):
        pytest.skip("float16 holds no such values")
    for (shape, last), activation in itertools.product(LAYOUTS, ACTIVATION_NAMES):
        for weights, residual, training, affine in itertools.product(
            (None, "counts"), (False, True), (False, True), ("both", "")
        ):
            # By constants what enters the activation may be more than float32 holds: infinite, and a leak of it, too.
            if (values, activation, training) != ("3e38", "leaky_relu", False) or dtype == F64:
                check(Case(shape, dtype, activation, last, residual, weights, affine, training, draw=values), kernel)


@pytest.mark.long
@each_kernel
@each_dtype
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 12, 16, 17, 33, 64, 511, 513])
def test_every_number_of_rows_equals_the_oracle(channels: int, dtype: torch.dtype, kernel: str) -> None:
    for rows in (*range(2, 36), 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1025):
        check(Case((rows, channels), dtype), kernel)
        check(Case((rows, channels), dtype, "leaky_relu", weights="mask", residual=True), kernel)


@pytest.mark.long
@each_kernel
@each_dtype
def test_every_number_of_positions_equals_the_oracle(dtype: torch.dtype, kernel: str) -> None:
    for rows, positions in itertools.product(
        (1, 2, 3, 130), (*range(2, 36), 63, 64, 65, 127, 128, 129, 1023, 1025, 16385)
    ):
        check(Case((rows, 2, positions), dtype), kernel)
        check(Case((rows, 2, positions), dtype, "leaky_relu", weights="mask", residual=True), kernel)


def _assert_same(got: Answer, expected: Answer) -> None:
    """Bit by bit, but for the sign of zero."""
    mine, theirs = got.tensors(), expected.tensors()
    assert mine.keys() == theirs.keys()
    differing = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not differing


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("dtype", [F32, F64, F16], ids=dtype_name)
def test_residual_of_another_dtype_is_added_before_anything_is_rounded(
    dtype: torch.dtype, activation: str | None
) -> None:
    """A wider one was rounded to the rows' dtype first: twice the rounding floor."""
    x, residual = torch.randn((2, 64, 5), generator=torch.Generator().manual_seed(0))
    x, residual = x.to(BF16), 3 * residual.to(dtype)
    found = []
    for kernel in ("spec", "auto"):
        with choice.using(kernel):
            given_x, given_residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
            y = batch_norm(given_x, None, None, training=True, residual=given_residual, activation=activation)
            found.append((y, *torch.autograd.grad(y.float().square().sum(), (given_x, given_residual))))
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


def test_residual_that_lies_in_memory_as_it_is_not_is_read_rightly() -> None:
    """A lazily negated one was read without its sign."""
    x, residual = torch.randn((2, 64, 5), generator=torch.Generator().manual_seed(0))
    lazily = batch_norm(x, None, None, training=True, residual=torch._neg_view(residual))
    torch.testing.assert_close(lazily, batch_norm(x, None, None, training=True, residual=-residual))


def test_residual_on_another_device_is_an_error() -> None:
    """It was taken for none."""
    x = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match="device"):
        batch_norm(x, None, None, training=True, residual=torch.empty(4, 3, device="meta"))


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=dtype_name)
@pytest.mark.parametrize("kernel", kernels()[1:])
def test_a_value_that_is_the_mean_is_at_relus_corner(dtype: torch.dtype, kernel: str) -> None:
    """Whole numbers whose mean is one of them: no rounding of 1 / n may move it to either side."""
    for rows in (49, 98, 103, 257, 300):
        x = torch.ones(rows, 1, dtype=dtype)
        x[0], x[1] = 0, 2
        parameters = torch.float64 if dtype == F64 else torch.float32
        gamma, beta = torch.ones(1, dtype=parameters), torch.zeros(1, dtype=parameters, requires_grad=True)
        with choice.using(kernel):
            y = batch_norm(x, None, None, gamma, beta, training=True, activation="relu")
            (gradient,) = torch.autograd.grad(y.sum(), beta)
        assert float(gradient) == 1, rows


@pytest.mark.parametrize("kernel", kernels()[1:])
@pytest.mark.parametrize("rows", [64, 400])
def test_gradients_may_be_written_over_those_that_came(rows: int, kernel: str) -> None:
    """As the trainer has it: dx is dy's own memory, with one channel that float cannot hold."""
    x = torch.randn(rows, 4) * torch.tensor([3e10, 1.0, 1.0, 1e-3])
    dy, gamma, beta = torch.randn(rows, 4), torch.ones(4), torch.zeros(4)
    answers = []
    with choice.using(kernel):
        module = choice.native()
        assert module is not None
        for over in (False, True):
            block, y, given_dy = torch.empty(4, 4, dtype=F64), torch.empty_like(x), dy.clone()
            dx = given_dy if over else torch.empty_like(x)
            dgamma, dbeta = torch.empty(4), torch.empty(4)
            shape, affine = (rows, 4, 1, 0, 1), (gamma.data_ptr(), beta.data_ptr(), 0)
            places = (x.data_ptr(), y.data_ptr(), 0, 0)
            module.forward(*shape, *places, *affine, 1e-5, block.data_ptr(), True, 0, 0, 0, 0.1, 0)
            places = (x.data_ptr(), given_dy.data_ptr(), 0, 0)
            results = (dx.data_ptr(), 0, dgamma.data_ptr(), dbeta.data_ptr())
            module.backward(*shape, *places, *affine, block.data_ptr(), True, *results)
            answers.append((dx, dgamma, dbeta))
    for apart, over in zip(*answers, strict=True):
        assert torch.equal(apart, over)
