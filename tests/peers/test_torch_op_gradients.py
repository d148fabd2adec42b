"""torch's `op_db` samples of nn.functional.batch_norm through batchnorm.functional.batch_norm: derivatives and vmap.

One test per check of torch's TestBwdGradients, TestFwdGradients and of functorch's tests over `op_db` (vjp, jvp, their
compositions, vmap of each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.peers import subject
from tests.peers.torch_cases import OP, OP_CASES, Call, OpCase, gradcheck, gradgradcheck
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn import functional
from torch.testing import assert_close

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

each_case = pytest.mark.parametrize("case", OP_CASES, ids=str)


def pure(case: OpCase) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    call = case.make(torch.float64, requires_grad=True)
    return call.pure(subject.batch_norm), call.differentiable


def test_op_db_claims_every_kind_of_derivative() -> None:
    """What the tests below check is what torch claims of its own function; a claim withdrawn or added should be
    noticed."""
    claims = ("supports_gradgrad", "supports_forward_ad", "supports_fwgrad_bwgrad", "check_batched_grad")
    claims += ("check_batched_gradgrad", "check_batched_forward_grad")
    assert all(getattr(OP, claim) for claim in claims)


@each_case
def test_gradcheck(case: OpCase) -> None:
    function, values = pure(case)
    assert gradcheck(function, values, check_batched_grad=True, check_undefined_grad=True)


@each_case
def test_gradcheck_entry_by_entry(case: OpCase) -> None:
    function, values = pure(case)
    assert gradcheck(function, values, fast_mode=False, check_batched_grad=False)


@each_case
def test_gradgradcheck(case: OpCase) -> None:
    function, values = pure(case)
    assert gradgradcheck(function, values, check_batched_grad=True, check_undefined_grad=True)


@each_case
def test_gradgradcheck_entry_by_entry(case: OpCase) -> None:
    function, values = pure(case)
    assert gradgradcheck(function, values, fast_mode=False, check_batched_grad=False)


@each_case
def test_gradgradcheck_forward_over_reverse(case: OpCase) -> None:
    function, values = pure(case)
    assert gradgradcheck(
        function,
        values,
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_undefined_grad=False,
        check_batched_grad=False,
    )


@each_case
def test_forward_mode_gradcheck(case: OpCase) -> None:
    function, values = pure(case)
    assert gradcheck(
        function,
        values,
        check_forward_ad=True,
        check_backward_ad=False,
        check_batched_grad=False,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


def _jvp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return jvp(function, values, _directions(values, 1))


def _vjp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    output, pull = vjp(function, *values)
    return output, *pull(*_directions((output,), 2))


def _vjp_of_vjp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    gradients, pull = vjp(lambda *inner: _vjp(function, inner)[1:], *values)
    return *gradients, *pull(_directions(gradients, 3))


def _jvp_of_vjp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    gradients, tangents = jvp(lambda *inner: _vjp(function, inner)[1:], values, _directions(values, 4))
    return *gradients, *tangents


def _vjp_of_jvp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tangent, pull = vjp(lambda *inner: _jvp(function, inner)[1], *values)
    return tangent, *pull(*_directions((tangent,), 5))


def _jvp_of_jvp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return jvp(lambda *inner: _jvp(function, inner)[1], values, _directions(values, 6))


def _vmap_of_vjp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    output, pull = vjp(function, *values)
    return vmap(pull)(torch.stack([d for seed in (7, 8, 9) for d in _directions((output,), seed)]))


def _vmap_of_jvp(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    several = tuple(torch.stack(d) for d in zip(*(_directions(values, seed) for seed in (10, 11, 12)), strict=True))
    return vmap(lambda *directions: jvp(function, values, directions))(*several)


def _directions(values: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in values)


TRANSFORMATIONS = (_jvp, _vjp, _vjp_of_vjp, _jvp_of_vjp, _vjp_of_jvp, _jvp_of_jvp, _vmap_of_vjp, _vmap_of_jvp)


def textbook(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mu) / sqrt(sigma2 + eps) * gamma + beta as operations that torch differentiates one by one."""
    if not x.numel():
        return x.clone()

    def per_channel(values: Tensor) -> Tensor:
        return values.reshape(1, -1, *(1,) * (x.dim() - 2))

    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims) if training else running_mean
    centred = x - per_channel(mean)
    variance = (centred * centred).mean(dims) if training else running_var
    y = centred / torch.sqrt(per_channel(variance) + eps)
    y = y if weight is None else y * per_channel(weight)
    return y if bias is None else y + per_channel(bias)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS, ids=lambda t: t.__name__.strip("_"))
