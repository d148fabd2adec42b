"""A compiled graph holds a layer as one operator of the compiled kernels, and computes what eager use does."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor.utils import fresh_cache, run_and_get_code
from torch.autograd import forward_ad
from torch.testing import assert_close

from batchnorm.kernels import choice, graph_op
from batchnorm.nn import BatchNorm1d, BatchNorm2d

pytestmark = pytest.mark.skipif(choice.current().kernel != "native", reason="the native kernels are not what runs")


def compiled(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Callable[..., Tensor], set[str]]:
    """`function` compiled without a graph break, and the names of the operators in its graph, once it is called."""
    torch._dynamo.reset()
    found: set[str] = set()

    def look(graph: fx.GraphModule, _inputs: Any) -> Any:
        found.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    return torch.compile(function, backend=look, fullgraph=True), found


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("shape", [(16, 5), (4, 5, 6, 6)], ids=["rows", "slabs"])
def test_graph_holds_one_operator_and_gives_eagers_bits(
    shape: tuple[int, ...], activation: str | None, training: bool
) -> None:
    build = BatchNorm1d if len(shape) == 2 else BatchNorm2d
    eager, graph = (build(5, activation=activation).train(training) for _ in range(2))
    run, operators = compiled(graph)
    x, other = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    dy = torch.randn(shape)
    y, y_graph = eager(x), run(other)
    y.backward(dy)
    y_graph.backward(dy)
    assert "batchnorm.normalize" in operators
    assert not operators & {"torch.rsqrt", "torch.addcmul"}, "the specification's operations were traced as well"
    assert torch.equal(y, y_graph)
    assert torch.equal(x.grad, other.grad)
    assert torch.equal(eager.weight.grad, graph.weight.grad)
    assert torch.equal(eager.bias.grad, graph.bias.grad)
    assert_close(eager.running_mean, graph.running_mean)
    assert_close(eager.running_var, graph.running_var)
    assert int(graph.num_batches_tracked) == int(eager.num_batches_tracked) == int(training)


def test_residual_and_mask_go_through_the_operator() -> None:
    eager, graph = BatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    run, operators = compiled(lambda x, r, m: graph(x, residual=r, mask=m))
    x, r, mask = torch.randn(8, 3), torch.randn(8, 3, requires_grad=True), torch.arange(8) % 3 > 0
    r_graph = r.detach().clone().requires_grad_()
    eager(x, residual=r, mask=mask).sum().backward()
    run(x, r_graph, mask).sum().backward()
    assert "batchnorm.normalize" in operators
    assert_close(r.grad, r_graph.grad)
    assert_close(eager.running_var, graph.running_var)


def test_frozen_parameters_get_no_gradient() -> None:
    layer = BatchNorm1d(3).requires_grad_(False)
    run, _ = compiled(layer)
    x = torch.randn(8, 3, requires_grad=True)
    run(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_runs_it() -> None:
    torch._dynamo.reset()
    layer, same = BatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    x = torch.randn(8, 3)
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), same(x))


def test_specification_is_traced_where_it_is_what_runs() -> None:
    with choice.using("spec"):
        run, operators = compiled(BatchNorm1d(3))
        run(torch.randn(4, 3))
    assert "batchnorm.normalize" not in operators


def test_transform_inside_a_graph_sees_the_specification() -> None:
    layer = BatchNorm1d(3, track_running_stats=False)
    run, operators = compiled(lambda x: torch.func.vmap(lambda part: layer(part))(x))
    x = torch.randn(2, 4, 3)
    assert_close(run(x), torch.stack([layer(part) for part in x]))
    assert "batchnorm.normalize" not in operators


def test_exported_training_needs_no_operator_of_ours() -> None:
    program = torch.export.export(BatchNorm1d(3), (torch.randn(4, 3),))
    assert not [n for n in program.graph.nodes if "batchnorm" in str(n.target)]


CASES = [
    ("rows", (16, 5), torch.float32),
    ("slabs", (4, 5, 6, 6), torch.float32),
    ("double", (4, 5, 6), torch.float64),
    ("bfloat16", (8, 5, 4, 4), torch.bfloat16),
    ("volumes", (2, 5, 3, 3, 3), torch.float32),
]


@pytest.mark.skipif(choice.layer_module() is None, reason="torch's headers were not at hand: there is one way only")
@pytest.mark.parametrize("activation", [0, 1, 5], ids=["plain", "relu", "silu"])
@pytest.mark.parametrize("lies", ["in order", "channels last", "transposed"])
@pytest.mark.parametrize(("shape", "dtype"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_operators_in_both_languages_are_one(
    shape: tuple[int, ...], dtype: torch.dtype, lies: str, activation: int
) -> None:
    assert graph_op.may_stand_here()
    x, dy, residual = (placed(torch.randn(shape).to(dtype), lies) for _ in range(3))
    channels = torch.float32 if dtype.itemsize < 8 else dtype
    weight, bias, mean, var = (torch.rand(10).to(channels)[::2] for _ in range(4))
    rows = torch.randint(0, 3, (shape[0], 1, *shape[2:])).double()
    for weights in (None, rows):
        for added in (None, residual, residual[:1].expand_as(residual), residual.to(torch.bfloat16)):
            for running in ((None, None), (mean, var)):
                given = (x, weight, bias, added, weights, *running, 1e-5, activation)
                y, block = torch.ops.batchnorm.normalize(*given)
                y_python, block_python = graph_op._normalize(*given)
                assert y.stride() == y_python.stride()
                assert torch.equal(y, y_python)
                known = 4 if running[0] is None else 3  # at test time nobody knows m2
                assert torch.equal(block[:known], block_python[:known])
                back = (x, weight, bias, added, weights, block, activation, running[0] is None)
                for needs in ([True, True, True, added is not None], [False, False, True, False]):
                    pairs = zip(
                        torch.ops.batchnorm.normalize_backward(dy, *back, needs),
                        graph_op._normalize_backward(dy, *back, needs),
                        strict=True,
                    )
                    assert all(torch.equal(cpp, python) and cpp.dtype == python.dtype for cpp, python in pairs)


def placed(t: Tensor, lies: str) -> Tensor:
    if lies == "channels last" and t.dim() in (4, 5):
        return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)
    return t if lies == "in order" else t.transpose(0, -1).contiguous().transpose(0, -1)


def test_operator_has_the_gradients_that_differences_have() -> None:
    assert graph_op.may_stand_here()
    x, weight, bias, residual = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((6, 3, 4), (3,), (3,), (6, 3, 4))
    )
    mean, var = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    for running in ((None, None), (mean, var)):

        def normalized(*given: Tensor, running: Any = running) -> Tensor:
            y, _ = torch.ops.batchnorm.normalize(*given, None, *running, 1e-5, 6)
            assert isinstance(y, Tensor)
            return y

        assert torch.autograd.gradcheck(normalized, (x, weight, bias, residual))


def test_operators_keep_torchs_rules() -> None:
    assert graph_op.may_stand_here()
    x, weight, bias = torch.randn(6, 3, requires_grad=True), torch.ones(3, requires_grad=True), torch.zeros(3)
    torch.library.opcheck(torch.ops.batchnorm.normalize, (x, weight, bias, None, None, None, None, 1e-5, 1))
    block = torch.ops.batchnorm.normalize(x.detach(), weight.detach(), bias, None, None, None, None, 1e-5, 1)[1]
    torch.library.opcheck(
        torch.ops.batchnorm.normalize_backward,
        (torch.randn(6, 3), x.detach(), weight.detach(), bias, None, None, block, 1, True, [True, True, False, False]),
    )


def test_operator_takes_an_empty_batch_at_test_time() -> None:
    assert graph_op.may_stand_here()
    y, block = torch.ops.batchnorm.normalize(
        torch.empty(0, 3, 2, 2), None, None, None, None, torch.zeros(3), torch.ones(3), 1e-5, 0
    )
    assert y.shape == (0, 3, 2, 2)
    gradients = torch.ops.batchnorm.normalize_backward(
        y, y, torch.ones(3), None, None, None, block, 0, False, [True, True, False, False]
    )
    assert torch.equal(gradients[1], torch.zeros(3))


REFUSED: dict[str, dict[str, Tensor]] = {
    "few parameters": {"weight": torch.ones(2)},
    "whole numbers": {"x": torch.ones(4, 3, dtype=torch.int64)},
    "one dimension": {"x": torch.ones(4)},
    "two dtypes": {"bias": torch.ones(3, dtype=torch.float64)},
    "a narrow residual": {"residual": torch.ones(1, 3)},
    "half of the statistics": {"running_mean": torch.zeros(3)},
    "weights of few rows": {"weights": torch.ones(2, 1, dtype=torch.float64)},
}


@pytest.mark.skipif(choice.layer_module() is None, reason="Python's tensors look after themselves")
@pytest.mark.parametrize("case", list(REFUSED))
def test_raw_operator_refuses_what_would_be_read_out_of_bounds(case: str) -> None:
    assert graph_op.may_stand_here()
    given = {"x": torch.ones(4, 3), "weight": torch.ones(3), "bias": torch.ones(3)} | REFUSED[case]
    rest = [given.get(name) for name in ("residual", "weights", "running_mean", "running_var")]
    with pytest.raises(RuntimeError, match="batchnorm::normalize expected"):
        torch.ops.batchnorm.normalize(given["x"], given["weight"], given["bias"], *rest, 1e-5, 0)


def test_second_derivative_is_refused_not_wrong() -> None:
    torch._dynamo.reset()
    run = torch.compile(BatchNorm1d(3, activation="tanh"), backend="eager")
    x = torch.randn(6, 3, requires_grad=True)
    (first,) = torch.autograd.grad(run(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
        torch.autograd.grad(first.pow(2).sum(), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiled_inside", [True, False])
def test_tangents_are_carried_or_refused(compiled_inside: bool) -> None:
    if not compiled_inside and choice.layer_module() is None:
        pytest.skip("torch's Python operators lose a tangent that comes later")
    torch._dynamo.reset()
    layer = BatchNorm1d(3).requires_grad_(False)
    run, x, t = torch.compile(layer, backend="eager"), torch.randn(4, 3), torch.randn(4, 3)
    if not compiled_inside:
        run(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, t)
        if compiled_inside:
            found = forward_ad.unpack_dual(run(dual)).tangent
            assert_close(found, forward_ad.unpack_dual(layer(dual)).tangent)
        else:
            with pytest.raises((RuntimeError, NotImplementedError), match="jvp is not implemented"):
                run(dual)


def test_graph_keeps_the_kernels_that_it_was_compiled_with() -> None:
    torch._dynamo.reset()
    layer, same = BatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    run, x = torch.compile(layer, backend="aot_eager"), torch.randn(8, 3)
    y = run(x)
    with choice.using("spec"):
        y.sum().backward()
        run(x).sum().backward()
    for _ in range(2):
        same(x).sum().backward()
    assert layer.weight.grad is not None
    assert same.weight.grad is not None
    assert_close(layer.weight.grad, same.weight.grad)
    assert_close(layer.running_var, same.running_var)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_values_go_from_convolutions_to_layers_as_they_lie(memory: torch.memory_format) -> None:
    torch._dynamo.reset()
    eager = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNorm2d(8, activation="relu"), nn.Conv2d(8, 8, 3), BatchNorm2d(8))
    graph = copy.deepcopy(eager)
    x = torch.randn(2, 3, 12, 12).contiguous(memory_format=memory)
    with fresh_cache():  # a kept one does not know that an operator's tags have changed
        _, sources = run_and_get_code(lambda: torch.compile(graph)(x).pow(3).sum().backward())
    eager(x).pow(3).sum().backward()
    for a, b in zip(eager.parameters(), graph.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    assert any("batchnorm.normalize.default" in source for source in sources)
    assert not any("cpp_fused_normalize" in source for source in sources), "values are turned around before a layer"


@pytest.mark.skipif(choice.layer_module() is None, reason="that is what runs")
def test_all_of_this_without_torchs_headers() -> None:
    """Where operators run from Python, as after an ordinary install."""
    told = "import sys, pytest; from batchnorm.kernels import choice; choice.layer_module = lambda: None; "
    run = f"sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', {str(Path(__file__))!r}]))"
    done = subprocess.run([sys.executable, "-c", told + run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
