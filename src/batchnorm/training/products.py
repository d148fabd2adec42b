"""Which library multiplies the matrices of a step: the compiled kernels, or torch's where it is the faster here.

The kernels give the same bits for any number of threads; a library does not promise that, and which of the two is the
faster is found by a clock. So a choice, once made, is kept and stored with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from batchnorm.training.threads import one_thread

Library = Literal["native", "torch"]

# Multiply-adds below which the kernels are taken unasked: a library's call costs as much as the product itself, and a
# run of small products shall not depend on a clock.
WORTH_ASKING = 30_000_000
_CLEARLY = 0.85  # torch's time by the kernels', from which on it is taken
_LOOKS = 5
_WORTH_A_THREAD = 1_000_000  # multiply-adds of one forward pass


def threads_worth(multiply_adds: int, most: int) -> int:
    """How many of at most `most` threads a step is worth, by the multiply-adds of its forward pass."""
    return max(1, min(most, multiply_adds // _WORTH_A_THREAD))


def faster(module: ModuleType, rows: int, inner: int, columns: int, dtype: torch.dtype) -> Library:
    """Torch, where it gives the same (rows, inner) (inner, columns) in clearly less time; else the kernels.

    Asked on one thread, by the processor's time: what else the machine is busy with must not decide.
    """
    if rows * inner * columns < WORTH_ASKING:
        return "native"
    left, right = _numbers(rows, inner, dtype), _numbers(columns, inner, dtype).t()
    by_torch, by_kernels = (torch.empty((rows, columns), dtype=dtype) for _ in range(2))
    program = module.Program()
    places = (left.data_ptr(), *left.stride()), (right.data_ptr(), *right.stride())
    element = {torch.float32: 0, torch.float64: 3}[dtype]
    program.product(element, rows, columns, inner, *places, 0, by_kernels.data_ptr())

    with one_thread():
        kernels = min(_seconds(lambda: program.run(0, 1)) for _ in range(_LOOKS))
        library = min(_seconds(lambda: torch.mm(left, right, out=by_torch)) for _ in range(_LOOKS))
    # The answer counts before the clock: a library that computes something else is not faster.
    near = torch.finfo(dtype).eps ** 0.5 * float(by_kernels.abs().max())
    agrees = torch.allclose(by_torch, by_kernels, rtol=0, atol=near)
    return "torch" if agrees and library < _CLEARLY * kernels else "native"


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _numbers(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Some numbers, drawn from nobody's random state."""
    return torch.linspace(-1, 1, rows * columns, dtype=dtype).view(rows, columns)
