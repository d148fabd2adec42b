"""One network under the experimenter's hand: stepped by the compiled step, looked into between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from batchnorm.data import Prepared
from batchnorm.nn import BatchNorm1d
from batchnorm.training.assemble import Examples, assemble, carry_on
from batchnorm.training.network import HiddenLayer, Network
from batchnorm.training.objective import Task
from batchnorm.training.run import Rows, Run
from batchnorm.training.settings import Settings

PAPER = Settings(
    hidden=(100, 100, 100),
    activation="sigmoid",
    weight_scale=0.1,
    optimizer="gd",
    learning_rate=0.5,
    batch_size=60,
    patience=None,
    device="cpu",
)
"""Ioffe and Szegedy 2015, section 4.1: three layers of 100 sigmoids, batches of 60, plain gradient descent."""

MOST_JUDGED = 2000  # test rows: enough to tell accuracies apart by a point


class Trial:
    """A network with its data and its optimizer.

    Args:
        data: encoded rows; training rows are learnt from, test rows judge.
        settings: of network and training; steps and epochs in them are not looked at.
        dtype: of weights and arithmetic.
        change: what is done to the fresh network before its optimizer is made, such as other initial weights.

    Attributes:
        network: the torch module; `network.body` takes rows of `train.x`. Weights are changed in place, never replaced.
        train, test: rows as the network takes them: x (N, F) normalized, y (N,) class numbers or standardized targets.
    """

    def __init__(
        self,
        data: Prepared,
        settings: Settings,
        *,
        dtype: torch.dtype = torch.float32,
        change: Callable[[Network], None] | None = None,
    ) -> None:
        task: Task = "classification" if data.schema.classes else "regression"
        examples = Examples(data.x_train, data.y_train)
        outputs = len(data.schema.classes) or 1
        torch.manual_seed(settings.seed)
        assembly = assemble(examples, None, settings, task=task, outputs=outputs, dtype=dtype, traced=False)
        if change is not None:
            change(assembly.network)
            assembly = carry_on(assembly.network, assembly.target, examples, None, settings, task=task, traced=False)
        self.settings = settings
        self.network: Network = assembly.network
        self.run: Run = assembly.run
        self.train: Rows = assembly.run.train
        judged = _some(len(data.x_test), settings.seed)
        self.test: Rows = assembly.rows(Examples(data.x_test[judged], data.y_test[judged]))
        self.network.train()

    @property
    def layers(self) -> list[HiddenLayer]:
        """The hidden layers: `linear`, `norm` (None without), `activation`."""
        return [layer for layer in self.network.layers if isinstance(layer, HiddenLayer)]

    @property
    def norms(self) -> list[BatchNorm1d]:
        """The batch norm layers; none without."""
        return [layer.norm for layer in self.layers if layer.norm is not None]

    def steps(self, count: int) -> Iterator[int]:
        """Train for `count` steps; after each its number, from 1 on over the trial's whole life.

        Between two steps the network may be looked at and changed in place; every parameter's `.grad` is that of the
        step just made.
        """
        for _ in range(count):
            self.run.step()
            yield self.run.progress.step

    def judge(self) -> tuple[float, float]:
        """(loss, metric) on the test rows by running statistics; metric: accuracy in [0, 1], or R2."""
        return self.run.judge(self.test)

    @property
    def metric_name(self) -> str:
        """ "accuracy" or "R2"."""
        return self.run.objective.metric_name

    @property
    def is_finite(self) -> bool:
        """Whether every weight is a number still."""
        return all(bool(torch.isfinite(p).all()) for p in self.network.parameters())

    def batch(self, rows: int, *, seed: int = 0) -> Rows:
        """So many training rows (fewer where there are fewer), the same for the same seed."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:rows]
        return Rows(self.train.x[order], self.train.y[order])

    def loss(self, rows: Rows) -> Tensor:
        """Loss of `rows` as one training batch, (), through autograd; running statistics move as in any forward."""
        return self.run.objective.loss(self.network.body(rows.x), rows.y)


def twins(settings: Settings) -> tuple[tuple[bool, Settings], ...]:
    """(whether normalized, settings): with batch normalization and without, all else the same."""
    return (True, replace(settings, norm="batch")), (False, replace(settings, norm=None))


def _some(rows: int, seed: int) -> list[int]:
    """At most MOST_JUDGED row numbers, at random where there are more."""
    if rows <= MOST_JUDGED:
        return list(range(rows))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(rows, generator=generator)[:MOST_JUDGED].tolist())
