"""Everything that looks inside a layer: higher derivatives, forward mode, torch.func, fx, compile, export."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.testing import assert_close

import batchnorm
from batchnorm.functional import batch_norm
from batchnorm.kernels.activations import ACTIVATIONS

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# The CPU compiler of torch, too, uses what torch has deprecated.
compiler_warnings = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

SHAPES = {"BatchNorm1d": (4, 2), "BatchNorm2d": (2, 2, 2, 2), "BatchNorm3d": (2, 2, 1, 2, 2)}

each_name = pytest.mark.parametrize("name", list(SHAPES))
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
each_activation = pytest.mark.parametrize("activation", [None, *ACTIVATIONS])


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(name: str, *, training: bool, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, parameters and statistics off 1 and 0."""
    made = getattr(batchnorm, name)(2, **settings).double(), getattr(nn, name)(2).double()
    for layer in made:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, -1.5]))
            layer.bias.copy_(torch.tensor([0.25, -0.5]))
            layer.running_mean.copy_(torch.tensor([0.5, -0.5]))
            layer.running_var.copy_(torch.tensor([0.7, 2.0]))
    return made[0].train(training), made[1].train(training)


def state(layer: nn.Module) -> dict[str, Tensor]:
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def pure(layer: nn.Module, x: Tensor, **parameters: Tensor) -> Tensor:
    """The layer as a function of x and parameters: its buffers are copied, so that nothing outlives the call."""
    buffers = {name: value.clone() for name, value in layer.named_buffers()}
    return functional_call(layer, {**dict(layer.named_parameters()), **buffers, **parameters}, (x,))


@each_mode
@each_activation
def test_first_and_second_derivatives_equal_differences(activation: str | None, training: bool) -> None:
    layer, _ = pair("BatchNorm1d", training=training, activation=activation)
    given = values(4, 2).requires_grad_(), *layer.parameters()
    function = lambda x, weight, bias: pure(layer, x, weight=weight, bias=bias)  # noqa: E731
    assert gradcheck(function, given, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, given, check_fwd_over_rev=True, check_batched_grad=True)


@each_mode
@each_name
def test_third_derivative_equals_torchs_operations(name: str, training: bool) -> None:
    """torch.nn's own double backward cannot be differentiated again; the formula in plain operations can."""
    layer, _ = pair(name, training=training)
    shape = SHAPES[name]
    dims = (0, *range(2, len(shape)))

    def by_operations(x: Tensor) -> Tensor:
        column = (1, 2, *(1,) * (len(shape) - 2))
        mean, var = (x.mean(dims), x.var(dims, correction=0)) if training else (layer.running_mean, layer.running_var)
        z = (x - mean.view(column)) / torch.sqrt(var.view(column) + layer.eps)
        return z * layer.weight.view(column) + layer.bias.view(column)

    def third(function: Callable[[Tensor], Tensor]) -> Tensor:
        x = values(*shape).requires_grad_()
        derivative = function(x).pow(3).sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(derivative, x, create_graph=True)
            derivative = slope.pow(2).sum()
        return slope.detach()

    assert_close(third(layer), third(by_operations), rtol=1e-8, atol=1e-8)


