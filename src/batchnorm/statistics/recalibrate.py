"""recalibrate(model, batches): running statistics at the weights that the model has now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import StatisticsWarning
from batchnorm.progress_bar import Bar, length
from batchnorm.statistics.as_found import as_found
from batchnorm.statistics.batches import Call, caller
from batchnorm.statistics.layers import Kept, Layers, Statistics, write
from batchnorm.statistics.measured import Measured
from batchnorm.statistics.meter import Meter
from batchnorm.statistics.record import Layer, Recalibration

_KINDS = ("population", "average")


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    statistics: str = "population",
    call: Call | None = None,
    sequential: bool = False,
    progress: bool = True,
) -> Recalibration:
    """Compute a model's running means and variances anew, at its present weights, from batches of data.

    Running averages lag behind the weights, remember small training batches with their noise, and are wrong for weights
    that were averaged or loaded. This measures every layer over all batches, exactly, and writes the buffers in place.
    Dropout is off; mode, momentum, hooks, gradients and random numbers are left as found. If anything raises, the
    loader for example, its exception comes through and the statistics are as before.

    Args:
        model: with layers of torch.nn or of this package: 1d, 2d, 3d, Sync, subclasses that move their statistics as
            these do. Layers that `freeze` froze, or that are in eval mode inside a model in train mode, stay untouched;
            a model wholly in eval mode is recalibrated whole. What counts is the mode now: a call that changes it, as
            encoders' own methods do, makes no difference. A layer that is called several times gets the statistics of
            all its calls. Batch renormalization is batch norm meanwhile.
        batches: any iterable, such as a DataLoader; of a tuple or list the first element goes to the model, a
            dictionary as it is. Sizes may differ: every row weighs the same.
        statistics: "population" is the mean and variance of all values, m2 / N: within batches and between them.
            "average" is the plain average of batch means and of unbiased batch variances, each batch weighing the same:
            Algorithm 2 of Ioffe and Szegedy 2015, and what torch's update_bn means to compute; it depends on the batch
            size. Use it to reproduce those.
        call: runs the model on a batch as it comes: `lambda model, batch: model(**batch)` for transformers.
        sequential: by default layers upstream normalize by the batch, as in training, and one pass is enough. True
            feeds each layer with the new statistics of the layers before it, as at test time, in one pass per layer:
            better for small batches, whose noise then reaches no layer. The batches are read once per layer.
        progress: show a bar on standard error, where that is a terminal, when this takes longer than two seconds.

    Returns:
        What changed in each layer, and by how many standard errors; `undo()` puts the old statistics back. A batch
        whose mean or variance is not finite in a channel is left out of that channel, with a StatisticsWarning. A batch
        of one value per channel counts, but is normalized by the batches before it.

    Raises:
        TypeError: no torch.nn.Module, or no iterable.
        ValueError: no batch norm layer; no batches; no layer reached by any; an unknown kind of statistics; with
            sequential=True an iterator, which can be read only once.

    Source: Chan, Golub and LeVeque 1979 for merging; Wu and Johnson, "Rethinking Batch in BatchNorm", 2021, for what
    precise statistics are good for.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    >>> record = recalibrate(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[100.0], [102.0]])])
    >>> model[0].running_mean, model[0].running_var
    (tensor([51.]), tensor([2501.]))
    >>> record.undo()
    >>> model[0].running_mean, model[0].running_var
    (tensor([0.]), tensor([1.]))
    """
    if statistics not in _KINDS:
        raise ValueError(f"recalibrate expected statistics='population' or 'average', got {statistics!r}")
    layers = Layers.of("recalibrate", model)
    _check_batches(batches, sequential=sequential)
    run = caller(model, call)
    if not layers.tracked:
        warnings.warn(
            f"recalibrate found nothing to do: of the model's layers {len(layers.frozen)} are frozen and "
            f"{len(layers.untracked)} keep no running statistics",
            StatisticsWarning,
            stacklevel=2,
        )
        return Recalibration((), statistics, 0, layers.frozen, layers.untracked)
    count = length(batches)
    passes = len(layers.tracked) if sequential else 1
    total = None if count is None else count * passes
    with closing(Bar("recalibrating", total, shown=progress)) as bar, as_found(model, layers.tracked):
        read = _Reader(batches, run, bar)
        measure = _layer_by_layer if sequential else _all_at_once
        found = measure(list(layers.tracked), read, statistics)
    return _kept_and_written(layers, found, statistics, read.batches)


class _Reader:
    """Runs the model over all batches, as often as it is asked to."""

    def __init__(self, batches: Iterable[Any], run: Callable[[Any], Any], bar: Bar) -> None:
        self._all, self._run, self._bar = batches, run, bar
        self.batches = 0

    def __call__(self) -> None:
        self.batches = 0
        for batch in self._bar.over(self._all):
            self._run(batch)
            self.batches += 1
        if self.batches == 0:
            raise ValueError("recalibrate expected at least one batch, got none: the statistics are as they were")


def _all_at_once(layers: list[nn.Module], read: Callable[[], None], kind: str) -> dict[nn.Module, Measured]:
    meters = [Meter(layer) for layer in layers]
    read()
    return {meter.layer: meter.measured() for meter in meters}


def _layer_by_layer(layers: list[nn.Module], read: Callable[[], None], kind: str) -> dict[nn.Module, Measured]:
    """In the order of their first calls: whatever feeds a layer has been called before it."""
    found: dict[nn.Module, Measured] = {}
    waiting = {layer: Meter(layer) for layer in layers}
    while waiting:
        order: list[nn.Module] = []
        for layer, meter in waiting.items():
            meter.on_first_call = _appending(order, layer)
        read()
        if not order:
            break
        first = waiting.pop(order[0])
        found[first.layer] = first.measured()
        new = _new(Statistics(*first.old), found[first.layer], kind)
        first.use(new.mean, new.var)
        for meter in waiting.values():
            meter.forget()
    return found | {layer: meter.measured() for layer, meter in waiting.items()}


def _appending(order: list[nn.Module], layer: nn.Module) -> Callable[[], None]:
    return lambda: order.append(layer)


def _kept_and_written(layers: Layers, found: dict[nn.Module, Measured], kind: str, batches: int) -> Recalibration:
    reached = {layer: found[layer] for layer in layers.tracked if bool((found[layer].total.count >= 2).any())}
    if not reached:
        names = ", ".join(name or "(the model)" for name in list(layers.tracked.values())[:5])
        raise ValueError(
            f"recalibrate expected batches that bring two finite values or more to each channel of a layer, but in "
            f"{batches} batches none of the layers ({names}) has seen that: the statistics are as they were"
        )
    kept = tuple(Kept.of(layer) for layer in reached)
    new = [_new(old.statistics, measured, kind) for old, measured in zip(kept, reached.values(), strict=True)]
    records = [
        _record(layers.tracked[layer], before.statistics, after, measured)
        for before, after, (layer, measured) in zip(kept, new, reached.items(), strict=True)
    ]
    for layer, after in zip(reached, new, strict=True):
        write(layer, after)
        _count(layer, int(reached[layer].batches.max()))
    _warn_of_refusals(records)
    _warn_of_overflow(records)
    unreached = tuple(name for layer, name in layers.tracked.items() if layer not in reached)
    return Recalibration(tuple(records), kind, batches, layers.frozen, layers.untracked, unreached, kept)


def _new(old: Statistics, measured: Measured, kind: str) -> Statistics:
    """What goes into a layer's buffers, in the dtypes of the old, which channels that were not measured keep."""
    if kind == "population":
        total = measured.total
        mean, variance, enough = total.mean, total.variance(), total.count >= 2
    else:
        mean, variance = measured.sums / measured.summed.clamp(min=1)
        enough = measured.summed > 0
    return Statistics(
        torch.where(enough, mean, old.mean.to(mean.dtype)).to(old.mean.dtype),
        torch.where(enough, variance, old.var.to(variance.dtype)).to(old.var.dtype),
    )


