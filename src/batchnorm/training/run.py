"""One network on its way: what changes from step to step, so that it can be stopped, kept and taken up again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from batchnorm.training import batches
from batchnorm.training.compiled import Batch
from batchnorm.training.descent import Descent, build_optimizer
from batchnorm.training.network import Network
from batchnorm.training.objective import Objective
from batchnorm.training.progress import Evaluation
from batchnorm.training.settings import Settings
from batchnorm.training.step import Step

PROBE_ROWS = 1000  # rows whose pre-activations are traced
_SAME = 1e-6  # metrics that differ by less are one: rows of next to no weight must not outvote the loss
_BLOCK = 8192  # rows whose activations are held at a time
_QUANTILES = (0.15, 0.50, 0.85)  # Ioffe and Szegedy 2015, Fig. 1


@dataclass(frozen=True)
class Rows:
    """Rows to train or judge on, normalized and on the device. x: (N, F), y: (N,), weights: (N,) or None."""

    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]


@dataclass
class Progress:
    """Where a run stands and what it has seen; JSON throughout, so that a checkpoint can hold it."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_metric: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    ended: str | None = None  # why, once it has
    curve: list[Evaluation] = field(default_factory=list)
    trace_steps: list[int] = field(default_factory=list)
    traces: list[list[tuple[float, float, float]]] = field(default_factory=list)  # per evaluation, per layer


class Run:
    """A network, its optimizer and its progress over given rows.

    Args:
        network: fresh, on its device; `body` is trained.
        train: normalized training rows.
        valid: normalized validation rows, or None.
        objective: of the task.
        settings: as the network was built with.
        loss_weights: (N,) for `train`: how much each row weighs in the loss alone (class weights); None: as it counts.
        traced: whether evaluations also look at what enters the activations.
    """

    def __init__(
        self,
        network: Network,
        train: Rows,
        valid: Rows | None,
        objective: Objective,
        settings: Settings,
        *,
        loss_weights: Tensor | None = None,
        traced: bool = True,
    ) -> None:
        self.network, self.train, self.valid = network, train, valid
        self.objective, self.settings = objective, settings
        self._traced = traced
        counts = None if train.weights is None else train.weights.double()
        self.loss_weights = train.weights if loss_weights is None else loss_weights
        source = Batch(train.x, train.y, counts, self.loss_weights)
        self.formulas = Step(network, objective, warm_statistics=settings.warm_statistics, source=source)
        self.optimizer = build_optimizer(network, settings)
        self._descent = Descent(self.optimizer, settings.optimizer)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        least = 2 if settings.norm == "batch" and settings.hidden else 1
        self.cuts = batches.cuts(len(train), settings.batch_size, least=least)
        self.steps = settings.steps or settings.epochs * len(self.cuts)
        self.evaluate_every = settings.evaluate_every or len(self.cuts)
        self._order: tuple[int, Tensor] | None = None
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=train.x.device)  # since the last evaluation
        self.loss_steps = 0

    def step(self) -> int:
        """One mini-batch, forward, backward and update; returns its rows."""
        began = time.perf_counter()
        epoch, position = divmod(self.progress.step, len(self.cuts))
        if self._order is None or self._order[0] != epoch:
            order = batches.order(len(self.train), seed=self.settings.seed, epoch=epoch, device=self.train.x.device)
            self._order = (epoch, order)
        start, stop = self.cuts[position]
        self.loss_sum += self.formulas.gradients_of(self._order[1][start:stop])
        self._descent.step()
        self.loss_steps += 1
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - began
        return stop - start

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the learning curves get a point now."""
        step = self.progress.step
        return step % self.evaluate_every == 0 or step >= self.steps

    def evaluate(self) -> Evaluation:
        """Judge the network with its running statistics, note the best, and decide whether the run has ended."""
        p = self.progress
        train_loss = float(self.loss_sum) / max(1, self.loss_steps)
        self.loss_sum.zero_()
        self.loss_steps = 0
        valid_loss = valid_metric = None
        if self.valid is not None:
            valid_loss, valid_metric = self.judge(self.valid)
        point = Evaluation(p.step, -(-p.step // len(self.cuts)), p.seconds, train_loss, valid_loss, valid_metric)
        p.curve.append(point)
        self._trace()
        if not (math.isfinite(train_loss) and self._has_finite_weights()):
            p.ended = "diverged"
            return point
        self._keep_best(point)
        if p.step >= self.steps:
            p.ended = "all steps"
        elif self.settings.patience and self.valid is not None and p.evaluations_since_best >= self.settings.patience:
            p.ended = "no improvement"
        return point

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """(N, outputs) of normalized rows (N, F) at test time, a block after the other: memory stays bounded."""
        was_training = self.network.training
        self.network.eval()
        scores = torch.cat([self.network.body(block) for block in torch.split(x, _BLOCK)])
        self.network.train(was_training)
        return scores

    @torch.no_grad()
    def judge(self, rows: Rows) -> tuple[float, float]:
        """(loss, metric) of `rows` at test time."""
        scores = self.scores(rows.x)
        loss = float(self.objective.loss(scores, rows.y, rows.weights))
        return loss, self.objective.metric(scores, rows.y, rows.weights)

    def take_best(self) -> None:
        """Put the best evaluation's weights into the network, where there were validation rows to tell it."""
        if self.best:
            self.network.load_state_dict(self.best)

    def _keep_best(self, point: Evaluation) -> None:
        p = self.progress
        if point.valid_metric is None or point.valid_loss is None:
            p.best_step = p.step
            return
        better = math.isfinite(point.valid_loss) and (
            p.best_metric is None
            or p.best_loss is None
            or _is_better(point.valid_metric - p.best_metric, p.best_loss - point.valid_loss)
        )
        p.evaluations_since_best = 0 if better else p.evaluations_since_best + 1
        if better:
            p.best_step, p.best_metric, p.best_loss = p.step, point.valid_metric, point.valid_loss
            self.best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _has_finite_weights(self) -> bool:
        return all(bool(torch.isfinite(p.detach()).all()) for p in self.network.parameters())

    @torch.no_grad()
    def _trace(self) -> None:
        if not (self._traced and self.settings.hidden):
            return
        probe = (self.train if self.valid is None or len(self.valid) < 2 else self.valid).x[:PROBE_ROWS]
        if len(probe) < 2:
            return
        at = torch.tensor(_QUANTILES, dtype=torch.float64)
        entering = self.network.entering_activations(probe)
        values = [torch.quantile(_some(z).double().cpu(), at).tolist() for z in entering]
        self.progress.trace_steps.append(self.progress.step)
        self.progress.traces.append([(v[0], v[1], v[2]) for v in values])


def _is_better(gain: float, saving: float) -> bool:
    """Whether so much more of a metric, or as much of it and so much less of a loss, is an improvement."""
    return gain >= _SAME or (gain > -_SAME and saving > 0)


def _some(z: Tensor) -> Tensor:
    """At most a million values, which is as many as torch.quantile takes well, evenly spaced."""
    flat = z.flatten()
    return flat[:: max(1, flat.numel() // 1_000_000)]
