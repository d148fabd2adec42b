"""The loss and the score of a task: cross-entropy and accuracy, or squared error and R2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Objective:
    """What a network is trained for.

    Attributes:
        task: "classification", scores (N, classes) against class numbers (N,); or "regression", scores (N, 1) against
            standardized targets (N,).
    """

    task: Task

    @property
    def metric_name(self) -> str:
        """How the score is called."""
        return "accuracy" if self.task == "classification" else "R2"

    def loss(self, scores: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean loss per row, (): each row counted `weights` (N,) times."""
        if self.task == "classification":
            if weights is None:
                return F.cross_entropy(scores, y)
            each = F.cross_entropy(scores, y, reduction="none")
        else:
            if weights is None:
                return F.mse_loss(scores.squeeze(1), y)
            each = (scores.squeeze(1) - y) ** 2
        return (each * weights).sum() / weights.sum()

    def value_and_gradient(self, scores: Tensor, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """loss(), and its gradient in the scores, (N, outputs): softmax less one-hot, or twice the residual."""
        # Class weights may be 0: a batch of such rows alone teaches nothing, which is not the same as NaN.
        share: Tensor | float = 1.0 / len(y) if weights is None else (weights / weights.sum().clamp(min=1e-30))[:, None]
        if self.task == "classification":
            log_p = F.log_softmax(scores, 1)
            picked = log_p.gather(1, y[:, None])
            gradient = log_p.exp_()
            gradient.scatter_add_(1, y[:, None], torch.full_like(picked, -1.0))
            return -(picked * share).sum(), gradient.mul_(share)
        residual = scores - y[:, None]
        return (residual * residual * share).sum(), residual.mul_(2 * share)

    def metric(self, scores: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
        """Accuracy in [0, 1], or R2 = 1 - sum (y - p)^2 / sum (y - mean)^2, in which a constant target scores 0."""
        w = torch.ones_like(y, dtype=torch.float64) if weights is None else weights.double()
        if self.task == "classification":
            hit = (scores.argmax(1) == y).double()
            # argmax over NaN names a class all the same; a network that says NaN has named none.
            hit = torch.where(torch.isfinite(scores).all(1), hit, 0)
            return float((hit * w).sum() / w.sum())
        p, t = scores.squeeze(1).double(), y.double()
        spread = (w * (t - (w * t).sum() / w.sum()) ** 2).sum()
        return float(1 - (w * (t - p) ** 2).sum() / spread) if spread > 0 else 0.0
