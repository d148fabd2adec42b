"""What a program that torch exports or traces holds of a layer at test time: torch's own batch_norm.

Exporters, quantizers and other runtimes know that one operation. What the specification would leave there instead, ten
operations in float64, some of them cannot even run. The digits are torch's, then: with mean / std = 1e4 four are lost.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.kernels.spec import Affine


def is_asked_for() -> bool:
    """Whether what runs now is written down for somebody else: torch.export, torch.jit.trace, ONNX."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def normalize(
    x: Tensor, affine: Affine, running: tuple[Tensor, Tensor], *, weights: Tensor | None, eps: float
) -> Tensor:
    """y like x by running statistics, as torch's operations.

    Args:
        x: (N, C, *).
        running: running_mean and running_var, (C,) each.
        weights: (N, 1, *), 0 where a position is masked, or None.
    """
    mean, var = running
    # torch takes 16-bit values with float32 channels, and otherwise all of one dtype.
    channels = mean.dtype if mean.dtype.itemsize > x.dtype.itemsize else x.dtype
    values = x.dtype if x.dtype.itemsize == 2 and channels == torch.float32 else channels
    weight, bias, mean, var = (_as(t, channels) for t in (affine.weight, affine.bias, mean, var))
    y = _as(F.batch_norm(_as(x, values), mean, var, weight, bias, training=False, eps=eps), x.dtype)
    if affine.residual is not None:
        y = y + affine.residual
    if affine.activation is not None:
        y = ACTIVATIONS[affine.activation].value(y)
    if weights is not None:
        y = torch.where(weights > 0, y, 0)
    result: Tensor = _as(y, x.dtype)
    return result


def _as(t: Any, dtype: torch.dtype) -> Any:
    """t: a tensor or None; a conversion to its own dtype would stay in the program."""
    return t if t is None or t.dtype == dtype else t.to(dtype)
