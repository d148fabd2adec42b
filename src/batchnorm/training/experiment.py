"""A whole experiment: the network, with --compare its twin without normalization, kept, resumed, summarized."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchnorm import __version__
from batchnorm.atomic import atomic_write
from batchnorm.data import Prepared
from batchnorm.data.naming import count
from batchnorm.errors import DataError, SettingsError, legible
from batchnorm.model_file import ModelFile
from batchnorm.predictor import Predictor
from batchnorm.training import checkpoint, loop
from batchnorm.training.assemble import (
    Assembly,
    Examples,
    assemble,
    model_tensors,
    network_spec,
    own_randomness,
)
from batchnorm.training.plan import Plan
from batchnorm.training.progress import Observer
from batchnorm.training.record import Record, SinglePrediction
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings
from batchnorm.training.summary import summarize
from batchnorm.training.threads import suited_to

_SINGLES = 3  # test rows predicted one at a time, to be shown


@dataclass(frozen=True)
class Finished:
    """An experiment that has run to its end: what to keep and what to show."""

    model_file: ModelFile
    record: Record


def perform(
    plan: Plan,
    *,
    checkpoints: Path | None = None,
    observe: Callable[[str], Observer] = lambda label: Observer(),
    should_stop: Callable[[], bool] = lambda: False,
    keep_every: float = 5.0,
) -> Finished | None:
    """Train every network of `plan`, going on from its checkpoint where there is one.

    Args:
        checkpoints: a folder for them, which exists; None keeps none.
        observe: makes the observer of one network's training from its label.
        should_stop: asked after every step.
        keep_every: seconds between checkpoints.

    Returns:
        None where it was stopped before the end.

    Raises:
        CheckpointError: a checkpoint is damaged or belongs to another experiment.
        OutputError: a checkpoint could not be written.
        SettingsError: the main network diverged before there was anything to keep.
    """
    trained = []
    for position, (label, settings) in enumerate(plan.networks):
        path = None if checkpoints is None else checkpoints / f"network-{position + 1}.safetensors"
        assembly = _trained(plan, settings, path, observe(label), should_stop, keep_every)
        if assembly is None:
            return None
        if position == 0:
            _refuse_diverged(assembly.run)
        trained.append((label, assembly))
    data, schema = plan.data, plan.data.schema
    test = Examples(data.x_test, data.y_test)
    classes = [str(c) for c in schema.classes]
    runs = tuple(summarize(assembly, test, label=label, goal=plan.goal, classes=classes) for label, assembly in trained)
    main = trained[0][1]
    notes = {
        "data": data.name,
        "rows": {"train": len(data.x_train), "validation": len(data.x_valid), "test": len(data.x_test)},
        "settings": plan.settings.to_dict(),
        "steps": runs[0].steps,
        "best_step": runs[0].best_step,
        "seconds": runs[0].seconds,
        "metrics": {
            f"test_{main.run.objective.metric_name}": _finite(runs[0].test_metric),
            "test_loss": _finite(runs[0].test_loss),
        },
        "seed": plan.settings.seed,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "arithmetic": asdict(main.run.formulas.arithmetic),
        "device": str(main.run.train.x.device),
    }
    model_file = ModelFile(model_tensors(main), network_spec(main.network, plan.settings), schema, notes)
    record = Record(
        title=f"{legible(schema.target.name)} from {legible(data.name)}",
        data_name=data.name,
        rows_train=len(data.x_train),
        rows_valid=len(data.x_valid),
        rows_test=len(data.x_test),
        features=data.x_train.shape[1],
        task=plan.task,
        metric_name=main.run.objective.metric_name,
        target_name=schema.target.name,
        goal=plan.goal,
        runs=runs,
        singles=_singles(Predictor(model_file), data),
        settings=plan.settings.to_dict(),
        versions=versions(),
        seed=plan.settings.seed,
    )
    return Finished(model_file, record)


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    return {
        "batchnorm": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _trained(
    plan: Plan,
    settings: Settings,
    path: Path | None,
    observer: Observer,
    should_stop: Callable[[], bool],
    keep_every: float,
) -> Assembly | None:
    """One network, trained on from its checkpoint to its end, its best weights in place; None if stopped."""
    valid = Examples(plan.data.x_valid, plan.data.y_valid, plan.data.w_valid)
    assembly = assemble(plan.train, valid, settings, task=plan.task, outputs=plan.outputs)
    identity = plan.identity(settings)

    def keep(run: Run) -> None:
        if path is not None:
            atomic_write(path, checkpoint.pack(run, identity=identity))

    with own_randomness(settings.seed, assembly.run.train.x.device), suited_to(assembly.network, settings.batch_size):
        if path is not None and path.exists():
            checkpoint.restore(assembly.run, path, identity=identity)
        ended = loop.turn(assembly.run, observer=observer, should_stop=should_stop, keep=keep, keep_every=keep_every)
    if not ended:
        return None
    assembly.run.take_best()
    return assembly


def _refuse_diverged(run: Run) -> None:
    """Raise where a run has diverged and no evaluation before has kept weights to go back to."""
    if run.progress.ended == "diverged" and not run.best:
        raise SettingsError(
            f"training diverged within {count(run.progress.step, 'step')}, and no weights before that were kept: "
            f"expected a smaller learning rate than {run.settings.rate:g}, or more frequent evaluations on validation "
            "rows"
        )


def _singles(predictor: Predictor, data: Prepared) -> tuple[SinglePrediction, ...]:
    """The first test rows, counted from 1, each predicted alone."""
    shown = []
    for row in range(min(_SINGLES, len(data.x_test))):
        target = data.schema.decode([int(data.y_test[row])])[0] if data.schema.classes else float(data.y_test[row])
        try:
            found = predictor.predict_records([data.test_table.record(row)])
        except DataError:  # a test row far beyond the training rows must not cost the user the training
            shown.append(SinglePrediction(row + 1, _text(target), "too large to compute with", None))
            continue
        probability = None if found.probabilities is None else float(found.probabilities.max())
        shown.append(SinglePrediction(row + 1, _text(target), _text(found.values[0]), probability))
    return tuple(shown)


def _text(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
