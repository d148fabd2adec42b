"""The bowl that the loss of a linear model is near its minimum: its curvatures, and its picture over two weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.lab.charts import Axis, Contour, Series
from batchnorm.lab.trial import Trial

GRID, PATH, NEWTON = 31, 25, 10
_ROUNDING = 1e-10  # of the largest eigenvalue: less is what rounding leaves of 0
_AT_REST = 1e-6  # of the gradient at weights 0: less is left of it at the lowest place


def spectra(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, the largest first, of the covariance of x (N, F) and of the second moments of x and a constant 1."""
    x = x.double()
    x = x[:, x.var(dim=0, correction=0) > 0]
    centred = x - x.mean(dim=0)
    whole = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    covariance, moments = (torch.linalg.eigvalsh(m.T @ m / len(m)).flip(0) for m in (centred, whole))
    return covariance, moments


def condition(eigenvalues: Tensor) -> float:
    """The largest divided by the smallest that is more than rounding."""
    kept = eigenvalues[eigenvalues > _ROUNDING * eigenvalues.max()]
    return float(kept.max() / kept.min())


def steepest_inputs(raw: Any) -> tuple[int, int] | None:
    """The two inputs of the largest mean of those that vary; None where there are no two. raw: (N, F)."""
    x = torch.as_tensor(raw).double()
    varies = (x.amax(dim=0) > x.amin(dim=0)).nonzero().flatten()
    if len(varies) < 2:
        return None
    first, second = varies[x[:, varies].mean(dim=0).topk(2).indices].tolist()
    return first, second


def bowl(trial: Trial, kind: str, inputs: tuple[int, int]) -> Contour | None:
    """The training loss over the weights from two inputs to the first class, all others 0.

    About its lowest place; over it gradient descent in these two weights, with a rate of 1 / largest curvature, which
    no rate may exceed by twice. None where the loss has no single lowest place: where the two inputs tell the first
    class apart without an error it falls for ever, and where one says what the other says it is a channel.
    """
    pair = trial.train.x[:, list(inputs)].double()
    others = torch.zeros(len(pair), trial.network.head.out_features - 1, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        return F.cross_entropy(torch.cat([(pair @ weights)[:, None], others], dim=1), trial.train.y)

    lowest = _lowest(loss)
    if lowest is None:
        return None
    curvatures = torch.linalg.eigvalsh(_hessian(loss, lowest))
    span = 1.5 / float(curvatures.max().sqrt())
    steps = torch.linspace(-span, span, GRID, dtype=torch.float64)
    x_at, y_at = ((steps + lowest[i]).tolist() for i in (0, 1))
    heights = tuple(tuple(float(loss(torch.tensor([x, y], dtype=torch.float64))) for x in x_at) for y in y_at)
    path = [lowest + span * torch.tensor([-0.9, 0.3], dtype=torch.float64)]
    rate = 1 / float(max(torch.linalg.eigvalsh(_hessian(loss, at)).max() for at in (path[0], lowest)))
    for _ in range(PATH):
        path.append(path[-1] - rate * _gradient(loss, path[-1]))
    x_path, y_path = (tuple(float(point[i]) for point in path) for i in (0, 1))
    return Contour(
        Axis(f"weight of input {inputs[0] + 1}", bounds=(x_at[0], x_at[-1])),
        Axis(f"weight of input {inputs[1] + 1}", bounds=(y_at[0], y_at[-1])),
        tuple(x_at),
        tuple(y_at),
        heights,
        "training loss",
        (Series(f"{PATH} steps of gradient descent", x_path, y_path),),
        label=f"{kind}: curvatures {float(curvatures.max() / curvatures.min()):.3g} to 1",
    )


def _lowest(loss: Callable[[Tensor], Tensor]) -> Tensor | None:
    """(2,), by Newton's method from 0; None where there is none, or the method does not come to rest there."""
    at = torch.zeros(2, dtype=torch.float64)
    start = float(_gradient(loss, at).norm())
    for _ in range(NEWTON):
        step, info = torch.linalg.solve_ex(_hessian(loss, at), _gradient(loss, at))
        if int(info) or not bool(torch.isfinite(step).all()):
            return None
        at = at - step
    curvatures = torch.linalg.eigvalsh(_hessian(loss, at))
    is_bowl = bool(curvatures.min() > _ROUNDING * curvatures.max())
    return at if is_bowl and float(_gradient(loss, at).norm()) <= _AT_REST * start else None


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    moving = at.clone().requires_grad_()
    return torch.autograd.grad(loss(moving), moving)[0]


def _hessian(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.hessian(loss, at)  # type: ignore[no-untyped-call]
    return found
