"""torch's `op_db` samples of nn.functional.batch_norm through batchnorm.functional.batch_norm: values and what
surrounds them.

One test per check of torch's TestCommon, TestMathBits, TestFakeTensor, TestMeta and TestCompositeCompliance. Not
applicable: `out=`, in-place and method variants, complex inputs, a NumPy reference (OpInfo has none), several
devices, TorchScript (torch has deprecated it). Derivatives: `test_torch_op_gradients.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.peers import subject
from tests.peers.torch_cases import (
    DTYPES,
    OP,
    OP_CASES,
    OP_SEED,
    Call,
    OpCase,
    composite_compliance,
    noncontiguous_like,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.testing import assert_close

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

each_case = pytest.mark.parametrize("case", OP_CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
float_or_double = pytest.mark.parametrize("dtype", DTYPES[:2], ids=["float64", "float32"])


def run(function: Callable[..., Tensor], call: Call, *, training: bool | None = None) -> tuple[Tensor, ...]:
    """(output, running_mean, running_var) after a call on copies."""
    copy = call.clone()
    keywords = copy.keywords if training is None else copy.keywords | {"training": training}
    output = function(*copy.tensors, **keywords)
    return tuple(t for t in (output, *copy.tensors[1:3]) if t is not None)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """make_tensor draws from -9 to 9: an absolute error of that size's last places."""
    eps = torch.finfo(dtype).eps
    return {"rtol": 8 * eps, "atol": 128 * eps}


def test_op_db_has_samples_for_both_modes_and_all_dtypes() -> None:
    """An empty list would pass everything below: torch 2.13 has 12 samples, 5 of them in training."""
    assert len(OP_CASES) >= 12
    assert sum(case.training for case in OP_CASES) >= 5
    assert sum(not case.training for case in OP_CASES) >= 5
    assert set(DTYPES) == OP.supported_dtypes("cpu")


def test_op_db_lists_no_error_samples() -> None:
    """Should a later torch have some, run them here; until then `test_malformed_arguments_raise_what_torch_raises`
    stands in."""
    assert OP.error_inputs_func is None


@each_dtype
@each_case
def test_output_and_running_statistics_equal_torch(case: OpCase, dtype: torch.dtype) -> None:
    call = case.make(dtype)
    can_evaluate = call.tensors[1] is not None
    for training in (True, False) if can_evaluate else (True,):
        for got, expected in zip(
            run(subject.batch_norm, call, training=training),
            run(functional.batch_norm, call, training=training),
            strict=True,
        ):
            assert_close(got, expected, **tolerance(dtype), equal_nan=True)
            assert got.stride() == expected.stride()


@each_dtype
@each_case
def test_gradients_equal_torch(case: OpCase, dtype: torch.dtype) -> None:
    gradients = []
    for function in (subject.batch_norm, functional.batch_norm):
        call = case.make(dtype, requires_grad=True)
        output = function(*call.tensors, **call.keywords)
        torch.manual_seed(7)
        upstream = torch.randn_like(output)
        gradients.append(torch.autograd.grad(output, call.differentiable, upstream))
    for got, expected in zip(*gradients, strict=True):
        scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
        assert_close(got, expected, rtol=0, atol=128 * torch.finfo(dtype).eps * scale)


