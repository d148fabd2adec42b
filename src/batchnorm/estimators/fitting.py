"""One fit: rows and settings in, a trained network and its curves out; nothing that went in is changed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from batchnorm.estimators.choices import refuse_another_network
from batchnorm.estimators.scales import moments_of_targets
from batchnorm.estimators.trained import InputMeans, Trained, is_finite, optimizer_state, settled, take_up
from batchnorm.estimators.watch import Watch
from batchnorm.moments import Moments
from batchnorm.training.assemble import Assembly, assemble, carry_on, find_device
from batchnorm.training.examples import Examples, refuse_huge, refuse_vanishing
from batchnorm.training.loop import own_randomness, turn
from batchnorm.training.objective import Task
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings
from batchnorm.training.threads import suited_to

Ending = Literal["converged", "all epochs", "interrupted", "diverged"]


@dataclass(frozen=True)
class Patience:
    """When to stop before the last epoch, and whether to tell of each: see `Watch`."""

    tol: float
    epochs: int
    verbose: bool


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit has come to.

    Attributes:
        trained: the network and what belongs to it.
        losses, scores: of each epoch; no scores without validation rows.
        rows: that went through the network in training, each as often as it counts and once for each epoch.
        ending: how it came to its end; "diverged" with an earlier, better epoch kept.
    """

    trained: Trained
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    rows: int
    ending: Ending


def fit_anew(
    train: Examples, valid: Examples | None, settings: Settings, patience: Patience, *, task: Task, outputs: int
) -> Fitted:
    """Draw a network and train it, in float32 where the rows are float32 and in float64 else.

    Raises:
        SettingsError: too few rows.
        DataError: targets whose squares overflow or vanish in float64.
        ValueError: training diverged.
    """
    dtype = torch.float32 if train.x.dtype == np.float32 else torch.float64
    if task == "regression":
        refuse_huge(train.y, "y", remedy="change its unit")
        refuse_vanishing(train.y, "y")
    assembly = assemble(train, valid, settings, task=task, outputs=outputs, dtype=dtype, traced=False)
    targets = moments_of_targets(train) if task == "regression" else None
    return _train(assembly, settings, patience, InputMeans.of(train), targets)


def fit_further(
    before: Trained,
    train: Examples,
    valid: Examples | None,
    settings: Settings,
    patience: Patience,
    *,
    take_up_optimizer: bool = False,
) -> Fitted:
    """Train a copy of a trained network on; its scales of inputs and targets stay as they are. Raises as `fit_anew`.

    Raises:
        SettingsError: the settings ask for another network.
    """
    refuse_another_network(before.settings, settings)
    network = copy.deepcopy(before.network).to(find_device(settings.device))
    task: Task = "classification" if before.scale is None else "regression"
    assembly = carry_on(network, before.scale or (0.0, 1.0), train, valid, settings, task=task, traced=False)
    if take_up_optimizer:
        take_up(assembly.run, before)
    return _train(assembly, settings, patience, before.inputs, before.targets)


def _train(
    assembly: Assembly, settings: Settings, patience: Patience, inputs: InputMeans, targets: Moments | None
) -> Fitted:
    run, network = assembly.run, assembly.network
    watch = Watch(run, tol=patience.tol, patience=patience.epochs, verbose=patience.verbose)
    interrupted = False
    try:
        with own_randomness(settings.seed, run.train.x.device), suited_to(network, max(b - a for a, b in run.cuts)):
            turn(run, observer=watch, should_stop=lambda: watch.has_converged)
    except KeyboardInterrupt:
        interrupted = True
    losses = [*watch.losses, *_of_unfinished_epoch(run)]
    run.take_best()
    if not is_finite(network):
        raise ValueError(
            f"training diverged: after epoch {len(losses)} the network holds values that are not finite: set "
            f"learning_rate_init below {settings.rate:g}, or bring very large inputs or targets to a usual scale"
        )
    scale = None if targets is None else assembly.target
    trained = Trained(settled(network), settings, inputs, targets, scale, optimizer_state(run))
    ending = _ending(run, watch, interrupted=interrupted)
    weights = run.train.weights
    rows = watch.rows if weights is None else round(watch.rows * float(weights.mean()))
    return Fitted(trained, tuple(losses), tuple(watch.scores), rows, ending)


def _of_unfinished_epoch(run: Run) -> list[float]:
    """Its mean loss so far, where training was interrupted within an epoch."""
    return [float(run.loss_sum) / run.loss_steps] if run.loss_steps else []


def _ending(run: Run, watch: Watch, *, interrupted: bool) -> Ending:
    if interrupted:
        return "interrupted"
    if watch.has_converged:
        return "converged"
    return "diverged" if run.progress.ended == "diverged" else "all epochs"
