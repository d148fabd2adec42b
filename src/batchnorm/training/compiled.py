"""The step as the compiled kernels run it: written out once for each size of batch, then played at every step.

Z = A_prev W^T + b,  Z~ = BN(Z),  A = g(Z~) * D      going forward, layer by layer (D: dropout)
dZ = BN'(dA * D * g'),  dW = dZ^T A_prev,  db = sum of the rows of dZ,  dA_prev = dZ W      and back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from batchnorm.training.layers import Hidden, Layers, Linear
from batchnorm.training.tape import Tape


class Batch(NamedTuple):
    """Rows to learn from. x: (N, inputs), y: (N,), counts: (N,) float64 or None, weights: (N,) or None."""

    x: Tensor
    y: Tensor
    counts: Tensor | None
    weights: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        counts, weights = (None if t is None else change(t) for t in (self.counts, self.weights))
        return Batch(change(self.x), change(self.y), counts, weights)


class _Passed(NamedTuple):
    """What a hidden layer's forward pass left for its way back; every matrix is (N, neurons)."""

    x: Tensor  # what came in, (N, inputs)
    z: Tensor  # what the linear map gave
    a: Tensor  # what the activation gave, where it is not part of batch norm
    centre: Tensor | None
    drop: Tensor | None  # 0 or 1 / (1 - dropout)


class CompiledStep:
    """One size of batch's step, over memory of its own.

    Args:
        tape: an empty one.
        layers: of the network.
        source: all rows; a batch has the same dtypes, and counts and weights where these are there.
        rows: of a batch.
        starting: average the running statistics plainly over the first 1 / momentum batches.
    """

    def __init__(self, tape: Tape, layers: Layers, source: Batch, rows: int, *, starting: bool) -> None:
        self._tape, self._starting = tape, starting
        self.batch = batch = source.each(lambda t: t.new_zeros((rows, *t.shape[1:])))
        for everything, part in zip(source, batch, strict=True):
            if everything is not None and part is not None:
                tape.gather(everything, part)

        a, passed = batch.x, []
        for layer in layers.hidden:
            a, left = self._forward(layer, a)
            passed.append(left)
        scores = tape.product(a, layers.head.transposed, bias=layers.head.bias)
        self._loss, dz = tape.loss(scores, batch.y, batch.weights)
        self._set_gradients(layers.head, dz, a)
        above = layers.head
        for layer, left in zip(reversed(layers.hidden), reversed(passed), strict=True):
            dz = tape.product(dz, above.weight)
            self._backward(layer, left, dz)
            self._set_gradients(layer.linear, dz, left.x)
            above = layer.linear

    def play(self, rows: int = 0) -> Tensor:
        """The loss, () float64. rows: the address of the numbers of the rows to take; 0: they are in `batch`."""
        self._tape.play(rows)
        return self._loss

    def _forward(self, layer: Hidden, x: Tensor) -> tuple[Tensor, _Passed]:
        tape, counts, centre, drop = self._tape, self.batch.counts, None, None
        z = a = tape.product(x, layer.linear.transposed, bias=layer.linear.bias)
        if layer.norm is not None and layer.before:
            out, centre = tape.normalize(layer.norm, z, counts, layer.activation, starting=self._starting)
        else:
            out = a = tape.activate(layer.activation, z)
            if layer.norm is not None:
                out, centre = tape.normalize(layer.norm, a, counts, None, starting=self._starting)
        if layer.dropout:
            drop, kept = torch.empty_like(out), 1 - layer.dropout
            tape.call(lambda: drop.bernoulli_(kept).div_(kept))
            tape.times(out, drop)
        return out, _Passed(x, z, a, centre, drop)

    def _backward(self, layer: Hidden, passed: _Passed, da: Tensor) -> None:
        """The gradient in what the layer gave becomes that in what its linear map gave; the norm's are set."""
        tape, counts, norm = self._tape, self.batch.counts, layer.norm
        if passed.drop is not None:
            tape.times(da, passed.drop)
        if norm is not None and passed.centre is not None:
            fused = layer.activation if layer.before else None
            tape.denormalize(norm, passed.z if layer.before else passed.a, da, passed.centre, counts, fused)
        if norm is None or not layer.before:
            tape.slope(layer.activation, passed.z, da)

    def _set_gradients(self, linear: Linear, dz: Tensor, x: Tensor) -> None:
        self._tape.product(dz.t(), x, out=linear.dweight)
        if linear.dbias is not None:
            self._tape.column_sums(dz, linear.dbias)