def _malformed() -> list[tuple[str, Callable[[Call], Call]]]:
    def replace(place: int, value: Callable[[Tensor], Tensor | None]) -> Callable[[Call], Call]:
        def change(call: Call) -> Call:
            tensors = list(call.tensors)
            tensors[place] = value(tensors[place])
            return Call(tuple(tensors), call.keywords)

        return change

    def set_keyword(**keywords: object) -> Callable[[Call], Call]:
        return lambda call: Call(call.tensors, call.keywords | keywords)

    names = ("input", "running_mean", "running_var", "weight", "bias")
    changes = [
        (f"{names[i]}-one-longer", replace(i, lambda t: torch.ones(t.numel() + 1, dtype=t.dtype))) for i in (1, 2, 3, 4)
    ]
    changes += [(f"{names[i]}-another-dtype", replace(i, lambda t: t.to(torch.int32))) for i in range(5)]
    changes += [(f"{names[i]}-missing", replace(i, lambda t: None)) for i in (0, 1, 2)]
    changes += [(f"{names[i]}-not-a-tensor", replace(i, lambda t: "word")) for i in range(5)]
    changes += [
        ("input-without-channels", replace(0, lambda t: t.flatten())),
        ("input-scalar", replace(0, lambda t: t.sum())),
    ]
    changes += [("one-value-per-channel", replace(0, lambda t: t[:1, :, :1] if t.dim() > 2 else t[:1]))]
    changes += [("eps-negative", set_keyword(eps=-1.0)), ("eps-zero", set_keyword(eps=0.0))]
    changes += [("momentum-none", set_keyword(momentum=None)), ("unknown-keyword", set_keyword(foreign=1))]
    return changes


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in _malformed()])
def test_malformed_arguments_raise_what_torch_raises(change: Callable[[Call], Call], training: bool) -> None:
    """Each malformed call is first shown to torch: where it raises, the same kind of error is due; where it does
    not, no error."""
    case = next(case for case in OP_CASES if len(case.make(torch.float32).tensors[0].shape) == 3)
    call = change(case.make(torch.float32))
    call.keywords["training"] = training
    copies = [t.clone() if isinstance(t, Tensor) else t for t in call.tensors]
    try:
        expected = functional.batch_norm(*copies, **call.keywords)
    except Exception as error:
        before = [t.clone() if isinstance(t, Tensor) else t for t in call.tensors]
        with pytest.raises(type(error)):
            subject.batch_norm(*call.tensors, **call.keywords)
        for now, then in zip(call.tensors, before, strict=True):
            if isinstance(then, Tensor):
                assert_close(now, then, rtol=0, atol=0)  # a batch that is refused changes no buffer
    else:
        assert_close(subject.batch_norm(*call.tensors, **call.keywords), expected, **tolerance(expected.dtype))


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dtypes_that_op_db_does_not_list_are_refused(dtype: torch.dtype, training: bool) -> None:
    assert dtype not in OP.supported_dtypes("cpu")
    tensors = tuple(t.to(dtype) for t in OP_CASES[0].make(torch.float32).tensors)
    with pytest.raises((RuntimeError, TypeError)) as torchs:
        functional.batch_norm(*(t.clone() for t in tensors), training=training)
    with pytest.raises(torchs.type):
        subject.batch_norm(*tensors, training=training)


@float_or_double
@each_case
def test_noncontiguous_sample_changes_nothing(case: OpCase, dtype: torch.dtype) -> None:
    """torch 2.13 itself fails one of these: its backward reads a non-contiguous weight of an (N, C) input wrongly."""
    results = []
    for layout in (lambda t: t, noncontiguous_like):
        call = case.make(dtype, requires_grad=True).map(
            lambda t, f=layout: f(t.detach()).requires_grad_(t.requires_grad)
        )
        output = subject.batch_norm(*call.tensors, **call.keywords)
        torch.manual_seed(9)
        upstream = layout(torch.randn(output.shape, dtype=dtype))
        gradients = torch.autograd.grad(output, call.differentiable, upstream)
        results.append([t for t in (output, *gradients, *call.tensors[1:3]) if t is not None])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@float_or_double
@each_case
def test_negative_view_is_resolved(case: OpCase, dtype: torch.dtype) -> None:
    """A tensor with the negative bit set stands for -1 times its memory; whoever reads the memory itself gets the
    sign wrong."""

    def negated_view(tensor: Tensor) -> Tensor:
        view = torch._neg_view(-tensor.detach())
        assert view.is_neg() or not view.numel()
        return view.requires_grad_(tensor.requires_grad)

    results = []
    for change in (lambda t: t, negated_view):
        call = case.make(dtype, requires_grad=True).map(change)
        output = subject.batch_norm(*call.tensors, **call.keywords)
        gradients = torch.autograd.grad(output, call.differentiable, torch.ones_like(output) + output.detach())
        results.append([t.resolve_neg() for t in (output, *gradients, *call.tensors[1:3]) if t is not None])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@each_case
def test_copy_on_write_inputs_are_not_materialized(case: OpCase) -> None:
    """OpInfo excepts the running statistics (1 and 2 of the arguments), which training writes."""
    assert {1, 2} == set(OP.allow_cow_input_materialize_forward) == set(OP.allow_cow_input_materialize_backward)
    originals = case.make(torch.float32, requires_grad=True)
    lazy = originals.map(lambda t: torch._lazy_clone(t.detach()).requires_grad_(t.requires_grad))
    watched = [
        t for place, t in enumerate(lazy.tensors) if t is not None and (place not in (1, 2) or not case.training)
    ]
    values = [t.detach().clone() for t in originals.tensors if t is not None]
    assert all(torch._C._is_cow_tensor(t) for t in watched)

    output = subject.batch_norm(*lazy.tensors, **lazy.keywords)
    assert all(torch._C._is_cow_tensor(t) for t in watched), "materialized by the forward pass"

    upstream = torch._lazy_clone(torch.ones_like(output))
    torch.autograd.grad(output, lazy.differentiable, upstream)
    assert torch._C._is_cow_tensor(upstream), "the incoming gradient was materialized by the backward pass"
    assert all(torch._C._is_cow_tensor(t) for t in watched), "materialized by the backward pass"
    for now, then in zip([t for t in originals.tensors if t is not None], values, strict=True):
        assert_close(now.detach(), then, rtol=0, atol=0)


