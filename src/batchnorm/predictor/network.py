"""A folded network at work: one matrix and one activation per layer, rows one by one.

An affine map W a + b is one matrix in homogeneous coordinates: a gets one more entry, a constant c, and W one more
column, b / c. One more row of the matrix makes the next layer's constant. This spares each layer an addition. And it
notices what is not finite: 0 times infinity or NaN is NaN, so that the constant, and with it every score, turns NaN
where any entry of a is infinite or NaN, even where an activation would hide it. One look at the scores is enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.predictor.activations import Floats, activation_of
from batchnorm.predictor.folded import Array, Folded
from batchnorm.predictor.product import RowProduct
from batchnorm.predictor.quiet import quiet

_ENTERING = 64.0  # of the constant into an activation: each makes a power of two of it, 64 or 1, in any dtype


class Network:
    """Scores of encoded rows; each row's depend on that row alone, to the last bit."""

    def __init__(self, folded: Folded) -> None:
        self._scale = folded.scale
        self._ones = np.ones((1, folded.layers[0].weight.shape[1] + 1), folded.dtype)
        self._activate = activation_of(folded.activation)
        left = np.array([_ENTERING], folded.dtype)
        self._activate(left)
        constant, products = 1.0, []
        for layer in folded.layers:
            matrix = np.hstack([layer.weight, layer.bias[:, None] / constant])
            if layer is not folded.layers[-1]:
                matrix = np.vstack([matrix, np.zeros(matrix.shape[1])])
                matrix[-1, -1] = _ENTERING / constant
                constant = float(left[0])
            products.append(RowProduct(matrix.astype(folded.dtype)))
        *self._hidden, self._head = products
        wholes = [product.whole for product in products if product.whole is not None]
        self._alone = (tuple(wholes[:-1]), wholes[-1]) if len(wholes) == len(products) else None

    def scores(self, x: NDArray[Any]) -> Array:
        """The head's outputs (N, outputs) for x: (N, F) of a real dtype.

        Those of a row are NaN or infinite where an entry of x is, or is too large to compute with.
        """
        return quiet().run(self._scores, x)

    def _scores(self, x: NDArray[Any]) -> Array:
        if self._scale is not None:
            # In float64: a column of mean 1e9 and standard deviation 1 has no digits left in float32.
            x = x - self._scale.centre
            x /= self._scale.divisor
        if len(x) == 1 and self._alone is not None:
            a: Floats = self._ones.copy()
            a[:, :-1] = x
            hidden, head = self._alone
            for matrix in hidden:
                a = a.dot(matrix)
                self._activate(a)
            alone: Array = a.dot(head).astype(np.float64)
            return alone
        a = self._ones.repeat(len(x), axis=0)
        a[:, :-1] = x
        for product in self._hidden:
            a = product(a)
            self._activate(a)
        return self._head(a).astype(np.float64)
