"""adapt(model, data), adapting(model): test-time statistics under covariate shift."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import closing
from numbers import Real
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import StatisticsWarning
from batchnorm.progress_bar import Bar, length
from batchnorm.randomness import same_randomness
from batchnorm.statistics.adaptation import Adaptation, AdaptedLayer
from batchnorm.statistics.as_found import as_found
from batchnorm.statistics.batches import Call, caller
from batchnorm.statistics.guard import Guard, Verdict
from batchnorm.statistics.layers import Kept, Layers, write
from batchnorm.statistics.measured import Measured
from batchnorm.statistics.mixed import Mixer, Mixing
from batchnorm.statistics.watched import Watcher

_VARIANCES = ("convex", "mixture")


def adapt(
    model: nn.Module,
    batch_or_stream: Any,
    *,
    prior: float = 16,
    variance: str = "convex",
    guard: bool = True,
    call: Call | None = None,
    progress: bool = True,
) -> Adaptation:
    """Move a model's running statistics to data from another distribution than it was trained on. No labels needed.

        mean = prior / (prior + n) * source + n / (prior + n) * target             and the variance likewise

    The statistics change at once and stay: `undo()` puts the source's back, and so does leaving a `with` block. To
    adapt to every batch of a stream anew, and get its predictions, use `adapting`.

    Args:
        model: with layers of torch.nn or of this package; what `recalibrate` leaves alone is left alone here.
        batch_or_stream: one batch, which is a tensor, a tuple or list that begins with a tensor, or a dictionary; or an
            iterable of batches, such as a DataLoader, whose statistics are merged. Of a tuple or list the first element
            goes to the model.
        prior: how many examples the source statistics count for, >= 0. 0 is the target alone.
        variance: "convex" mixes variances as means are mixed, as Schneider et al. do; "mixture" is the variance of the
            source's and the target's values together, which counts how far their means are apart, too.
        guard: leave the source statistics where a stream is not made of independent batches, which would teach the
            layers what a batch happens to hold. From two batches on it can tell; one batch is taken on trust.
        call: runs the model on a batch as it comes: `lambda model, batch: model(**batch)`.
        progress: show a bar on standard error, where that is a terminal, when this takes longer than two seconds.

    Returns:
        What the statistics are now, and what the guard makes of the stream.

    Raises:
        TypeError: no torch.nn.Module; neither a batch nor an iterable.
        ValueError: no layer to adapt; no batches; a prior that is negative or not finite; with prior=0 one value per
            channel; a list of tensors that are alike, which may be a batch or a stream.

    Source: Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift adaptation",
    arXiv 2006.16971. The guard is this package's own.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1, eps=1e-12)).eval()
    >>> shifted = torch.tensor([[9.0], [11.0]])
    >>> with adapt(model, shifted, prior=0):
    ...     print(model(shifted).tolist())
    [[-1.0], [1.0]]
    >>> model(shifted).tolist()
    [[9.0], [11.0]]
    """
    batches = _batches(batch_or_stream)
    adapted = AdaptingModel("adapt", model, prior, variance, guard, call)
    with closing(Bar("adapting", length(batches), shown=progress)) as bar, same_randomness():
        for batch in bar.over(batches):  # a loader draws random numbers, too
            adapted._take(batch)
    if adapted.batches == 0:
        raise ValueError("adapt expected at least one batch, got none: the statistics are as they were")
    return adapted._apply()


def adapting(
    model: nn.Module, *, prior: float = 16, variance: str = "convex", guard: bool = True, call: Call | None = None
) -> AdaptingModel:
    """A model that adapts to every batch it is called with: `adapting(model)(batch)` instead of `model(batch)`.

    Each batch is normalized by its own statistics and the source's, mixed as in `adapt`; the model itself stays as it
    is. With the guard the first two batches are predicted by the source statistics, and all later ones for which the
    batches so far are not independent; the others cost two passes, one to watch and one to adapt.

    Args:
        model, prior, variance, guard, call: as for `adapt`.

    Raises:
        TypeError, ValueError: as `adapt`.

    >>> import torch
    >>> adapted = adapting(torch.nn.Sequential(torch.nn.BatchNorm1d(1, eps=1e-12)), prior=0, guard=False)
    >>> adapted(torch.tensor([[9.0], [11.0]])).tolist()
    [[-1.0], [1.0]]
    """
    return AdaptingModel("adapting", model, prior, variance, guard, call)


class AdaptingModel:
    """What `adapting` returns.

    Attributes:
        batches: seen so far.
        verdict: what the guard makes of them; None without a guard.
        has_adapted: whether the batch before was predicted by adapted statistics.
    """

    def __init__(
        self, tool: str, model: nn.Module, prior: float, variance: str, guard: bool, call: Call | None
    ) -> None:
        if not _is_count(prior):
            raise ValueError(f"{tool} expected a number of examples >= 0 as prior, got {prior!r}: 16 is usual")
        if variance not in _VARIANCES:
            raise ValueError(f"{tool} expected variance='convex' or 'mixture', got {variance!r}")
        self._tool, self._model = tool, model
        self._layers = Layers.of(tool, model)
        if not self._layers.tracked:
            raise ValueError(
                f"{tool} found no layer to adapt: {len(self._layers.frozen)} are frozen and "
                f"{len(self._layers.untracked)} keep no running statistics; thaw them, or put the model in eval mode"
            )
        self._mixing = Mixing(float(prior), variance == "mixture")
        self._guard = Guard() if guard else None
        self._run = caller(model, call)
        self._found: dict[nn.Module, tuple[Measured, int]] = {}
        self._has_warned = False
        self.batches = 0
        self.has_adapted = False

    @property
    def verdict(self) -> Verdict | None:
        """What the guard makes of the batches so far."""
        return None if self._guard is None else self._guard.verdict

    def __call__(self, batch: Any) -> Any:
        """The model's output for this batch, by adapted statistics or, where the guard says so, by the source's."""
        output = self._watched(batch)
        verdict = self.verdict
        self.batches += 1
        self.has_adapted = verdict is None or verdict.state == "independent"
        return self._adapted(batch, stacklevel=3) if self.has_adapted else output

    def _take(self, batch: Any) -> None:
        """Learn from a batch without predicting it: what counts is what all of them are together."""
        self._watched(batch)
        self.batches += 1
        self._adapted(batch, stacklevel=4)

    def _apply(self) -> Adaptation:
        """Make what was learnt from the batches so far permanent, unless the guard has found them dependent."""
        verdict, tracked = self.verdict, self._layers.tracked
        reached = {
            layer: found
            for layer, found in self._found.items()
            if found[1] > 0 and bool((found[0].total.count > 0).any())
        }
        if not reached:
            raise ValueError(
                f"{self._tool} expected batches that bring finite values to a layer, but {self.batches} batches "
                "brought none: the statistics are as they were"
            )
        is_refused = verdict is not None and verdict.state == "dependent"
        kept = tuple(Kept.of(layer) for layer in reached)
        records = []
        for before, (layer, (measured, rows)) in zip(kept, reached.items(), strict=True):
            new = before.statistics if is_refused else self._mixing.of(before.statistics, measured.total, rows)
            records.append(AdaptedLayer(tracked[layer], before.statistics, new, rows))
        for layer, record in zip(reached, records, strict=True):
            write(layer, record.new)
        unreached = tuple(name for layer, name in tracked.items() if layer not in reached)
        if is_refused:
            warnings.warn(f"{self._tool} has left the source statistics: {verdict}", StatisticsWarning, stacklevel=3)
        return Adaptation(
            tuple(records),
            self.batches,
            self._mixing.prior,
            verdict,
            not is_refused,
            self._layers.frozen,
            self._layers.untracked,
            unreached,
            kept,
        )

    def _watched(self, batch: Any) -> Any:
        if self._guard is None:
            return None
        with as_found(self._model, self._layers.tracked):
            watchers = [Watcher(layer) for layer in self._layers.tracked]
            output = self._run(batch)
        # Only now: a batch at which the model raises is not part of the stream.
        for watcher, name in zip(watchers, self._layers.tracked.values(), strict=True):
            for k, features in enumerate(watcher.seen):
                self._guard.watch((name, k), features)
        self._guard.end_batch()
        return output

    def _adapted(self, batch: Any, *, stacklevel: int) -> Any:
        with as_found(self._model, self._layers.tracked):
            mixers = [Mixer(layer, self._mixing) for layer in self._layers.tracked]
            output = self._run(batch)
        refused = False
        for mixer in mixers:
            found, rows = self._found.get(mixer.layer, (None, 0))
            self._found[mixer.layer] = (mixer.sum if found is None else found.merge(mixer.sum), rows + mixer.rows)
            refused |= bool((mixer.sum.refused > 0).any())
        if refused and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self._tool}: a batch is not finite in some channels, which were normalized by the source "
                "statistics. Look for NaN, inf or overflow in what enters.",
                StatisticsWarning,
                stacklevel=stacklevel,
            )
        return output


def _batches(data: Any) -> Iterable[Any]:
    """`data` as an iterable of batches; one batch is one of them."""
    if isinstance(data, (Tensor, Mapping)):
        return [data]
    if isinstance(data, (tuple, list)) and data and isinstance(data[0], Tensor):
        if len(data) > 1 and all(isinstance(t, Tensor) for t in data) and _are_alike(data):
            raise ValueError(
                f"adapt expected a batch or a stream, got a {type(data).__name__} of {len(data)} tensors of one kind, "
                "which may be either: hand over its first element for a batch, or iter(...) of it for a stream"
            )
        return [data]
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise TypeError(f"adapt expected a batch or an iterable of batches, got {type(data).__name__}")
    return data


def _are_alike(tensors: Any) -> bool:
    """Whether they could be batches of one stream: of one kind, with as many channels, of images of any size."""
    if len({(t.dtype, t.dim()) for t in tensors}) > 1:
        return False
    return len({t.shape[1:2] for t in tensors}) == 1 or len({t.shape[-1] for t in tensors}) == 1


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < math.inf
