"""The layer's call in one step against torch's C++ autograd: taken in the usual case, left in every other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch.testing import assert_close

from batchnorm.errors import StatisticsWarning
from batchnorm.kernels import choice, spec
from batchnorm.nn import BatchNorm1d, BatchNorm2d

choice.current()
HAS_CALL = choice.layer_call is not None
pytestmark = pytest.mark.skipif(not HAS_CALL and not os.environ.get("CI"), reason="not built beside this torch")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the one-step call answered, in order; None where it left the case to Python."""
    found: list[object] = []
    call = choice.layer_call
    assert call is not None, "not built: `make` builds it beside the torch it will run with"

    def listened(*args: object) -> object:
        found.append(call(*args))
        return found[-1]

    monkeypatch.setattr(choice, "layer_call", listened)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_usual_case_is_taken(answers: list[object], training: bool, dtype: torch.dtype) -> None:
    layer = BatchNorm2d(3, activation="relu", dtype=dtype).train(training)
    x = torch.randn(2, 3, 4, 4).to(dtype)
    layer(x)
    layer(x.contiguous(memory_format=torch.channels_last), residual=x.contiguous(memory_format=torch.channels_last))
    assert [isinstance(a, Tensor) for a in answers] == [True, True]


class Marked(Tensor):
    """A subclass of its own."""


LEFT: dict[str, tuple[Callable[[BatchNorm1d], object], type[Exception] | None]] = {
    "one value per channel": (lambda layer: layer(torch.ones(1, 3)), ValueError),
    "wrong channels": (lambda layer: layer(torch.ones(4, 2)), RuntimeError),
    "wrong dimensions": (lambda layer: layer(torch.ones(4, 3, 2, 2)), ValueError),
    "integers": (lambda layer: layer(torch.ones(4, 3).long()), RuntimeError),
    "not a tensor": (lambda layer: layer([[1.0, 2.0, 3.0]]), AttributeError),
    "another dtype": (lambda layer: layer(torch.ones(4, 3).double()), RuntimeError),
    "residual of another shape": (lambda layer: layer(torch.ones(4, 3), residual=torch.ones(4, 1)), ValueError),
    "empty": (lambda layer: layer(torch.empty(0, 3)), None),
    "transposed": (lambda layer: layer(torch.randn(3, 8).t()), None),
    "vmap": (lambda layer: torch.func.vmap(layer.eval())(torch.randn(2, 4, 3)), None),
    "a subclass": (lambda layer: layer(torch.randn(4, 3).as_subclass(Marked)), None),
    "meta": (lambda layer: layer.to("meta")(torch.randn(4, 3, device="meta")), None),
}


@pytest.mark.parametrize("case", list(LEFT))
def test_unusual_case_is_left_to_python(answers: list[object], case: str) -> None:
    call, error = LEFT[case]
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        call(BatchNorm1d(3))
    assert answers[-1:] == [None]


def test_plain_average_is_one_step_until_a_batch_is_refused(answers: list[object]) -> None:
    layer, same = BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 3)
        layer(x)
        same(x)
    assert None not in answers
    assert_close(layer.running_mean, same.running_mean)
    assert_close(layer.running_var, same.running_var)
    with pytest.warns(StatisticsWarning):
        layer(torch.full((4, 3), torch.nan))
    layer(torch.randn(4, 3))  # counts of channels may differ from now on
    assert answers[-1] is None
    assert layer.num_batches_tracked == 5
    layer.eval()(torch.randn(4, 3))
    assert answers[-1] is not None


def test_gradients_are_those_of_torchs_layer(answers: list[object]) -> None:
    ours, theirs = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    grads = [torch.autograd.grad(layer(x).sin().sum(), (x, layer.weight, layer.bias)) for layer in (ours, theirs)]
    assert_close(*grads)
    assert isinstance(answers[0], Tensor)


def test_gradient_of_a_gradient_goes_through_python(answers: list[object]) -> None:
    ours, theirs = BatchNorm1d(3, activation="tanh").double(), nn.BatchNorm1d(3).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    second = []
    for layer in (ours, lambda t: theirs(t).tanh()):
        (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(g.square().sum(), x)[0])
    assert_close(*second)
    assert isinstance(answers[0], Tensor)


def test_backward_twice_without_retaining_is_torchs_error() -> None:
    y = BatchNorm1d(3)(torch.randn(4, 3, requires_grad=True)).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()


def test_value_changed_in_place_before_backward_is_torchs_error() -> None:
    x = torch.randn(4, 3, requires_grad=True) * 1
    y = BatchNorm1d(3)(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hook_on_a_saved_tensor_may_raise() -> None:
    """Non-reentrant checkpointing stops a recomputation that way."""

    def refuse(_: Tensor) -> None:
        raise KeyError("from the hook")

    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda t: t), pytest.raises(KeyError, match="from the hook"):
        BatchNorm1d(3)(torch.randn(4, 3, requires_grad=True))


def test_running_statistics_count_as_changed() -> None:
    layer = BatchNorm1d(3)
    layer(torch.randn(4, 3))
    assert layer.running_mean._version > 0
    assert layer.num_batches_tracked._version > 0


@pytest.mark.parametrize("kernel", ["spec"])
def test_choice_of_the_specification_turns_it_off(kernel: str) -> None:
    with choice.using(kernel):
        assert choice.layer_call is None
    assert choice.layer_call is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_model_made_in_inference_mode_runs_by_the_kernels(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        layer, x = BatchNorm1d(5, dtype=dtype).eval(), torch.randn(7, 5, dtype=dtype)
    monkeypatch.setattr(spec, "normalize", None)  # the specification's way takes ten times as long
    found = []
    for call in (choice.layer_call, None):
        monkeypatch.setattr(choice, "layer_call", call)
        with torch.inference_mode():
            found.append(layer(x))
        with torch.no_grad():
            found.append(layer(x))
    assert all(torch.equal(y, found[0]) for y in found)
    assert_close(found[0], x / (1 + 1e-5) ** 0.5)


def test_model_made_in_inference_mode_trains_there_alone() -> None:
    with torch.inference_mode():
        layer, same = BatchNorm1d(5), nn.BatchNorm1d(5)
        x = torch.randn(7, 5)
        assert_close(layer(x), same(x))
        assert_close(layer.running_var, same.running_var)
    with pytest.raises(RuntimeError, match="outside InferenceMode"):
        layer(torch.randn(7, 5))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("settings", [{"activation": "silu"}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiled_autograd_takes_the_call_down(settings: dict[str, Any], training: bool) -> None:
    torch._dynamo.reset()
    layer, same = (BatchNorm2d(3, **settings).train(training) for _ in range(2))
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    other, residual = x.detach().clone().requires_grad_(), torch.randn(4, 3, 5, 5, requires_grad=True)
    other_residual = residual.detach().clone().requires_grad_()
    for _ in range(2):
        loss = layer(x * 1, residual=residual * 1).pow(3).sum()
        with compiled_autograd._enable(torch.compile(backend="aot_eager")):
            loss.backward()
        same(other * 1, residual=other_residual * 1).pow(3).sum().backward()
    assert_close(x.grad, other.grad)
    assert_close(residual.grad, other_residual.grad)
    for a, b in zip(layer.parameters(), same.parameters(), strict=True):
        assert_close(a.grad, b.grad)
