"""One training step's gradients by explicit formulas, without autograd: forward, then the chain rule back.

It gives what autograd gives on the same network, at a fraction of the calls. The formulas stand in `compiled`, for the
compiled kernels, and in `by_operations`, for torch's own operations on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from batchnorm.kernels import choice
from batchnorm.training.arithmetic import Arithmetic
from batchnorm.training.by_operations import ByOperations
from batchnorm.training.compiled import Batch, CompiledStep
from batchnorm.training.layers import Layers
from batchnorm.training.network import Network
from batchnorm.training.objective import Objective
from batchnorm.training.products import Library, faster, threads_worth
from batchnorm.training.tape import ELEMENTS, Tape


class Step:
    """Forward and backward over `network` as it stands; its parameters get gradients that stay in place.

    Args:
        network: on its device; parameters are changed in place from now on, never replaced.
        objective: of the task.
        warm_statistics: average the running statistics plainly over the first 1 / momentum batches.
        source: all rows that `gradients_of` may be told to take.
    """

    def __init__(
        self, network: Network, objective: Objective, *, warm_statistics: bool = False, source: Batch | None = None
    ) -> None:
        self._layers, self._starting = Layers.of(network), warm_statistics
        self._source = None if source is None else source.each(Tensor.contiguous)
        weight, module = network.head.weight, choice.native()
        self._module = module if weight.is_cpu and weight.dtype in ELEMENTS else None
        self._library: Library | None = None  # which multiplies large matrices, once chosen
        self._kernel = choice.current().instruction_set if self._module is not None else None
        self._threads = torch.get_num_threads()
        self._by_operations = ByOperations(self._layers, objective, warm_statistics=warm_statistics)
        self._compiled: dict[tuple[int, bool, bool, bool], CompiledStep] = {}

    def gradients(self, x: Tensor, y: Tensor, *, counts: Tensor | None, weights: Tensor | None) -> Tensor:
        """The loss of one mini-batch, (); sets every parameter's `.grad` and updates the running statistics.

        Args:
            x: (N, inputs) normalized rows.
            y: (N,) class numbers or standardized targets.
            counts: (N,), how often each row counts in the batch statistics; None is once.
            weights: (N,), how much each row weighs in the loss; None is the same.
        """
        if self._module is None:
            column = None if counts is None else counts[:, None].to(x.dtype)
            return self._by_operations.gradients(x, y, counts=column, weights=weights)
        given = Batch(x, y, None if counts is None else counts.double(), weights)
        step = self._step(given, len(x))
        for place, values in zip(step.batch, given, strict=True):
            if place is not None and values is not None:
                place.copy_(values)
        return step.play()

    def gradients_of(self, rows: Tensor) -> Tensor:
        """The same of these rows, (N,) int64, of the source."""
        source = self._source
        assert source is not None, "a step without a source is given its rows"
        if self._module is None:
            taken = source.each(lambda t: t.index_select(0, rows))
            return self.gradients(taken.x, taken.y, counts=taken.counts, weights=taken.weights)
        return self._step(source, len(rows)).play(rows.data_ptr())

    @property
    def arithmetic(self) -> Arithmetic:
        """Who computes these steps."""
        return Arithmetic(self._kernel or "torch", self._library, self._threads)

    def go_on_like(self, before: Arithmetic) -> str | None:
        """Multiply as a stored run did, before the first step; why it cannot be bit by bit the same, or None."""
        self._library = before.products
        return self.arithmetic.loss_since(before)

    def _step(self, source: Batch, rows: int) -> CompiledStep:
        key = rows, source is self._source, source.counts is None, source.weights is None
        if key not in self._compiled:
            with torch.no_grad():
                tape = self._tape(source.x.dtype, rows)
                self._compiled[key] = CompiledStep(tape, self._layers, source, rows, starting=self._starting)
        return self._compiled[key]

    def _tape(self, dtype: torch.dtype, rows: int) -> Tape:
        """An empty tape for batches of so many rows."""
        assert self._module is not None
        weights = [linear.weight for linear in (*(layer.linear for layer in self._layers.hidden), self._layers.head)]
        threads = threads_worth(rows * sum(w.numel() for w in weights), self._threads)
        if self._library is None:
            outputs, inputs = max((w.shape for w in weights), key=math.prod)
            self._library = faster(self._module, rows, inputs, outputs, dtype)
        return Tape(self._module, dtype, self._library, threads=threads if self._library == "native" else 0)
