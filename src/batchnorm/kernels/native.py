"""The same as `spec`, but compiled: one pass over memory, float32 and narrower with sums in float64.

The kernels are in csrc/; here their arguments are laid out as addresses. Whatever `covers` refuses goes the
specification's way.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from batchnorm.kernels import choice
from batchnorm.kernels.layout import laid_out
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine, Centre, Gradients

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_RUNNING = {torch.float32: 0, torch.float64: 3}
ACTIVATION_NUMBERS = {None: 0, "relu": 1, "leaky_relu": 2, "sigmoid": 3, "tanh": 4, "silu": 5, "gelu": 6}
ACTIVATIONS_BY_NUMBER = {number: name for name, number in ACTIVATION_NUMBERS.items()}
_PLAIN = (Tensor, Parameter)
_WORTH_THREADS = 1 << 18  # values from which the kernels may wake threads: csrc/parallel.hpp
_is_copy_on_write = torch._C._is_cow_tensor  # type: ignore[attr-defined]


class Settled(NamedTuple):
    """What a forward pass leaves for the backward pass.

    Attributes:
        block: (4, C) float64: anchor, shift, rstd and m2 of each channel.
        training: whether they are the batch's own.
        count: M, the values per channel or the sum of their weights.
    """

    block: Tensor
    training: bool
    count: float  # type: ignore[assignment]

    def centre(self) -> Centre:
        """The same, as the specification has it."""
        anchor, shift, rstd, m2 = self.block.unbind(0)
        return Centre(anchor, shift, rstd, m2 if self.training else None, self.count)


def covers(x: Tensor, *channels: Tensor | None) -> bool:
    """Whether the compiled kernels run and can take x: (N, C, *), and these (C,) tensors, all of one dtype."""
    if choice.native() is None or not x.is_cpu or x.dtype not in ELEMENTS or x.numel() == 0 or not _is_plain(x):
        return False
    dtype = None
    for t in channels:
        if t is not None:
            if t.dtype not in ELEMENTS or (dtype is not None and t.dtype != dtype):
                return False
            if not (t.is_cpu and _is_plain(t)):
                return False
            dtype = t.dtype
    return True


def holds(x: Tensor, residual: Tensor | None) -> bool:
    """Whether a residual's values are values of x's dtype, which the compiled kernels read it in."""
    if residual is None:
        return True
    return residual.device.type == "cpu" and torch.promote_types(residual.dtype, x.dtype) == x.dtype


def keeps(running: Running) -> bool:
    """Whether the compiled kernels can read these running statistics, and where these move, update them."""
    mean, var, moves = running.mean, running.var, running.momentum is not None
    return (
        mean.dtype in _RUNNING
        and var.dtype == mean.dtype
        and all(t.is_cpu and _is_plain(t) for t in (mean, var))
        and not (moves and (mean.is_inference() or var.is_inference()))  # torch says when these may change
        and not (mean.requires_grad or var.requires_grad)
    )


def forward(
    x: Tensor, affine: Affine, *, weights: Tensor | None, eps: float, running: Running | None, training: bool
) -> tuple[Tensor, Settled, Tensor | None]:
    """y like x, what the backward pass needs, and which channels' running statistics were refused ((C,) bool or None).

    Args:
        x: (N, C, *), covered.
        weights: (N, 1, *) float64, how often each position counts, or None.
        running: updated in training where not None; what x is normalized by at test time.
    """
    module = module_for(x)
    x = laid_out(x)
    y, block = _result_like(x), torch.empty((4, x.shape[1]), dtype=torch.float64)
    gamma, beta = _packed(affine.weight), _packed(affine.bias)
    residual, weights = None if affine.residual is None else _like(affine.residual, x), _packed(weights)
    rows, channels, positions = _shape(x)
    count = float(rows * positions if weights is None else weights.sum())
    moves = running is not None and training and running.momentum is not None
    mean, var, counter = None, None, None
    if running is not None and (moves or not training):
        mean, var, counter = _packed(running.mean), _packed(running.var), running.batches
    refused = module.forward(
        rows,
        channels,
        positions,
        ELEMENTS[x.dtype],
        ACTIVATION_NUMBERS[affine.activation],
        x.data_ptr(),
        y.data_ptr(),
        _address(residual),
        _address(weights),
        _address(gamma),
        _address(beta),
        _element(gamma, beta),
        eps,
        block.data_ptr(),
        training,
        _address(mean),
        _address(var),
        _element(mean),
        (running.momentum or 0.0) if running is not None else 0.0,
        _address(counter),
    )
    settled = Settled(block, training, count)
    if running is None or not training:
        return y, settled, None
    if not moves:
        return y, settled, running.update(settled.centre())
    assert mean is not None
    assert var is not None
    _written(running.mean, mean)
    _written(running.var, var)
    if counter is not None:
        _written(counter, counter)
    return y, settled, running.unmoved(settled.centre()) if refused else None


def backward(
    dy: Tensor,
    x: Tensor,
    settled: Settled,
    affine: Affine,
    *,
    weights: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
) -> Gradients:
    """What `spec.backward` gives. dy, x: (N, C, *), x as it came to `forward`; needs: x, weight, bias, residual."""
    module = module_for(x)
    x = laid_out(x)
    # Without an activation no gradient depends on the residual.
    residual = None if affine.activation is None or affine.residual is None else _like(affine.residual, x)
    dy = _like(dy, x)
    gamma, beta, weights = _packed(affine.weight), _packed(affine.bias), _packed(weights)
    needs_x, needs_weight, needs_bias, needs_residual = needs
    dx = _result_like(x) if needs_x else None
    dgamma = torch.empty_like(gamma) if needs_weight and gamma is not None else None
    dbeta = torch.empty_like(beta) if needs_bias and beta is not None else None
    dresidual = None
    if needs_residual and affine.activation is None and weights is None:
        dresidual = dy
    elif needs_residual:
        dresidual = _result_like(x)
    rows, channels, positions = _shape(x)
    module.backward(
        rows,
        channels,
        positions,
        ELEMENTS[x.dtype],
        ACTIVATION_NUMBERS[affine.activation],
        x.data_ptr(),
        dy.data_ptr(),
        _address(residual),
        _address(weights),
        _address(gamma),
        _address(beta),
        _element(gamma, beta),
        settled.block.data_ptr(),
        settled.training,
        _address(dx),
        0 if dresidual is dy else _address(dresidual),
        _address(dgamma),
        _address(dbeta),
    )
    return Gradients(dx, dgamma, dbeta, dresidual)


def module_for(x: Tensor) -> ModuleType:
    """The compiled kernels, for work on x, which they cover."""
    module = choice.native() or choice.built()  # the choice may have changed since the forward pass, or a graph, began
    assert module is not None, "covers() first"
    if x.numel() >= _WORTH_THREADS:
        torch.get_num_threads()  # asking is what makes torch's number known to a thread that torch has not seen before
    return module


def _result_like(x: Tensor) -> Tensor:
    """An empty tensor for a result, large ones in memory that is kept: kernels/memory.py."""
    make = choice.result_like
    result: Tensor = torch.empty_like(x) if make is None else make(x)
    return result


def _is_plain(t: Tensor) -> bool:
    """Whether the values lie in memory as they are: nothing lazy, nothing shared until written."""
    return (
        type(t) in _PLAIN
        and t.layout is torch.strided
        and not t.is_neg()
        and torch._C._has_storage(t)
        and not _is_copy_on_write(t)
    )


def _shape(x: Tensor) -> tuple[int, int, int]:
    """(rows, channels, positions) of memory in one of the two orders: see csrc/interface.hpp."""
    channels = x.shape[1]
    if x.dim() == 2:
        return x.shape[0], channels, 1
    if x.is_contiguous():
        return x.shape[0], channels, x.numel() // (x.shape[0] * channels)
    return x.numel() // channels, channels, 1


def _like(t: Tensor, x: Tensor) -> Tensor:
    """t in x's dtype and order of memory."""
    if t.dtype == x.dtype and t.stride() == x.stride():
        return t
    return torch.empty_like(x).copy_(t)


def _packed(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.is_contiguous() else t.contiguous()


def _written(to: Tensor, packed: Tensor) -> None:
    """Say of `to` that it has changed, as an operation of torch's would; where `packed` is a copy, change it."""
    if packed is to:
        torch._C._increment_version((to,))
    else:
        to.copy_(packed)


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _element(*channels: Tensor | None) -> int:
    return next((ELEMENTS[t.dtype] for t in channels if t is not None), 0)
