"""The suites beside this file see a broken layer: each check is run here on one that has the mistake it is there
to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.peers import (
    subject,
    test_onnx_nodes,
    test_sklearn_scaler,
    test_torch_modules,
    test_torch_modules_gradients,
    test_torch_op,
    test_torch_op_gradients,
)
from tests.peers.test_sklearn_scaler import on_input_norm  # noqa: F401
from tests.peers.torch_cases import ERROR_CASES, LAYER_CASES, LAYER_INFOS, OP_CASES
from torch import Tensor
from torch.nn import functional

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


class PlainFunction(torch.autograd.Function):
    """What batch normalization usually is when somebody writes it: right, once differentiable, in reverse mode only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
        xhat = (x - mean) * rstd
        ctx.save_for_backward(xhat, rstd, weight)
        return xhat * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        xhat, rstd, weight = ctx.saved_tensors
        dims = [d for d in range(dy.dim()) if d != 1]
        g = dy * weight
        dx = rstd * (g - g.mean(dims, keepdim=True) - xhat * (g * xhat).mean(dims, keepdim=True))
        return dx, None, None, (dy * xhat).sum(dims, keepdim=True)


def plain_function(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Training through PlainFunction, everything else left to torch."""
    expected = functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training or x.numel() == 0:
        return expected
    shape = [1, -1] + [1] * (x.dim() - 2)
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x.detach(), dims, correction=0, keepdim=True)
    gamma = torch.ones_like(mean) if weight is None else weight.reshape(shape)
    y = PlainFunction.apply(x, mean, (variance + eps).rsqrt(), gamma)
    return y if bias is None else y + bias.reshape(shape)


def biased_variance(x, running_mean, running_var, *rest, **keywords):
    """The running variance gets the batch's biased variance."""
    before = None if running_var is None else running_var.clone()
    y = functional.batch_norm(x, running_mean, running_var, *rest, **keywords)
    m = x.numel() // x.shape[1] if x.dim() > 1 and x.numel() else 0
    if before is not None and m > 1:
        with torch.no_grad():
            running_var.copy_(before + (running_var - before) * (m - 1) / m)
    return y


def always_contiguous(x, *rest, **keywords):
    """channels_last in, contiguous out."""
    return functional.batch_norm(x, *rest, **keywords).contiguous()


def reads_memory(x, *rest, **keywords):
    """Takes the address of its input, as a call into C++ does: a copy-on-write tensor is copied for it."""
    assert x.data_ptr() or not x.numel()
    return functional.batch_norm(x, *rest, **keywords)


def ignores_the_negative_bit(x, *rest, **keywords):
    """Reads the memory of a tensor whose values are -1 times that memory."""
    return functional.batch_norm(torch._neg_view(x) if x.is_neg() else x, *rest, **keywords)


def assumes_contiguous(x, *rest, **keywords):
    """Takes a tensor's memory for its values in order."""
    wrong = x if x.is_contiguous() else x.as_strided(x.shape, torch.empty(x.shape).stride())
    return functional.batch_norm(wrong, *rest, **keywords)


def refuses_nothing(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Clamps a bad eps, stretches a statistic of the wrong length."""
    fitting = [None if t is None else t[: x.shape[1]] for t in (running_mean, running_var, weight, bias)]
    return functional.batch_norm(x, *fitting, training, momentum, max(eps, 1e-5))


def describes_wrongly(x, *rest, **keywords):
    """Gives another dtype where there are no values than where there are."""
    y = functional.batch_norm(x, *rest, **keywords)
    return y.double() if x.is_meta else y


def through_numpy(x, *rest, **keywords):
    """Leaves the graph: nothing that torch traces, transforms or fakes goes through."""
    functional.batch_norm(x, *rest, **keywords)
    return torch.from_numpy(np.array(x.detach().numpy()))


def layers_over(function: Callable[..., Tensor]) -> dict[str, type[torch.nn.Module]]:
    """BatchNorm1d/2d/3d of torch.nn that compute by `function`."""

    def forward(self: torch.nn.Module, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        by_batch = self.training or self.running_mean is None
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if momentum is None else momentum
        kept = (self.running_mean, self.running_var) if not self.training or self.track_running_stats else (None, None)
        return function(x, *kept, self.weight, self.bias, training=by_batch, momentum=momentum or 0.0, eps=self.eps)

    return {name: type(name, (info.module_cls,), {"forward": forward}) for name, info in LAYER_INFOS.items()}


FOUND = (AssertionError, RuntimeError, pytest.fail.Exception)
OP_CASE = next(case for case in OP_CASES if case.training and "x4-" in str(case))
LAYER_CASE = next(case for case in LAYER_CASES if str(case) == "BatchNorm2d-default")
OP_CHECKS = [
    (biased_variance, test_torch_op.test_output_and_running_statistics_equal_torch, {"dtype": torch.float32}),
    (through_numpy, test_torch_op.test_gradients_equal_torch, {"dtype": torch.float32}),
    (assumes_contiguous, test_torch_op.test_noncontiguous_sample_changes_nothing, {"dtype": torch.float32}),
    (ignores_the_negative_bit, test_torch_op.test_negative_view_is_resolved, {"dtype": torch.float32}),
    (reads_memory, test_torch_op.test_copy_on_write_inputs_are_not_materialized, {}),
    (
        through_numpy,
        test_torch_op.test_fake_tensors_get_the_real_output_and_gradient_description,
        {"dtype": torch.float32},
    ),
    (describes_wrongly, test_torch_op.test_meta_tensors_get_the_real_output_description, {"dtype": torch.float32}),
    (reads_memory, test_torch_op.test_composite_compliance_of_the_operation, {}),
    (reads_memory, test_torch_op.test_composite_compliance_of_the_backward, {}),
    (plain_function, test_torch_op.test_composite_compliance_of_forward_mode, {}),
    (through_numpy, test_torch_op_gradients.test_gradcheck, {}),
    (through_numpy, test_torch_op_gradients.test_gradcheck_entry_by_entry, {}),
    (plain_function, test_torch_op_gradients.test_gradgradcheck, {}),
    (plain_function, test_torch_op_gradients.test_gradgradcheck_entry_by_entry, {}),
    (plain_function, test_torch_op_gradients.test_gradgradcheck_forward_over_reverse, {}),
    (plain_function, test_torch_op_gradients.test_forward_mode_gradcheck, {}),
    (plain_function, test_torch_op_gradients.test_vmap_equals_a_loop, {}),
    (plain_function, test_torch_op_gradients.test_vmap_of_gradient_equals_a_loop, {}),
]
LAYER_CHECKS = [
    (
        biased_variance,
        test_torch_modules.test_forward_of_module_db_input_equals_torch_twice_over,
        {"training": True, "dtype": torch.float32},
    ),
    (
        always_contiguous,
        test_torch_modules.test_memory_format_of_input_is_kept_by_output_and_gradient,
        {"training": True, "dtype": torch.float32},
    ),
    (
        assumes_contiguous,
        test_torch_modules.test_noncontiguous_input_parameters_and_gradient_change_nothing,
        {"training": True},
    ),
    (plain_function, test_torch_modules_gradients.test_gradgradcheck, {"training": True}),
    (plain_function, test_torch_modules_gradients.test_gradgradcheck_forward_over_reverse, {"training": True}),
    (plain_function, test_torch_modules_gradients.test_forward_mode_gradcheck, {"training": True}),
    (
        plain_function,
        test_torch_modules_gradients.test_dual_input_gives_dual_output_and_plain_statistics,
        {"training": True},
    ),
    (plain_function, test_torch_modules_gradients.test_jacobians_of_either_mode_agree, {"training": True}),
    (through_numpy, test_torch_modules_gradients.test_gradcheck, {"training": True}),
    (through_numpy, test_torch_modules_gradients.test_gradcheck_with_one_argument_fixed, {"training": True}),
    (through_numpy, test_torch_modules_gradients.test_gradients_per_batch_by_vmap_equal_a_loop, {}),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("broken", "check", "arguments"), OP_CHECKS, ids=_name)
def test_op_check_fails_on_a_broken_function(
    broken: Callable[..., Tensor],
    check: Callable[..., None],
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "batch_norm", broken)
    with pytest.raises(FOUND):
        check(case=OP_CASE, **arguments)


@pytest.mark.parametrize("transformation", test_torch_op_gradients.TRANSFORMATIONS, ids=_name)
def test_transformation_check_fails_on_a_plain_function(
    transformation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "batch_norm", plain_function)
    with pytest.raises(FOUND):
        test_torch_op_gradients.test_transformation_equals_the_textbook(OP_CASE, transformation)


@pytest.mark.parametrize(("broken", "check", "arguments"), LAYER_CHECKS, ids=_name)
def test_layer_check_fails_on_a_broken_layer(
    broken: Callable[..., Tensor],
    check: Callable[..., None],
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "LAYERS", layers_over(broken))
    monkeypatch.setattr(subject, "statistics_dtype", lambda dtype: dtype)
    with pytest.raises(FOUND):
        check(case=LAYER_CASE, **arguments)


def test_error_checks_fail_on_a_function_that_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LAYERS", layers_over(refuses_nothing))
    for case in ERROR_CASES:
        with pytest.raises(FOUND):
            test_torch_modules.test_error_input_of_module_db_raises(case)

    monkeypatch.setattr(subject, "batch_norm", refuses_nothing)
    found = 0
    for _, change in test_torch_op._malformed():
        try:
            test_torch_op.test_malformed_arguments_raise_what_torch_raises(change, True)
        except (*FOUND, IndexError):
            found += 1
    assert found >= 5


@pytest.mark.parametrize("case", [case for case in test_onnx_nodes.NODE_CASES if len(case.outputs) == 3], ids=str)
def test_onnx_training_case_fails_on_a_biased_variance(
    case: test_onnx_nodes.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "batch_norm", biased_variance)
    with pytest.raises(AssertionError):
        test_onnx_nodes.test_node_case_gives_the_stored_outputs(case)


InputNorm = subject.InputNorm


def _unbiased(norm: InputNorm) -> Tensor:
    return norm.m2 / (norm.count - 1).clamp(min=1)


BROKEN_NORMS = {
    "unbiased-variance": {"variance": property(_unbiased), "std": property(lambda norm: _unbiased(norm).sqrt())},
    "forgets-earlier-batches": {"partial_fit": InputNorm.fit},
    "ignores-weights": {"fit": lambda norm, data, sample_weight=None: InputNorm.fit(norm, data)},
    "centres-only": {"forward": lambda norm, x: x - norm.mean.to(x.dtype)},
    "inverse-forgets-the-mean": {"inverse": lambda norm, y: y * norm.std.to(y.dtype)},
}


@pytest.mark.usefixtures("on_input_norm")
@pytest.mark.parametrize("name", BROKEN_NORMS)
def test_tests_of_scikit_learn_fail_on_a_broken_input_norm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "InputNorm", type("InputNorm", (InputNorm,), BROKEN_NORMS[name]))
    failed = 0
    for case in test_sklearn_scaler.CASES:
        try:
            test_sklearn_scaler.test_of_scikit_learn_passes(*case.values)
        except FOUND:
            failed += 1
    assert failed > 0
