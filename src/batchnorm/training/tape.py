"""Operations on tensors that stay where they are, put on a tape once and played at every step.

What the compiled kernels do runs as one native call, however many operations follow one another; what torch does in
between (dropout's random numbers, a product where its library is the faster) is called where it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.kernels.native import ACTIVATION_NUMBERS, Settled
from batchnorm.training.layers import Norm
from batchnorm.training.products import WORTH_ASKING, Library

ELEMENTS = {torch.float32: 0, torch.float64: 3}


@dataclass
class _Part:
    """Operations in one native call, and what torch does after them."""

    program: Any
    then: Callable[[], object] | None = None


class _Placed(NamedTuple):
    """A batch norm on the tape, its centre after each step, the batch's rows and how often each counts."""

    norm: Norm
    centre: Tensor
    rows: int
    counts: Tensor | None


class Tape:
    """A step's operations in their order.

    Args:
        module: the compiled kernels.
        dtype: of every matrix: float32 or float64.
        library: that multiplies large matrices.
        threads: that take part; 0: torch's.
    """

    def __init__(self, module: ModuleType, dtype: torch.dtype, library: Library, *, threads: int) -> None:
        self._threads = threads
        self._module, self._dtype, self._element, self._library = module, dtype, ELEMENTS[dtype], library
        self._parts: list[_Part] = [_Part(module.Program())]
        self._norms: list[_Placed] = []
        self._alive: list[Tensor] = []  # what the programs have the addresses of
        self._moved: list[Tensor] = []  # running statistics

    def matrix(self, rows: int, columns: int) -> Tensor:
        """Memory for (rows, columns)."""
        return torch.empty((rows, columns), dtype=self._dtype)

    def gather(self, source: Tensor, to: Tensor) -> None:
        """to = the rows of `source` that `play` is told; each (N, ...), of one dtype."""
        bytes_a_row = to.element_size() * (to.numel() // to.shape[0])
        self._parts[-1].program.gather(to.shape[0], bytes_a_row, self._at(source), self._at(to))

    def product(self, left: Tensor, right: Tensor, *, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Left right + bias: (rows, inner) and (inner, columns), either may be a transposed view; bias: (columns,)."""
        to = self.matrix(left.shape[0], right.shape[1]) if out is None else out
        if self._library == "torch" and left.numel() * right.shape[1] >= WORTH_ASKING:
            plain = bias is None
            self.call(
                partial(torch.mm, left, right, out=to) if plain else partial(torch.addmm, bias, left, right, out=to)
            )
            return to
        self._parts[-1].program.product(
            self._element,
            *to.shape,
            left.shape[1],
            (self._at(left), *left.stride()),
            (self._at(right), *right.stride()),
            self._at(bias),
            self._at(to),
        )
        return to

    def normalize(
        self, norm: Norm, x: Tensor, counts: Tensor | None, activation: str | None, *, starting: bool
    ) -> tuple[Tensor, Tensor]:
        """Batch norm, then the activation; and the centre, (4, C) float64. counts: (N,) float64 or None."""
        y, running = torch.empty_like(x), norm.running
        centre = torch.empty((4, x.shape[1]), dtype=torch.float64)
        self._norms.append(_Placed(norm, centre, x.shape[0], counts))
        self._moved += [running.mean, running.var, *([] if running.batches is None else [running.batches])]
        self._parts[-1].program.normalize(
            self._element,
            *x.shape,
            ACTIVATION_NUMBERS[activation],
            self._at(x),
            self._at(y),
            self._at(counts),
            self._at(norm.gamma),
            self._at(norm.beta),
            norm.layer.eps,
            self._at(centre),
            self._at(running.mean),
            self._at(running.var),
            ELEMENTS[running.mean.dtype],
            running.momentum,
            self._at(running.batches),
            starting and bool(running.momentum),
        )
        return y, centre

    def denormalize(
        self, norm: Norm, x: Tensor, dy: Tensor, centre: Tensor, counts: Tensor | None, activation: str | None
    ) -> None:
        """The way back through `normalize`: dy becomes dx, gamma and beta get their gradients."""
        self._parts[-1].program.denormalize(
            self._element,
            *x.shape,
            ACTIVATION_NUMBERS[activation],
            self._at(x),
            self._at(dy),
            self._at(counts),
            self._at(norm.gamma),
            self._at(norm.beta),
            self._at(centre),
            self._at(dy),
            self._at(norm.dgamma),
            self._at(norm.dbeta),
        )

    def activate(self, activation: str, z: Tensor) -> Tensor:
        """g(z)."""
        a = torch.empty_like(z)
        number = ACTIVATION_NUMBERS[activation]
        self._parts[-1].program.pointwise(self._element, number, z.numel(), self._at(z), 0, 0, self._at(a))
        return a

    def slope(self, activation: str, z: Tensor, da: Tensor) -> None:
        """Da becomes da * g'(z)."""
        number = ACTIVATION_NUMBERS[activation]
        self._parts[-1].program.pointwise(self._element, number, z.numel(), self._at(z), self._at(da), 0, self._at(da))

    def times(self, a: Tensor, factor: Tensor) -> None:
        """A becomes a * factor, value by value."""
        self._parts[-1].program.pointwise(self._element, 0, a.numel(), self._at(a), 0, self._at(factor), self._at(a))

    def column_sums(self, x: Tensor, out: Tensor) -> None:
        """Out = the sum of the rows of x."""
        self._parts[-1].program.column_sums(self._element, *x.shape, self._at(x), self._at(out))

    def loss(self, scores: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean loss, () float64, and its gradient in the scores. y: class numbers or targets; weights: (N,)."""
        value, gradient = torch.zeros((), dtype=torch.float64), torch.empty_like(scores)
        classes, targets = (y, None) if y.dtype == torch.int64 else (None, y)
        self._parts[-1].program.loss(
            self._element,
            *scores.shape,
            self._at(scores),
            self._at(classes),
            self._at(targets),
            self._at(weights),
            self._at(gradient),
            self._at(value),
        )
        return value, gradient

    def call(self, function: Callable[[], object]) -> None:
        """Torch's part between two native ones."""
        self._parts[-1].then = function
        self._parts.append(_Part(self._module.Program()))

    def play(self, rows: int = 0) -> None:
        """Run it all. rows: the address of the numbers, int64, of the rows to gather; 0: they are in place."""
        refused = 0
        for part in self._parts:
            refused += part.program.run(rows, self._threads)
            if part.then is not None:
                part.then()
        torch._C._increment_version(self._moved)
        if refused:
            self._warn()

    def _warn(self) -> None:
        """Let the layers whose running statistics did not move say so."""
        for norm, centre, rows, counts in self._norms:
            count = float(rows if counts is None else counts.sum())
            refused = norm.running.unmoved(Settled(centre, True, count).centre())
            if bool(refused.any()):
                norm.layer.warn_of(refused)

    def _at(self, t: Tensor | None) -> int:
        if t is None:
            return 0
        self._alive.append(t)
        return t.data_ptr()
