"""What a program that torch exports or traces holds of a layer at test time: torch's own batch_norm.

Exporters, quantizers and other runtimes know that one operation. The specification would leave ten of its own in their
programs, in float64, which some of them do not have. The digits are torch's, then: with mean / std = 1e4 four are lost.
"""

from __future__ import annotations

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
    weight, bias, residual, activation = affine
    if mean.dtype == torch.float32 and x.dtype in (torch.float16, torch.bfloat16):
        # Layers take 16-bit parameters beside float32 statistics, which .half() leaves; torch's operation does not.
        # Nor do exporters to ONNX: what is absent they would fill in with 16 bits.
        weight = torch.ones_like(mean) if weight is None else weight.float()
        bias = torch.zeros_like(mean) if bias is None else bias.float()
    if weights is not None:  # a masked position may hold anything, and is in no gradient
        x = torch.where(weights > 0, x, 0)
        residual = None if residual is None else torch.where(weights > 0, residual, 0)
    y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
    if residual is not None:
        y = y + residual
    if activation is not None:
        y = ACTIVATIONS[activation].value(y)
    if weights is not None:
        y = torch.where(weights > 0, y, 0)
    return y if y.dtype == x.dtype else y.to(x.dtype)  # a conversion to its own dtype would stay in the program
