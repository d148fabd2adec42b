"""Small problems that train in a blink, and how to train on them: clouds of points in classes, a noisy plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchnorm.training import loop
from batchnorm.training.assemble import Assembly, Examples, assemble, own_randomness
from batchnorm.training.objective import Task
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings

QUICK = Settings(hidden=(6, 5), activation="tanh", epochs=3, batch_size=16, patience=None, device="cpu")


def clouds(rows: int = 75, *, features: int = 4, classes: int = 3, spread: float = 1.0, seed: int = 0) -> Examples:
    """Rows around one centre per class, every class there, features of very different units."""
    random = np.random.default_rng(seed)
    y = np.arange(rows, dtype=np.int64) % classes
    centres = np.random.default_rng(99).normal(size=(classes, features)) * 2
    x = centres[y] + random.normal(size=(rows, features)) * spread
    return Examples(x * 10.0 ** np.arange(features) + 5, y)


def plane(rows: int = 75, *, features: int = 3, noise: float = 0.1, seed: int = 0) -> Examples:
    """Targets around 1000 that are linear in the features, plus noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features)) * 3 + 7
    y = 1000 + x @ np.arange(1.0, features + 1) * 20 + random.normal(size=rows) * noise
    return Examples(x, y)


def assembled(
    settings: Settings = QUICK,
    *,
    task: Task = "classification",
    train: Examples | None = None,
    valid: Examples | None = None,
    **options: Any,
) -> Assembly:
    """A run on `train` (one of the problems above unless given), ready to turn."""
    train = (clouds() if task == "classification" else plane()) if train is None else train
    outputs = int(train.y.max()) + 1 if task == "classification" else 1
    return assemble(train, valid, settings, task=task, outputs=outputs, **options)


def turned(
    assembly: Assembly,
    *,
    after: int | None = None,
    restore: Callable[[Run], None] = lambda run: None,
    keep: Callable[[Run], None] | None = None,
) -> Assembly:
    """`assembly` trained to its end, or stopped and kept once it has done `after` steps."""
    run = assembly.run
    with own_randomness(run.settings.seed, run.train.x.device):
        restore(run)
        loop.turn(run, keep=keep, should_stop=lambda: after is not None and run.progress.step >= after, keep_every=1e9)
    return assembly


def trained(settings: Settings = QUICK, **options: Any) -> Assembly:
    """A run turned to its end; arguments as `assembled`."""
    return turned(assembled(settings, **options))


def state(assembly: Assembly) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: t.detach().clone() for name, t in assembly.network.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are not bitwise the same."""
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def changed(**changes: Any) -> Settings:
    """QUICK with these changes."""
    return replace(QUICK, **changes)
