"""Which way a batch goes in each mode of torch: "fused" where nothing looks inside, "composed" where something does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing._internal.logging_tensor import LoggingTensorMode
from torch.utils.checkpoint import checkpoint

from batchnorm.kernels import select
from batchnorm.nn import BatchNorm1d

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

X = torch.randn(4, 3)


def ways_inside(call: Callable[[Callable[[Tensor], Tensor]], object]) -> set[str]:
    """The ways that a function sees which `call` runs in some mode."""
    seen = set()

    def look(x: Tensor) -> Tensor:
        seen.add(select.way(x))
        return x.sum()

    call(look)
    return seen


def test_plain_tensors_and_parameters_go_the_fused_way() -> None:
    assert select.way(X, None, torch.nn.Parameter(X)) == "fused"


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_do_not_change_the_way(guard: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    with guard():
        assert select.way(X) == "fused"


def test_autocast_does_not_change_the_way() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert select.way(X) == "fused"


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(f)(X),
        lambda f: torch.func.vmap(f)(X),
        lambda f: torch.func.jvp(f, (X,), (X,)),
        lambda f: torch.func.vjp(f, X),
        lambda f: torch.func.jacrev(f)(X),
        lambda f: torch.func.hessian(f)(X),
        lambda f: torch.func.functionalize(f)(X),
        lambda f: torch.func.vmap(torch.func.grad(f))(X),
        lambda f: torch.jit.trace(f, X, check_trace=False),
    ],
    ids=["grad", "vmap", "jvp", "vjp", "jacrev", "hessian", "functionalize", "vmap-grad", "jit-trace"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_transformations_go_the_composed_way(transform: Callable[[Callable[[Tensor], Tensor]], object]) -> None:
    assert ways_inside(transform) == {"composed"}
    assert select.way(X) == "fused"  # and nothing of it is left afterwards


@contextlib.contextmanager
def _dual_level() -> Iterator[None]:
    with forward_ad.dual_level():
        yield


@pytest.mark.parametrize("mode", [_dual_level, FakeTensorMode, LoggingTensorMode], ids=["dual", "fake", "dispatch"])
def test_modes_go_the_composed_way(mode: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    with mode():
        assert select.way(X) == "composed"
    assert select.way(X) == "fused"


def test_tensor_subclasses_go_the_composed_way() -> None:
    class Marked(Tensor):
        pass

    assert select.way(X.as_subclass(Marked)) == "composed"
    assert select.way(X, X.as_subclass(Marked)) == "composed"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_goes_the_composed_way(backend: str) -> None:
    torch._dynamo.reset()

    @torch.compile(backend=backend, fullgraph=True)
    def compiled(x: Tensor) -> Tensor:
        return x + (1 if select.way(x) == "composed" else 0)

    assert torch.equal(compiled(X), X + 1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradient_node_of_a_plain_layer_is_the_fused_one(training: bool, activation: str | None) -> None:
    layer = BatchNorm1d(3, activation=activation).train(training)
    y = layer(X)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "FusedBatchNormBackward"


def test_gradient_node_in_a_transformation_is_torchs_own() -> None:
    names = []
    layer = BatchNorm1d(3, track_running_stats=False)

    def loss(x: Tensor) -> Tensor:
        y = layer(x)
        names.append(y.grad_fn.name())
        return y.sum()

    torch.func.grad(loss)(X)
    assert names == ["ToCopyBackward0"]


def test_nothing_is_recorded_where_nothing_wants_a_gradient() -> None:
    layer = BatchNorm1d(3)
    with torch.no_grad():
        assert layer(X).grad_fn is None
    assert BatchNorm1d(3, affine=False)(X).grad_fn is None


def test_forward_pass_inside_a_backward_pass_is_seen() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(select.in_backward())
        return x.sin()

    checkpoint(look, X.clone().requires_grad_(), use_reentrant=False).sum().backward()
    assert seen == [False, True]
    assert not select.in_backward()
