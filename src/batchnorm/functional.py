"""batch_norm(): checks its arguments once, as torch does, and hands them to the kernels."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from batchnorm.errors import StatisticsWarning
from batchnorm.kernels import autograd, exported, select
from batchnorm.kernels.activations import check_activation
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine, per_channel
from batchnorm.moments import wide_dtype

__all__ = ["batch_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalize each channel by its mini-batch, or by running statistics, then scale and shift.

        y = activation(gamma * (x - mu) / sqrt(sigma2 + eps) + beta + residual)

    Args:
        input: (N, C) or (N, C, *), floating.
        running_mean: (C,); updated in place in training, used at test time.
        running_var: (C,) of unbiased variances; likewise.
        weight: (C,) gamma, or None for 1.
        bias: (C,) beta, or None for 0.
        training: normalize by the batch; otherwise by the running statistics.
        momentum: the weight of the new batch in the running statistics; any number, as in torch.
        eps: added to the variance, inside the root; positive in training.
        activation: relu, leaky_relu (slope 0.01), sigmoid, tanh, gelu (exact), silu or None.
        residual: like `input`: added before the activation.
        mask: boolean, (N,), (N, *) or (N, 1, *): False positions count in no statistic, come out 0, get no gradient.

    Returns:
        Like `input`: same shape, dtype and memory format.

    Raises:
        ValueError: one value per channel in training; eps out of range; an unknown activation.
        RuntimeError, TypeError: whatever torch.nn.functional.batch_norm raises for the same arguments.

    A channel whose batch mean or variance is not finite keeps its running values, with a StatisticsWarning.

    Source: Ioffe and Szegedy 2015, Algorithms 1 and 2.

    >>> import torch
    >>> batch_norm(torch.tensor([[0.0], [2.0]]), None, None, training=True, eps=1e-12)
    tensor([[-1.],
            [ 1.]])
    """
    if has_torch_function_variadic(input, running_mean, running_var, weight, bias):
        return handle_torch_function(
            batch_norm,
            (input, running_mean, running_var, weight, bias),
            input,
            running_mean,
            running_var,
            weight=weight,
            bias=bias,
            training=training,
            momentum=momentum,
            eps=eps,
            activation=activation,
            residual=residual,
            mask=mask,
        )
    check_arguments(input, (running_mean, running_var), (weight, bias), training=training, momentum=momentum, eps=eps)
    weights = None if mask is None else mask_weights(input, mask)
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, momentum)
    y, refused = normalize_and_update(
        input,
        running,
        weight,
        bias,
        training=training,
        eps=eps,
        activation=activation,
        residual=residual,
        weights=weights,
    )
    if refused is not None:
        warnings.warn(refusal("batch_norm", refused), StatisticsWarning, stacklevel=2)
    return y


