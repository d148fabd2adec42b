"""The compiled kernels as operators of torch's, so that a graph of torch.compile's holds a layer as one node.

    batchnorm::normalize(x, ...) -> y, block            batchnorm::normalize_backward(dy, x, ..., block) -> gradients

Both only read what they are given; running statistics are moved by torch's own operations beside them. Eager use does
not come here: an operator in Python costs more than the kernels of a small batch.

They run in C++ where torch's headers were at hand (csrc/torch/operators.cpp, which says the same), else from here. A
graph keeps the kernels that it was compiled with, whatever is chosen later.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from batchnorm.kernels import choice, native
from batchnorm.kernels.layout import laid_out
from batchnorm.kernels.native import ACTIVATION_NUMBERS, ACTIVATIONS_BY_NUMBER, Settled
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine

_library: Any = None  # torch's record of the operators, which lives as long as the process


def run(
    x: Tensor, affine: Affine, *, weights: Tensor | None, eps: float, running: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Settled]:
    """y like x, and what x was normalized by; for a graph that is being compiled, where it `may_stand_here()`.

    Args:
        running: (running_mean, running_var) at test time, None where the batch's own are used.
    """
    mean, var = (None, None) if running is None else running
    number = ACTIVATION_NUMBERS[affine.activation]
    y, block = torch.ops.batchnorm.normalize(
        x, affine.weight, affine.bias, affine.residual, weights, mean, var, eps, number
    )
    count = x.numel() // x.shape[1] if weights is None else weights.sum()
    return y, Settled(block, running is None, count)  # type: ignore[arg-type]


def may_stand_here() -> bool:
    """Whether the compiled kernels run, and nothing differentiates or batches here that operators have no rule for.

    Defines the operators when first asked.
    """
    global _library
    if choice.native() is None or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if forward_ad._current_level >= 0:
        return False
    if _library is None:
        _library = _define()
    return True


# What torch.compiler.assume_constant_result says of a function, without importing torch._dynamo for it: that takes as
# long as importing torch.
may_stand_here._dynamo_marked_constant = True  # type: ignore[attr-defined]


def takes(x: Tensor, *channels: Tensor | None) -> bool:
    """Whether the operators take x and these (C,) tensors, as far as a tensor without values tells."""
    given = [t for t in channels if t is not None]
    return (
        x.device.type == "cpu"
        and x.dtype in native.ELEMENTS
        and all(t.device.type == "cpu" and t.dtype in native.ELEMENTS and t.dtype == given[0].dtype for t in given)
    )


def _define() -> Any:
    library: Any = torch.library.Library("batchnorm", "DEF")  # type: ignore[no-untyped-call]
    # Whichever way values lie: a compiler that is told nothing turns what its convolutions give around at every layer.
    tags = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
    library.define(
        "normalize(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? weights, Tensor? running_mean, "
        "Tensor? running_var, float eps, int activation) -> (Tensor, Tensor)",
        tags=tags,
    )
    library.define(
        "normalize_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? weights, "
        "Tensor block, int activation, bool training, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
        tags=tags,
    )
    module = choice.layer_module()
    if module is not None:
        module.register_operators()
    else:
        library.impl("normalize", _normalize, "CPU")
        library.impl("normalize_backward", _normalize_backward, "CPU")
        torch.library.register_autograd("batchnorm::normalize", _gradients, setup_context=_keep, lib=library)
        torch.library.register_autograd("batchnorm::normalize_backward", _no_gradients, lib=library)
    torch.library.register_fake("batchnorm::normalize", _normalize_shapes, lib=library)
    torch.library.register_fake("batchnorm::normalize_backward", _backward_shapes, lib=library)
    return library


def _normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    weights: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    if x.numel() == 0:
        return torch.empty_like(laid_out(x)), x.new_zeros((4, x.shape[1]), dtype=torch.float64)
    affine = Affine(weight, bias, residual, ACTIVATIONS_BY_NUMBER[activation])
    constants = None
    if running_mean is not None and running_var is not None:
        constants = Running(running_mean, running_var, None)
    y, settled, _ = native.forward(x, affine, weights=weights, eps=eps, running=constants, training=constants is None)
    if constants is not None:
        settled.block[3] = 0.0  # m2, which nobody knows, but an operator's results are the same every time
    return y, settled.block


def _normalize_shapes(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(laid_out(x)), x.new_empty((4, x.shape[1]), dtype=torch.float64)


def _normalize_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    weights: Tensor | None,
    block: Tensor,
    activation: int,
    training: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    affine = Affine(weight, bias, residual, ACTIVATIONS_BY_NUMBER[activation])
    if x.numel() == 0:
        shapes = _backward_shapes(dy, x, weight, bias, residual, weights, block, activation, training, needs)
        return shapes[0], shapes[1].zero_(), shapes[2].zero_(), shapes[3]
    asked = (needs[0], needs[1], needs[2], needs[3])
    settled = Settled(block, training, math.nan)  # the kernels count for themselves
    found = native.backward(dy, x, settled, affine, weights=weights, needs=asked)
    # An operator may not give back what it was given.
    gradients = [x.new_empty(0) if g is None else (g.clone() if g is dy else g) for g in found]
    return gradients[0], gradients[1], gradients[2], gradients[3]


def _backward_shapes(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    weights: Tensor | None,
    block: Tensor,
    activation: int,
    training: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = (laid_out(x), weight, bias, laid_out(x))
    shapes = [torch.empty_like(t) if n and t is not None else x.new_empty(0) for t, n in zip(like, needs, strict=True)]
    return shapes[0], shapes[1], shapes[2], shapes[3]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, weights, running_mean, _, _, activation = inputs
    ctx.save_for_backward(x, weight, bias, residual, weights, output[1])
    ctx.activation, ctx.training = activation, running_mean is None
    ctx.needs = [bool(t is not None and t.requires_grad) for t in (x, weight, bias, residual)]


def _gradients(ctx: Any, dy: Tensor, _of_block: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, weights, block = ctx.saved_tensors
    found = torch.ops.batchnorm.normalize_backward(
        dy, x, weight, bias, residual, weights, block, ctx.activation, ctx.training, ctx.needs
    )
    gradients = [g if n else None for g, n in zip(found, ctx.needs, strict=True)]
    return (*gradients, *(None,) * 5)


def _no_gradients(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError("derivative for batchnorm::normalize_backward is not implemented: use eager layers")