def _count(layer: Any, batches: int) -> None:
    """A plain average goes on from these batches; others weigh the next batch no more than before."""
    counter = layer.num_batches_tracked
    if counter is not None:
        counter.fill_(batches if layer.momentum is None else max(batches, int(counter)))
    if hasattr(layer, "_refusals"):
        layer._refusals = None


def _record(name: str, old: Statistics, new: Statistics, measured: Measured) -> Layer:
    total = measured.total
    variance = total.variance()
    mean_error, variance_error = _standard_errors(measured, variance)
    return Layer(
        name,
        old,
        new,
        int(measured.batches.max()),
        int(total.count.max()),
        _distance(old.mean, new.mean, mean_error),
        _distance(old.var, new.var, variance_error),
        int(measured.refused.max()),
    )


def _standard_errors(measured: Measured, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean and of the variance, (C,) each: of independent normal values, times the root of the design effect."""
    count = measured.total.count.clamp(min=1)
    between = (measured.batches - 1).clamp(min=0)
    varied = (variance > 0) & (between > 0)
    effects = []
    for m2, scale in zip(measured.of_batches.m2, (variance, 2 * variance * variance), strict=True):
        # Between batches, per degree of freedom and in units of what independent values would show: 1 for those.
        share = (m2 / (between * scale))[varied]
        effect = share.mean() if share.numel() else torch.zeros_like(count).mean()
        # No spread at all shows nothing either: batches that are the same, or of one value, which have no variance.
        effects.append(torch.where(effect > 0, effect, 1.0))
    return torch.sqrt(variance / count * effects[0]), torch.sqrt(2 * variance * variance / count * effects[1])


def _distance(old: Tensor, new: Tensor, error: Tensor) -> Tensor:
    difference = (old.to(error.dtype) - new.to(error.dtype)).cpu()
    ratio = difference / error.cpu()
    return torch.where(difference == 0, 0.0, ratio)


def _warn_of_refusals(records: list[Layer]) -> None:
    wrong = [record for record in records if record.refused]
    if wrong:
        shown = ", ".join(record.name or "(the model)" for record in wrong[:5])
        warnings.warn(
            f"recalibrate: up to {max(record.refused for record in wrong)} batches are not finite in some channels of "
            f"{len(wrong)} layers ({shown}) and were left out of these. Look for NaN, inf or overflow in what enters.",
            StatisticsWarning,
            stacklevel=4,
        )


def _warn_of_overflow(records: list[Layer]) -> None:
    """What was measured is finite; what a layer's buffers hold of it may not be."""
    over = [r for r in records if not bool(torch.isfinite(torch.cat([r.new.mean, r.new.var])).all())]
    if over:
        shown = ", ".join(record.name or "(the model)" for record in over[:5])
        dtype = str(over[0].new.var.dtype).removeprefix("torch.")
        warnings.warn(
            f"recalibrate: {dtype} cannot hold the new statistics of some channels of {len(over)} layers ({shown}), "
            "which are infinite now. Convert these layers' buffers to float32, or undo() the record.",
            StatisticsWarning,
            stacklevel=4,
        )


def _check_batches(batches: Any, *, sequential: bool) -> None:
    if isinstance(batches, (Tensor, Mapping, str, bytes)) or not isinstance(batches, Iterable):
        hint = ": hand over [batch] if it is one" if isinstance(batches, (Tensor, Mapping)) else ""
        raise TypeError(f"recalibrate expected an iterable of batches, got {type(batches).__name__}{hint}")
    if sequential and isinstance(batches, Iterator):
        raise ValueError(
            "recalibrate with sequential=True reads the batches once for each layer, got an iterator "
            f"({type(batches).__name__}), which can be read only once: hand over a list or a DataLoader"
        )
