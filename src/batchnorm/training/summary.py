"""What a trained network is shown by: the record of one run, test score, true statistics, confusion or residuals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from batchnorm.functional import batch_norm
from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.moments import Moments
from batchnorm.training import batches
from batchnorm.training.assemble import Assembly, Examples
from batchnorm.training.network import HiddenLayer, Network
from batchnorm.training.record import Confusion, Curve, LayerStatistics, LayerTrace, Residuals
from batchnorm.training.record import Run as RunRecord
from batchnorm.training.run import Rows

_CHUNK = 4096  # rows whose activations are held at a time
_RESIDUALS = 3000  # at most so many points in a picture


def summarize(
    assembly: Assembly, test: Examples, *, label: str, goal: float | None, classes: Sequence[str]
) -> RunRecord:
    """The record of a run that has ended, its best weights in place.

    Args:
        test: rows that training never saw; may be empty.
        goal: the validation metric whose first reaching is counted in steps.
        classes: names in the order of the class numbers; empty in regression.
    """
    run, progress = assembly.run, assembly.run.progress
    curve = Curve(
        steps=tuple(e.step for e in progress.curve),
        seconds=tuple(e.seconds for e in progress.curve),
        train_loss=tuple(e.train_loss for e in progress.curve),
        valid_loss=tuple(e.valid_loss for e in progress.curve if e.valid_loss is not None),
        valid_metric=tuple(e.valid_metric for e in progress.curve if e.valid_metric is not None),
    )
    reached = [
        e.step for e in progress.curve if goal is not None and e.valid_metric is not None and e.valid_metric >= goal
    ]
    rows = assembly.rows(test) if len(test) else None
    loss, metric = run.judge(rows) if rows is not None else (float("nan"), float("nan"))
    scores = run.scores(rows.x) if rows is not None else None
    return RunRecord(
        label=label,
        norm=run.settings.norm if run.settings.hidden else None,
        curve=curve,
        traces=_traces(assembly),
        statistics=layer_statistics(assembly.network, run.train),
        test_metric=metric,
        test_loss=loss,
        test_metric_batch_statistics=_own_batches_metric(assembly, rows) if rows is not None else None,
        steps=progress.step,
        best_step=progress.best_step,
        seconds=progress.seconds,
        steps_to_goal=reached[0] if reached else None,
        confusion=_confusion(scores, rows, classes) if scores is not None and rows is not None and classes else None,
        residuals=_residuals(assembly, scores, test) if scores is not None and not classes else None,
        ended=progress.ended or "interrupted",
    )


@torch.no_grad()
def layer_statistics(network: Network, train: Rows) -> tuple[LayerStatistics, ...]:
    """Each batch norm layer's parameters and running statistics beside the true ones.

    The true ones are the mean and variance of what enters the layer over all training rows at the final weights, the
    layers before it normalizing by their own true statistics: one batch of everything.
    """
    chunks = list(torch.split(train.x, _CHUNK))
    found: list[LayerStatistics] = []
    for index, layer in enumerate(network.layers):
        assert isinstance(layer, HiddenLayer)
        entering = [layer.linear(x) for x in chunks]
        if not layer.before:
            entering = [ACTIVATIONS[layer.activation].value(z) for z in entering]
        norm = layer.norm
        if norm is None:
            return ()
        true = Moments.empty((norm.num_features,), device=train.x.device)
        for z in entering:
            true = true.merge(Moments.of(z, dims=0))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gamma, beta, running_mean, running_var, mean, variance = (
            tuple(t.double().cpu().tolist())
            for t in (
                norm.weight,
                norm.bias,
                norm.running_mean,
                norm.running_var,
                true.mean,
                true.variance(correction=1),
            )
        )
        found.append(LayerStatistics(f"layer {index + 1}", gamma, beta, running_mean, running_var, mean, variance))
        centre = (true.mean.to(train.x.dtype), true.variance().to(train.x.dtype))
        chunks = [
            batch_norm(z, *centre, norm.weight, norm.bias, eps=norm.eps, activation=norm.activation) for z in entering
        ]
    return tuple(found)


@torch.no_grad()
def _own_batches_metric(assembly: Assembly, rows: Rows) -> float | None:
    """The metric when each test batch is normalized by its own statistics; None where there are none to use."""
    run = assembly.run
    if run.settings.norm is None or not run.settings.hidden or len(rows) < 2:
        return None
    scores = []
    for start, stop in batches.cuts(len(rows), run.settings.batch_size, least=2):
        x = rows.x[start:stop]
        for layer in assembly.network.layers:
            assert isinstance(layer, HiddenLayer)
            _, x = layer.entering_activation(x)
        scores.append(assembly.network.head(x))
    return run.objective.metric(torch.cat(scores), rows.y, rows.weights)


def _traces(assembly: Assembly) -> tuple[LayerTrace, ...]:
    progress = assembly.run.progress
    steps = tuple(progress.trace_steps)
    layers = range(len(progress.traces[0]) if progress.traces else 0)
    return tuple(
        LayerTrace(f"layer {i + 1}", steps, *(tuple(at[i][q] for at in progress.traces) for q in range(3)))
        for i in layers
    )


def _confusion(scores: Tensor, rows: Rows, classes: Sequence[str]) -> Confusion:
    n = len(classes)
    counts = torch.bincount(rows.y.cpu() * n + scores.argmax(1).cpu(), minlength=n * n).view(n, n)
    return Confusion(tuple(classes), tuple(tuple(row) for row in counts.tolist()))


def _residuals(assembly: Assembly, scores: Tensor, test: Examples) -> Residuals:
    mean, std = assembly.target
    predicted = scores.squeeze(1).double().cpu().numpy() * std + mean
    every = slice(None, None, max(1, -(-len(predicted) // _RESIDUALS)))
    true = np.asarray(test.y, dtype=np.float64)[every]
    return Residuals(tuple(true.tolist()), tuple(predicted[every].tolist()))