@each_case
def test_transformation_equals_the_textbook(case: OpCase, transformation: Callable[..., tuple[Tensor, ...]]) -> None:
    """Against plain operations: torch's own function gives wrong derivatives of its forward-mode derivative in
    training."""
    call = case.make(torch.float64, requires_grad=True)
    values = tuple(value.detach() for value in call.differentiable)
    expected = transformation(call.pure(textbook), values)
    got = transformation(call.pure(subject.batch_norm), values)
    assert_close(got, expected)


def _in_dims(call: Call, *, training: bool) -> Iterator[tuple[int | None, ...]]:
    """Which arguments carry a batch, and along which dimension: all, each alone, and the combinations that go
    together."""
    present = [t is not None for t in call.tensors]
    statistics = 0 if training else None
    wanted: list[tuple[int | None, ...]] = [
        (0, 0, 0, 0, 0),
        (-1, 0, 0, None, None),
        (0, statistics, statistics, None, None),
        (1, statistics, statistics, -1, 0),
        (None, None, None, 0, None),
        (None, None, None, None, 0),
        (None, None, None, 0, 0),
    ]
    if not training:
        wanted += [
            (None, 0, 0, None, None),
            (None, 0, None, None, None),
            (None, None, 0, None, None),
            (0, 0, None, None, 0),
        ]
    for dims in dict.fromkeys(tuple(d if here else None for d, here in zip(w, present, strict=True)) for w in wanted):
        if any(d is not None for d in dims):
            yield dims


def _batched(call: Call, dims: tuple[int | None, ...]) -> Call:
    """Three versions of each argument that carries a batch, stacked along its dimension."""
    pairs = zip(call.tensors, dims, strict=True)
    return Call(tuple(t if d is None else torch.stack([t, t + 1, 2 * t + 3], d) for t, d in pairs), call.keywords)


def _through_vmap(function: Callable[..., Tensor], call: Call, dims: tuple[int | None, ...]) -> list[Tensor]:
    copy = call.clone()
    output = vmap(lambda *tensors: function(*tensors, **copy.keywords), in_dims=dims)(*copy.tensors)
    return [t for t in (output, *copy.tensors[1:3]) if t is not None]


def _through_loop(function: Callable[..., Tensor], call: Call, dims: tuple[int | None, ...]) -> list[Tensor]:
    copy = call.clone()
    rows = [[t if d is None else t.select(d, i) for t, d in zip(copy.tensors, dims, strict=True)] for i in range(3)]
    output = torch.stack([function(*row, **copy.keywords) for row in rows])
    return [t for t in (output, *copy.tensors[1:3]) if t is not None]


@each_case
def test_vmap_equals_a_loop(case: OpCase) -> None:
    """Every combination here is one that torch's own function supports."""
    call = case.make(torch.float64)
    combinations = list(_in_dims(call, training=case.training))
    assert len(combinations) >= 3
    for dims in combinations:
        batched = _batched(call, dims)
        # Running statistics without a batch are updated once by vmap and three times by a loop: outputs only, then.
        compared = 1 if case.training and dims[1] is None else 3
        got = _through_vmap(subject.batch_norm, batched, dims)[:compared]
        expected = _through_loop(functional.batch_norm, batched, dims)[:compared]
        assert_close(got, expected, msg=lambda text, d=dims: f"in_dims={d}: {text}")


@each_case
def test_vmap_of_gradient_equals_a_loop(case: OpCase) -> None:
    """Per-example gradients of every argument that may have one, over three versions of the whole sample."""
    sample = case.make(torch.float64, requires_grad=True)
    wanted = tuple(place for place, t in enumerate(sample.tensors) if t is not None and t.requires_grad)
    call = sample.map(torch.Tensor.detach)
    dims = tuple(None if t is None else 0 for t in call.tensors)
    batched = _batched(call, dims)

    def gradient(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        def loss(*tensors: Tensor | None) -> Tensor:
            output = subject.batch_norm(*tensors, **call.keywords)
            return (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum()

        return torch.func.grad(loss, argnums=wanted)(*tensors)

    together = vmap(gradient, in_dims=dims)(*batched.clone().tensors)
    rows = [[None if t is None else t[i] for t in batched.clone().tensors] for i in range(3)]
    for got, *expected in zip(together, *(gradient(*row) for row in rows), strict=True):
        assert_close(got, torch.stack(expected))