def normalize_and_update(
    x: Tensor,
    running: Running | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """batch_norm() for callers inside this package, who have checked their parameters.

    Args:
        running: what is updated in training and used at test time.
        weights: how often each position counts, (N, 1, *) like x; 2 counts a row twice, 0 masks it.

    Returns:
        y like x, and (C,) bool, True where a channel's running statistics were kept because the batch's are not finite;
        None if nowhere.
    """
    check_activation(activation)
    affine, constants = Affine(weight, bias, residual, activation), None
    refuse_residual(x, residual)
    if not training:
        assert running is not None, "test time needs running statistics"
        constants = (running.mean, running.var)
        if exported.is_asked_for():
            return exported.normalize(x, affine, constants, weights=weights, eps=eps), None
    else:
        refuse_one_value(x, weights)
    if x.numel() == 0:
        return _empty(x, weight, bias, residual), None
    moving = running if training and not is_recomputation() else None
    return autograd.run(autograd.Normalization(constants, eps), x, affine, weights, moving)


def mask_weights(x: Tensor, mask: Tensor) -> Tensor:
    """A boolean mask, (N,), (N, *) or (N, 1, *) for x: (N, C, *), as weights 0 and 1: (N, 1, *)."""
    n, spatial = x.shape[0], tuple(x.shape[2:])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask expected a boolean tensor, got {got}: write mask != 0, True where a position counts")
    shapes = ((n,), (n, *spatial), (n, 1, *spatial))
    if not any(tuple(mask.shape) == shape for shape in shapes):  # no set: sizes may be symbols, which have no hash
        expected = " or ".join(str(shape) for shape in (shapes if spatial else shapes[::2]))
        raise ValueError(f"mask expected shape {expected} for input {tuple(x.shape)}, got {tuple(mask.shape)}")
    column = (n, 1, *spatial) if mask.dim() > 1 or not spatial else (n, 1, *(1,) * len(spatial))
    return mask.reshape(column).to(wide_dtype(x.device)).expand(n, 1, *spatial)


def refusal(name: str, refused: Tensor) -> str:
    """The warning for channels whose batch statistics are not finite. refused: (C,) bool."""
    channels = refused.nonzero().flatten().tolist()
    shown = ", ".join(str(c) for c in channels[:8]) + (", ..." if len(channels) > 8 else "")
    return (
        f"{name}: the batch mean or variance of {len(channels)} of {refused.numel()} channels is not finite; their "
        f"running statistics were kept (channels {shown}). Look for NaN, inf or overflow in what enters the layer."
    )


def is_recomputation() -> bool:
    """Whether this pass repeats one that has moved the running statistics already (activation checkpointing)."""
    return not torch.compiler.is_compiling() and select.in_backward()


def check_arguments(
    x: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    parameters: tuple[Tensor | None, Tensor | None],
    *,
    training: bool,
    momentum: float,
    eps: float,
    alone: bool = True,
) -> None:
    """Refuse what torch refuses, in torch's words.

    Args:
        running: (running_mean, running_var).
        parameters: (weight, bias).
        alone: whether these are all the values; other processes have some where False, and one here may be enough.
    """
    if not training and exported.is_asked_for() and None not in running:
        # torch's operation takes the layer's place in the program and asks for the rest when that is made.
        if not _have_fitting_dtypes(x, running, parameters):
            dtypes = ", ".join(str(t.dtype).removeprefix("torch.") for t in (x, *running, *parameters) if t is not None)
            raise RuntimeError(
                f"mixed dtype: batch_norm expected input, statistics and parameters of one, got {dtypes}"
            )
        return
    if not _is_usual(x, running, parameters, training=training, momentum=momentum, eps=eps):
        # Everything unusual is shown to torch, with copies of what it would update: its errors are the errors here.
        copies = [t.detach().clone() if isinstance(t, Tensor) and not t.requires_grad else t for t in running]
        F.batch_norm(x, copies[0], copies[1], *parameters, training, momentum, eps)
    if training and alone:
        refuse_one_value(x)
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")


def refuse_one_value(x: Tensor, weights: Tensor | None = None) -> None:
    """Raise torch's ValueError for a training batch with one value per channel, or one that counts."""
    alone = x.shape[0] == 1 and x.shape[2:].numel() == 1
    if weights is not None and weights.device.type == "cpu" and select.way(x, weights) == "fused":
        alone = int((weights > 0).sum()) == 1
    if alone:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")


def refuse_residual(x: Tensor, residual: Tensor | None) -> None:
    """Raise ValueError for a residual that is not shaped like the input."""
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual expected the input's shape {tuple(x.shape)}, got {tuple(residual.shape)}")


def _is_usual(
    x: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    parameters: tuple[Tensor | None, Tensor | None],
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> bool:
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
        return False
    if not (isinstance(momentum, (float, int)) and isinstance(eps, (float, int)) and isinstance(training, bool)):
        return False
    if (running[0] is None) != (running[1] is None) or (running[0] is None and not training):
        return False
    given = [t for t in (*running, *parameters) if t is not None]
    if any(not isinstance(t, Tensor) or t.shape != (x.shape[1],) for t in given):
        return False
    if not _have_fitting_dtypes(x, running, parameters):
        return False
    return all(t is None or not t.requires_grad for t in running)


def _have_fitting_dtypes(
    x: Tensor, running: tuple[Tensor | None, Tensor | None], parameters: tuple[Tensor | None, Tensor | None]
) -> bool:
    if all(t is None or t.dtype == x.dtype for t in (*running, *parameters)):
        return True
    # float32 statistics beside narrow values: with float32 parameters, as in torch, or with narrow ones, as .half()
    # leaves a layer here.
    if x.dtype not in (torch.bfloat16, torch.float16) or any(
        t is not None and t.dtype != torch.float32 for t in running
    ):
        return False
    return {t.dtype for t in parameters if t is not None} in ({torch.float32}, {x.dtype}, set())


def _empty(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """No values, and gradients of 0: nothing is normalized and nothing updated."""
    y = x.clone()
    if weight is not None:
        y = y * per_channel(weight, x.dim())
    if bias is not None:
        y = y + per_channel(bias, x.dim())
    return (y if residual is None else y + residual).to(x.dtype)