@each_mode
@each_name
def test_double_backward_equals_torch(name: str, training: bool) -> None:
    outcomes = []
    for layer in pair(name, training=training):
        x = values(*SHAPES[name]).requires_grad_()
        first = torch.autograd.grad(layer(x).pow(2).sum(), [x, *layer.parameters()], create_graph=True)
        penalty = sum(g.pow(2).sum() for g in first)
        outcomes.append(torch.autograd.grad(penalty, [x, *layer.parameters()]))
    assert_close(outcomes[0], outcomes[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("twice", ["x-is-residual", "weight-is-bias"])
def test_double_backward_with_one_tensor_in_two_roles(twice: str) -> None:
    def first_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        x, w = values(4, 2).requires_grad_(), values(2, seed=1).requires_grad_()
        first = torch.autograd.grad(function(x, w).pow(2).sum(), [x, w], create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), [x, w])

    def ours(x: Tensor, w: Tensor) -> Tensor:
        if twice == "x-is-residual":
            return batch_norm(x, None, None, w, None, training=True, residual=x)
        return batch_norm(x, None, None, w, w, training=True)

    def torchs(x: Tensor, w: Tensor) -> Tensor:
        if twice == "x-is-residual":
            return nn.functional.batch_norm(x, None, None, w, None, training=True) + x
        return nn.functional.batch_norm(x, None, None, w, w, training=True)

    assert_close(first_gradient(ours), first_gradient(torchs), rtol=1e-9, atol=1e-9)


def test_backward_may_run_twice_where_the_graph_is_kept() -> None:
    layer, _ = pair("BatchNorm1d", training=True, activation="relu")
    x = values(4, 2).requires_grad_()
    loss = layer(x).pow(2).sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    assert_close(x.grad, 2 * once)


def test_values_changed_in_place_before_backward_are_an_error() -> None:
    layer, _ = pair("BatchNorm1d", training=True)
    x = values(4, 2).requires_grad_()
    inside = x * 1
    loss = layer(inside).sum()
    inside.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_mode
@each_name
def test_forward_mode_equals_the_directional_derivative(name: str, training: bool) -> None:
    layer, torchs = pair(name, training=training)
    x, direction = values(*SHAPES[name]), values(*SHAPES[name], seed=1)
    with forward_ad.dual_level():
        y, tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)))
    assert_close(y, torchs(x))
    _, expected = jvp(lambda v: pure(torchs, v), (x,), (direction,))
    assert_close(tangent, expected)
    assert not layer.running_mean.requires_grad


@each_mode
@each_name
def test_jacobians_of_both_modes_equal_torch(name: str, training: bool) -> None:
    layer, torchs = pair(name, training=training)
    x = values(*SHAPES[name])
    expected = torch.autograd.functional.jacobian(lambda v: pure(torchs, v), x)
    assert_close(jacrev(lambda v: pure(layer, v))(x), expected, rtol=1e-9, atol=1e-12)
    assert_close(jacfwd(lambda v: pure(layer, v))(x), expected, rtol=1e-9, atol=1e-12)


@each_mode
@pytest.mark.parametrize("chunk", [None, 2])
@each_name
def test_vmap_equals_a_loop(name: str, training: bool, chunk: int | None) -> None:
    layer, _ = pair(name, training=training, activation="tanh")
    x = values(5, *SHAPES[name])
    found = vmap(lambda v: pure_by_batch(layer, v), chunk_size=chunk)(x)
    assert_close(found, torch.stack([pure_by_batch(layer, v) for v in x]))
    inner = x.movedim(0, -1)
    assert_close(vmap(lambda v: pure_by_batch(layer, v), in_dims=-1, out_dims=-1)(inner), found.movedim(0, -1))


def pure_by_batch(layer: Any, x: Tensor) -> Tensor:
    """The layer without statistics to update in training: vmap cannot update one buffer by many batches."""
    running = (None, None) if layer.training else (layer.running_mean, layer.running_var)
    return batch_norm(x, *running, layer.weight, layer.bias, layer.training, eps=layer.eps, activation=layer.activation)


def test_vmap_over_one_buffer_is_refused_as_torch_does() -> None:
    for layer in pair("BatchNorm1d", training=True):
        before = {name: value.clone() for name, value in layer.state_dict().items() if "running" in name}
        with pytest.raises(RuntimeError):
            vmap(layer)(values(5, 4, 2))
        assert_close({name: layer.state_dict()[name] for name in before}, before, rtol=0, atol=0)


