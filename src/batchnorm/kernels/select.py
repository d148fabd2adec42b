"""Which way a batch goes: one fused forward and backward, or operations that torch sees one by one.

The fused way is a `torch.autograd.Function`: least memory, one node in the graph. Transformations that look inside
(torch.func, forward-mode differentiation, torch.compile, fake tensors, tensor subclasses) cannot, or may not, enter it;
they get the specification's own operations, which are differentiable to any order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

Way = Literal["fused", "composed"]

_PLAIN = (Tensor, Parameter)


def way(*tensors: Tensor | None) -> Way:
    """The way that these inputs must go in torch's present mode."""
    if torch.compiler.is_compiling() or in_transformation():
        return "composed"
    for t in tensors:
        if t is not None and type(t) not in _PLAIN:
            return "composed"
    return "fused"


def in_transformation() -> bool:
    """Whether a torch.func transform, a forward-mode level, a dispatch mode or a tracer is active."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def in_backward() -> bool:
    """Whether autograd is running a backward pass on this thread: a forward pass now is a recomputation.

    Activation checkpointing runs the forward pass a second time from within the backward pass; what the first pass
    has done to running statistics must not be done again.
    """
    return bool(torch._C._current_graph_task_id() != -1)