def _description(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.storage_offset(), tensor.layout, tensor.requires_grad


@each_dtype
@each_case
def test_fake_tensors_get_the_real_output_and_gradient_description(case: OpCase, dtype: torch.dtype) -> None:
    real = case.make(dtype, requires_grad=True)
    output = subject.batch_norm(*real.tensors, **real.keywords)
    gradients = torch.autograd.grad(output, real.differentiable, torch.ones_like(output))

    sample = case.make(dtype, requires_grad=True)
    mode = FakeTensorMode()
    fake = sample.map(lambda t: mode.from_tensor(t.detach()).requires_grad_(t.requires_grad))
    with mode:
        fake_output = subject.batch_norm(*fake.tensors, **fake.keywords)
        fake_gradients = torch.autograd.grad(fake_output, fake.differentiable, torch.ones_like(fake_output))

    assert isinstance(fake_output, FakeTensor)
    assert _description(fake_output) == _description(output)
    assert [_description(g) for g in fake_gradients] == [_description(g) for g in gradients]


@each_dtype
@each_case
def test_meta_tensors_get_the_real_output_description(case: OpCase, dtype: torch.dtype) -> None:
    real = case.make(dtype, requires_grad=True)
    output = subject.batch_norm(*real.tensors, **real.keywords)
    meta = real.map(lambda t: t.detach().to("meta").requires_grad_(t.requires_grad))
    meta_output = subject.batch_norm(*meta.tensors, **meta.keywords)
    assert meta_output.is_meta
    assert _description(meta_output) == _description(output)


def _composite_operation(case: OpCase) -> tuple[Callable[..., Tensor], tuple[Tensor | None, ...], dict[str, object]]:
    """The operation without its update of running statistics.

    Updating a plain buffer from a tensor subclass is the one thing that compliance forbids a function made of other
    operations (torch's is a primitive, and exempt): in training the buffers are left out, in evaluation they are
    inputs like others.
    """
    call = case.make(torch.float32, requires_grad=True)
    x, mean, variance, weight, bias = call.tensors
    if case.training:
        mean = variance = None
    return subject.batch_norm, (x, mean, variance, weight, bias), call.keywords


@each_case
def test_composite_compliance_of_the_operation(case: OpCase) -> None:
    """A tensor subclass that has no memory of its own sees every operation: nothing goes past the dispatcher."""
    operation, arguments, keywords = _composite_operation(case)
    composite_compliance.check_all_permutations(operation, arguments, keywords, assert_close)


@each_case
def test_composite_compliance_of_the_operation_with_its_update(case: OpCase) -> None:
    """The same under a mode that sees every operation on plain tensors, running statistics and their update
    included."""
    call = case.make(torch.float32, requires_grad=True)

    def operation(*tensors: Tensor | None, **keywords: object) -> Tensor:
        own = [None if t is None else t.clone() for t in tensors[1:3]]
        return subject.batch_norm(tensors[0], *own, *tensors[3:], **keywords)

    composite_compliance.check_with_mode(operation, call.tensors, call.keywords, assert_close)


@each_case
def test_composite_compliance_of_the_backward(case: OpCase) -> None:
    operation, arguments, keywords = _composite_operation(case)
    composite_compliance.check_backward_formula(operation, arguments, keywords, assert_equal_fn=_close)


@each_case
def test_composite_compliance_of_forward_mode(case: OpCase) -> None:
    operation, arguments, keywords = _composite_operation(case)
    composite_compliance.check_forward_ad_formula(operation, arguments, keywords, assert_equal_fn=_close)


def _close(got: object, expected: object, **_: object) -> None:
    assert_close(got, expected, rtol=1e-4, atol=5e-5)


def test_calls_here_are_the_calls_that_torch_makes() -> None:
    """A sample taken apart here and called is the sample that OpInfo calls, for torch's own function."""
    for case, sample in zip(OP_CASES, _samples_of_torch(), strict=True):
        expected = OP(sample.input, *(t if t is None else t.clone() for t in sample.args), **sample.kwargs)
        assert_close(run(functional.batch_norm, case.make(torch.float32))[0], expected.detach())


def _samples_of_torch() -> list[Any]:
    torch.manual_seed(OP_SEED)
    return list(OP.reference_inputs("cpu", torch.float32, requires_grad=True))


def test_importing_torchs_lists_leaves_backend_flags_settable() -> None:
    """They would freeze torch.backends for every test that runs after them in this process."""
    assert not torch.backends.flags_frozen()