@each_mode
def test_vmap_over_mask_and_residual_equals_a_loop(training: bool) -> None:
    layer, _ = pair("BatchNorm1d", training=training, activation="gelu")
    x, residual = values(3, 6, 2), values(3, 6, 2, seed=1)
    mask = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1]], dtype=torch.bool)
    running = (None, None) if training else (layer.running_mean, layer.running_var)

    def one(x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
        return batch_norm(x, *running, layer.weight, layer.bias, training, residual=residual, mask=mask)

    found = vmap(one)(x, residual, mask)
    assert_close(found, torch.stack([one(*v) for v in zip(x, residual, mask, strict=True)]))


@each_mode
def test_ensemble_of_stacked_layers_equals_a_loop(training: bool) -> None:
    """Each member has statistics of its own, and they are updated."""
    members = [nn.Sequential(nn.Linear(3, 2), batchnorm.BatchNorm1d(2, activation="relu")).double() for _ in range(3)]
    for member in members:
        member.train(training)
    parameters, buffers = stack_module_state(members)
    buffers = {name: value.clone() for name, value in buffers.items()}
    x = values(6, 3)
    found = vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(parameters, buffers)
    assert_close(found, torch.stack([member(x) for member in members]))
    for name, value in buffers.items():
        expected = torch.stack([dict(member.named_buffers())[name] for member in members])
        assert_close(value, expected, check_dtype=False)


def _network(build: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), build(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "no-statistics"])
def test_per_sample_gradients_equal_a_loop_and_torch(training: bool) -> None:
    """In training a sample is a batch of its own, which needs more positions than one and no statistics to update."""
    x, y = values(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    outcomes = []
    for build in (batchnorm.BatchNorm2d, nn.BatchNorm2d):
        network = _network(build).train(training)
        if training:
            network[1] = build(2, track_running_stats=False).double()
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        buffers = dict(network.named_buffers())

        def loss(p: dict[str, Tensor], x: Tensor, y: Tensor, network: nn.Module, buffers: Any) -> Tensor:
            scores = functional_call(network, (p, buffers), (x[None],))
            return nn.functional.cross_entropy(scores, y[None])

        one = lambda p, x, y, n=network, b=buffers: loss(p, x, y, n, b)  # noqa: E731
        together = vmap(grad(one), in_dims=(None, 0, 0))(parameters, x, y)
        for i in range(5):
            single = torch.autograd.grad(
                nn.functional.cross_entropy(network(x[i : i + 1]), y[i : i + 1]), list(network.parameters())
            )
            assert_close([together[name][i] for name in parameters], list(single), rtol=1e-9, atol=1e-12)
        outcomes.append(together)
    assert_close(outcomes[0], outcomes[1], rtol=1e-9, atol=1e-12)


def test_statistics_outside_a_functional_gradient_are_refused_and_unchanged_as_torchs() -> None:
    for layer in pair("BatchNorm1d", training=True):
        before = layer.running_mean.clone(), layer.running_var.clone()
        with pytest.raises(RuntimeError, match="would mutate a captured Tensor"):
            grad(lambda x, f=layer: f(x).sum())(values(4, 2))
        assert_close((layer.running_mean, layer.running_var), before, rtol=0, atol=0)


@contextlib.contextmanager
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def assert_compiled_equals_eager(name: str, backend: str, *, training: bool, steps: int = 3, **settings: Any) -> None:
    eager, twin = (pair(name, training=training, **settings)[0] for _ in range(2))
    with fresh_compiler():
        compiled = torch.compile(twin, backend=backend, fullgraph=True)
        for step in range(steps):
            outcomes = []
            for layer, run in ((eager, eager), (twin, compiled)):
                x = values(*SHAPES[name], seed=step).requires_grad_()
                y = run(x)
                outcomes.append((y.detach(), *torch.autograd.grad(y.pow(2).sum(), [x, *layer.parameters()])))
            assert_close(outcomes[0], outcomes[1], rtol=1e-9, atol=1e-10)
        assert_close(twin.state_dict(), eager.state_dict(), rtol=1e-12, atol=1e-13)
        assert int(twin.num_batches_tracked) == steps * training


@each_mode
@each_name
def test_compiled_fullgraph_equals_eager_with_its_updates(name: str, training: bool) -> None:
    assert_compiled_equals_eager(name, "aot_eager", training=training)


@pytest.mark.parametrize("settings", [{"momentum": None}, {"activation": "gelu"}], ids=str)
def test_compiled_settings_equal_eager(settings: dict[str, Any]) -> None:
    assert_compiled_equals_eager("BatchNorm1d", "aot_eager", training=True, **settings)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's CPU compiler needs g++, which is not installed")
@compiler_warnings
def test_inductor_equals_eager() -> None:
    assert_compiled_equals_eager("BatchNorm2d", "inductor", training=True, activation="relu", steps=2)


def test_compiled_layer_takes_mask_and_residual() -> None:
    eager, twin = (pair("BatchNorm1d", training=True, activation="relu")[0] for _ in range(2))
    x, residual = values(6, 2), values(6, 2, seed=1)
    mask = torch.tensor([True, True, False, True, False, True])
    with fresh_compiler():
        compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            assert_close(compiled(x, residual=residual, mask=mask), eager(x, residual=residual, mask=mask))
    assert_close(twin.state_dict(), eager.state_dict())


def test_compiled_layer_goes_on_with_another_batch_size() -> None:
    eager, twin = (pair("BatchNorm1d", training=True)[0] for _ in range(2))
    with fresh_compiler():
        compiled = torch.compile(twin, backend="aot_eager", fullgraph=True, dynamic=True)
        for rows in (4, 7, 9):
            assert_close(compiled(values(rows, 2)), eager(values(rows, 2)))


@each_mode
@each_name
def test_symbolic_trace_keeps_the_layer_as_one_node(name: str, training: bool) -> None:
    layer, _ = pair(name, training=training, activation="silu")
    network = nn.Sequential(layer, nn.ReLU())
    traced = torch.fx.symbolic_trace(network)
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert [node.target for node in calls] == ["0", "1"]
    assert getattr(traced, "0") is layer
    x = values(*SHAPES[name])
    assert_close(traced(x), nn.functional.relu(pure(layer, x)), check_stride=False)


def test_symbolic_trace_keeps_mask_and_residual() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = pair("BatchNorm1d", training=False, activation="relu")[0]

        def forward(self, x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
            return self.norm(x, residual=residual, mask=mask)

    block = Block().eval()
    traced = torch.fx.symbolic_trace(block)
    (node,) = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert list(node.kwargs) == ["residual", "mask"]
    given = values(4, 2), values(4, 2, seed=1), torch.tensor([True, False, True, True])
    assert_close(traced(*given), block(*given))


def test_symbolic_trace_keeps_the_function_as_one_node() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return batch_norm(x, None, None, training=True, activation="relu")

    traced = torch.fx.symbolic_trace(Plain())
    (node,) = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert node.target is batch_norm
    assert_close(traced(values(4, 2)), Plain()(values(4, 2)))


@pytest.mark.parametrize("strict", [True, False])
@each_mode
@each_name
def test_export_equals_eager_with_its_updates(name: str, training: bool, strict: bool) -> None:
    layer, _ = pair(name, training=training, activation="relu")
    network = nn.Sequential(layer).train(training)
    x = values(*SHAPES[name])
    with fresh_compiler():
        exported = torch.export.export(network, (x,), strict=strict)
    module = exported.module()
    twin, _ = pair(name, training=training, activation="relu")
    assert_close(module(x), twin(x))
    found = {key.removeprefix("0."): value for key, value in module.state_dict().items()}
    # An evaluating layer's counter is read by nothing, and a strict export leaves such buffers out, torch.nn's as well.
    assert set(twin.state_dict()) - set(found) <= (set() if training else {"num_batches_tracked"})
    assert_close(found, {key: twin.state_dict()[key] for key in found})


def test_export_with_any_batch_size() -> None:
    layer, torchs = pair("BatchNorm1d", training=False)
    rows = torch.export.Dim("rows")
    with fresh_compiler():
        exported = torch.export.export(nn.Sequential(layer).eval(), (values(4, 2),), dynamic_shapes=({0: rows},))
    assert_close(exported.module()(values(11, 2)), torchs(values(11, 2)))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace_equals_eager_in_evaluation() -> None:
    layer, torchs = pair("BatchNorm1d", training=False)
    traced = torch.jit.trace(layer, values(4, 2), check_trace=False)
    assert_close(traced(values(4, 2, seed=1)), torchs(values(4, 2, seed=1)))
