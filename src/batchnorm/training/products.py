"""Which library multiplies the matrices of a step: the compiled kernels, or torch's where it is the faster here.

The kernels give the same bits for any number of threads; a library does not promise that, and which of the two is the
faster is found by a clock. So a choice, once made, is kept and stored with the run.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

Library = Literal["native", "torch"]

# Multiply-adds below which the kernels are taken unasked: a library's call costs as much as the product itself, and a
# run of small products shall not depend on a clock.
_WORTH_ASKING = 30_000_000
_CLEARLY = 0.85  # torch's time by the kernels', from which on it is taken
_LOOKS = 5


class Products:
    """The choice for each shape; asked once per shape.

    Args:
        module: the compiled kernels.
        known: choices made before, as `chosen` has them.
    """

    def __init__(self, module: ModuleType, known: dict[str, Library] | None = None) -> None:
        self._module = module
        self.chosen: dict[str, Library] = dict(known or {})

    def library(self, left: Tensor, right: Tensor) -> Library:
        """For left right: (rows, inner) and (inner, columns), as they lie in memory."""
        if left.shape[0] * left.shape[1] * right.shape[1] < _WORTH_ASKING:
            return "native"
        key = f"{_text(left)} {_text(right)}"
        if key not in self.chosen:
            self.chosen[key] = faster(self._module, left, right)
        return self.chosen[key]


def faster(module: ModuleType, left: Tensor, right: Tensor) -> Library:
    """Torch, where on matrices like these it gives the same answer in clearly less time."""
    a, b = _like(left), _like(right)
    by_torch, by_kernels = (torch.empty((a.shape[0], b.shape[1]), dtype=a.dtype) for _ in range(2))
    program = module.Program()
    element = {torch.float32: 0, torch.float64: 3}[a.dtype]
    places = (a.data_ptr(), *a.stride()), (b.data_ptr(), *b.stride())
    program.product(element, *by_kernels.shape, a.shape[1], *places, 0, by_kernels.data_ptr())
    seconds = []
    for _ in range(_LOOKS):
        began = time.perf_counter()
        program.run(0)
        between = time.perf_counter()
        torch.mm(a, b, out=by_torch)
        seconds.append((between - began, time.perf_counter() - between))
    # Before the clock the answer: a library that computes something else is not faster.
    scale = float(by_kernels.abs().max()) * torch.finfo(a.dtype).eps ** 0.5
    if not torch.allclose(by_torch, by_kernels, rtol=0, atol=scale):
        return "native"
    kernels, library = (min(times) for times in zip(*seconds, strict=True))
    return "torch" if library < _CLEARLY * kernels else "native"


def _like(t: Tensor) -> Tensor:
    """Numbers in memory laid out as t's, drawn from nobody's random state."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(
        torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view(t.shape)
    )


def _text(t: Tensor) -> str:
    rows, columns = t.shape
    return f"{rows}x{columns}" if t.is_contiguous() else f"({columns}x{rows})^T"
