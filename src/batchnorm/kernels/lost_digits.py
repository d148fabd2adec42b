"""What rounding takes away, where no wider dtype is left to hold it.

`spec` computes in float64 and rounds once; float64 input it can only compute in its own dtype, where every operation
rounds: z - mu, and gamma / sqrt(sigma2 + eps) several times. What was lost is found here, as numbers of the same
dtype, to be added back where it counts. It is a constant to autograd: the derivatives of what it is added to are right
already. Where an intermediate overflows, nothing is found.

Sources: Dekker, "A floating-point technique for extending the available precision", 1971; Knuth, TAOCP 2, 4.2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def of_difference(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """Lost by `difference`, the rounded a - b. a: (N, C, *); b broadcasts to it. Not finite where a is not."""
    a, difference = a.detach(), difference.detach()
    of_b = difference - a
    lost = (of_b - difference).add_(a)
    return lost.sub_(of_b.add_(b.detach()))


def of_root(variance: Tensor, rest: Tensor, eps: float, rstd: Tensor) -> Tensor:
    """Lost by rstd, the rounded 1 / sqrt(variance + rest + eps); all (C,), and rest far smaller than variance."""
    r = rstd.detach()
    v, of_v = _sum(variance.detach(), torch.full_like(r, eps))
    square, of_square = _product(r, r)
    near_one, of_near_one = _product(v, square)
    # Newton's step: r + r / 2 * (1 - v * r^2)
    return _found(r / 2 * ((1 - near_one) - of_near_one - v * of_square - (of_v + rest.detach()) * square))


def of_scale(weight: Tensor | None, rstd: Tensor, of_rstd: Tensor) -> Tensor:
    """Lost by weight * rstd; all (C,)."""
    if weight is None:
        return of_rstd
    w = weight.detach()
    return _found(_product(w, rstd.detach())[1] + w * of_rstd)


def of_start(bias: Tensor | None, shift: Tensor, scale: Tensor, of_scale: Tensor) -> Tensor:
    """Lost by bias - shift * scale; all (C,)."""
    t = shift.detach()
    product, of_product = _product(t, scale.detach())
    lost = -of_product - t * of_scale
    return _found(lost if bias is None else lost + _sum(bias.detach(), -product)[1])


def head(t: Tensor) -> Tensor:
    """t rounded to half its digits: the product of two heads is exact, and so is a head times a count."""
    shifted = t * (2.0**27 + 1 if t.dtype == torch.float64 else 2.0**12 + 1)
    return _found(shifted - (shifted - t))


def _sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and what that lost."""
    s = a + b
    of_b = s - a
    return s, (a - (s - of_b)) + (b - of_b)


def _product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a * b rounded, and what that lost."""
    p, a_head, b_head = a * b, head(a), head(b)
    a_rest, b_rest = a - a_head, b - b_head
    return p, ((a_head * b_head - p) + a_head * b_rest + a_rest * b_head) + a_rest * b_rest


def _found(t: Tensor) -> Tensor:
    return torch.where(torch.isfinite(t), t, 0)
