"""x @ matrix.T where each row's result depends on that row alone, to the last bit.

BLAS promises no such thing for a matrix of rows: for another number of rows, at the edge of its tiles and where threads
share the work it adds up in another order. So the tile here is one row: a matrix-vector product of one fixed shape,
which NumPy repeats over the rows within one call. A matrix so large that BLAS would share that product among threads is
cut into pieces that it leaves whole.

Tiles of 2 to 64 rows were measured (`benchmarks.prediction --tiles`): with 4 rows a batch gains a factor of 1.5 to 2,
and a row alone loses as much of its product's time; from 6 rows on, the same row gets other bits at other places of its
tile or with other numbers of threads, for some sizes.
"""

from __future__ import annotations

import platform

import numpy as np

from batchnorm.predictor.activations import Floats

# OpenBLAS, which NumPy comes with, shares among threads: a matrix-vector product from 460,800 weights on (x86) or from
# 25,000 on (some Arm), a dot product from 10,000 features on.
_WHOLE = 400_000 if platform.machine().lower() in ("x86_64", "amd64") else 20_000
_LONGEST = 8192


class RowProduct:
    """x: (N, F), contiguous -> x @ matrix.T: (N, C), contiguous, for matrix: (C, F).

    Attributes:
        whole: (F, C), by which `x.dot` gives a row alone, (1, F), the same in less time; None where it is in pieces.
    """

    def __init__(self, matrix: Floats) -> None:
        self._outputs, features = matrix.shape
        groups = -(-self._outputs * min(features, _LONGEST) // _WHOLE)
        each = -(-self._outputs // groups)  # outputs of a group; the last group is filled up with zeros
        padded = np.zeros((groups * each, features), matrix.dtype)
        padded[: self._outputs] = matrix
        grouped = padded.reshape(groups, each, features).transpose(0, 2, 1)  # (G, F, C / G)
        self._matrix, *further = (grouped[:, start : start + _LONGEST] for start in range(0, features, _LONGEST))
        self._further = tuple(further)
        self.whole: Floats | None = None
        if groups == 1 and not further:
            self.whole = (
                grouped[0] if features > self._outputs else np.ascontiguousarray(grouped[0])
            )  # the longer lines

    def __call__(self, x: Floats) -> Floats:
        if self.whole is None:
            return self._in_pieces(x)
        many: Floats = np.matmul(x[:, None, :], self.whole)  # of each row, the call to BLAS that `dot` makes of one
        return many.reshape(len(x), self._outputs)

    def _in_pieces(self, x: Floats) -> Floats:
        rows = x[:, None, None, :]
        z: Floats = np.matmul(rows[..., :_LONGEST], self._matrix)  # (N, G, 1, C / G)
        for number, block in enumerate(self._further, start=1):
            z += np.matmul(rows[..., number * _LONGEST : (number + 1) * _LONGEST], block)
        return np.ascontiguousarray(z.reshape(len(x), z.shape[1] * z.shape[3])[:, : self._outputs])
