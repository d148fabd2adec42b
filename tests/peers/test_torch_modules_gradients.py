"""torch's module suite over `module_db`: derivatives of BatchNorm1d/2d/3d, of every order and in every mode.

The checks go through torch's own `gradcheck` and `gradgradcheck` for its tests, in float64, with respect to input and
parameters. A layer in training updates buffers; each evaluation here gets its own copies, so that the function is pure.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.peers.torch_cases import LAYER_CASES, LayerCase, gradcheck, gradgradcheck
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, vmap
from torch.testing import assert_close

# torch's own forward-mode formulas are compiled by torch.jit.script, which torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

each_case = pytest.mark.parametrize("case", LAYER_CASES, ids=str)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def pure_layer(case: LayerCase, training: bool) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The layer as a function of (input, *parameters), and values for them that want gradients."""
    layer, x = case.make(training=training, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def function(x: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True)) | {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(layer, state, (x,))

    return function, (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))


@each_mode
@each_case
def test_gradcheck(case: LayerCase, training: bool) -> None:
    """Reverse mode against finite differences, with batched gradients and undefined gradients."""
    function, values = pure_layer(case, training)
    assert gradcheck(function, values, check_batched_grad=True, check_undefined_grad=True)


@each_mode
@each_case
def test_gradcheck_entry_by_entry(case: LayerCase, training: bool) -> None:
    """The same, each entry of the Jacobian for itself: the fast check above projects it on random vectors."""
    function, values = pure_layer(case, training)
    assert gradcheck(function, values, fast_mode=False, check_batched_grad=False)


@each_mode
@each_case
def test_gradgradcheck(case: LayerCase, training: bool) -> None:
    """Reverse over reverse, with batched gradients and undefined gradients."""
    function, values = pure_layer(case, training)
    assert gradgradcheck(function, values, check_batched_grad=True, check_undefined_grad=True)


@each_mode
@each_case
def test_gradgradcheck_forward_over_reverse(case: LayerCase, training: bool) -> None:
    function, values = pure_layer(case, training)
    assert gradgradcheck(
        function,
        values,
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_undefined_grad=False,
        check_batched_grad=False,
    )


@each_mode
@each_case
def test_forward_mode_gradcheck(case: LayerCase, training: bool) -> None:
    """Forward mode against finite differences, with batched and undefined tangents."""
    function, values = pure_layer(case, training)
    assert gradcheck(
        function,
        values,
        check_forward_ad=True,
        check_backward_ad=False,
        check_batched_grad=False,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


@each_mode
@each_case
def test_gradcheck_with_one_argument_fixed(case: LayerCase, training: bool) -> None:
    """Frozen input (a first layer), frozen parameters: whatever wants a gradient gets the right one."""
    function, values = pure_layer(case, training)
    for fixed in range(len(values) if len(values) > 1 else 0):
        partly = tuple(value.detach().requires_grad_(place != fixed) for place, value in enumerate(values))
        assert gradcheck(function, partly, check_batched_grad=True)


@each_mode
@each_case
def test_gradient_of_a_parameter_swapped_in_place_is_seen(case: LayerCase, training: bool) -> None:
    """The layer itself called, not a pure function of it: what gradcheck changes in place is what the layer reads."""
    layer, x = case.make(training=training, dtype=torch.float64, requires_grad=True)
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def call(x: Tensor, *_parameters: Tensor) -> Tensor:
        for name, buffer in buffers.items():
            setattr(layer, name, buffer.clone())
        return layer(x)

    assert gradcheck(call, (x, *layer.parameters()), check_batched_grad=False)


@each_mode
@each_case
def test_dual_input_gives_dual_output_and_plain_statistics(case: LayerCase, training: bool) -> None:
    layer, x = case.make(training=training, dtype=torch.float64)
    reference, _ = case.make_torch(training=training, dtype=torch.float64)
    tangent = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)

    with forward_ad.dual_level():
        got = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent)))
        expected = forward_ad.unpack_dual(reference(forward_ad.make_dual(x, tangent)))
        assert_close(got.primal, expected.primal)
        assert_close(got.tangent, expected.tangent)
        for name, buffer in layer.named_buffers():
            assert forward_ad.unpack_dual(buffer).tangent is None, f"{name} has become a dual tensor"
    for name, statistic in reference.named_buffers():
        if statistic.is_floating_point():
            assert_close(layer.get_buffer(name), statistic)


@each_mode
@each_case
def test_jacobians_of_either_mode_agree(case: LayerCase, training: bool) -> None:
    function, values = pure_layer(case, training)
    x, *parameters = (value.detach() for value in values)
    small = x[:2] if x.dim() == 2 else x.flatten(2)[:2, :, :2].reshape(-1, x.shape[1], *(1,) * (x.dim() - 3), 2)
    forward, backward = (jac(lambda x: function(x, *parameters))(small) for jac in (jacfwd, jacrev))
    assert forward.shape == (*small.shape, *small.shape)
    assert_close(forward, backward)


@each_case
def test_gradients_per_batch_by_vmap_equal_a_loop(case: LayerCase) -> None:
    """vmap of grad over several batches at test time (in training torch.nn, too, refuses to share running
    statistics)."""
    function, values = pure_layer(case, False)
    x, *parameters = (value.detach() for value in values)
    batches = torch.stack([x, 2 * x + 1, 3 - x])
    direction = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)

    def loss(values: tuple[Tensor, ...], shift: Tensor) -> Tensor:
        return (function(*values) * (direction + shift)).sum()

    shifts = torch.arange(3.0, dtype=x.dtype)
    together = vmap(grad(loss), in_dims=((0, *(None,) * len(parameters)), 0))((batches, *parameters), shifts)
    one_by_one = [grad(loss)((batch, *parameters), shift) for batch, shift in zip(batches, shifts, strict=True)]
    for got, *expected in zip(together, *one_by_one, strict=True):
        assert_close(got, torch.stack(expected))
