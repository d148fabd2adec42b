"""What was done to a model's statistics: layer by layer, how far the old were from the new, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from batchnorm.statistics.layers import Kept, Statistics

_SHOWN = 12  # layers that are printed before the rest is counted


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer whose statistics are new.

    Attributes:
        name: as in `model.named_modules()`.
        old, new: its statistics, by value.
        batches: calls of the layer that count; a layer that is called twice for a batch has two.
        values: per channel, rows times positions; the largest of all channels.
        mean_distance: (C,), (old - new) / standard error of the new mean.
        variance_distance: (C,), likewise of the variance.
        refused: calls left out of at least one channel because its batch statistics were not finite.

    Standard errors take into account that values of one batch, and positions of one image, are alike: they are those of
    independent values, times the square root of the design effect (Kish 1965), which the spread of the batches' means
    and variances shows, pooled over the channels. With one batch it cannot be seen, and is 1. A channel without spread
    has distance 0 where nothing changed, else inf.
    """

    name: str
    old: Statistics
    new: Statistics
    batches: int
    values: int
    mean_distance: Tensor
    variance_distance: Tensor
    refused: int = 0

    @property
    def distance(self) -> float:
        """Root mean square of all finite distances: about 1 where the old statistics are as good as new ones."""
        both = torch.cat([self.mean_distance, self.variance_distance])
        finite = both[torch.isfinite(both)]
        if finite.numel() == 0:
            return float("inf")
        return float(finite.square().mean().sqrt())


@dataclass(frozen=True)
class Recalibration:
    """What `recalibrate` did.

    Attributes:
        layers: those that have new statistics, in the order of the model.
        statistics: "population" or "average".
        batches: read from the loader, in one pass.
        frozen: names of layers left alone: frozen by `freeze`, or in eval mode inside a model in train mode.
        untracked: names of layers that keep no running statistics.
        unreached: names of layers that no value, or none that is finite, went through: left as they were.
    """

    layers: tuple[Layer, ...]
    statistics: str
    batches: int
    frozen: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    _kept: tuple[Kept, ...] = field(default=(), repr=False)

    def undo(self) -> None:
        """Put the statistics back that were there before, in place, whatever has happened to the model since."""
        for kept in self._kept:
            kept.put_back()

    def __str__(self) -> str:
        many = f"{len(self.layers)} layer" + ("" if len(self.layers) == 1 else "s")
        batches = f"{self.batches} batch" + ("" if self.batches == 1 else "es")
        lines = [f"recalibrated {many} on {batches} ({self.statistics}); old to new, in standard errors:"]
        for layer in self.layers[:_SHOWN]:
            worst = f"{largest(layer.mean_distance):.3g} mean, {largest(layer.variance_distance):.3g} variance"
            refused = f"; {layer.refused} batch{'' if layer.refused == 1 else 'es'} not finite" if layer.refused else ""
            lines.append(f"  {layer.name or '(the model)'}: {layer.distance:.3g} (at most {worst}){refused}")
        if len(self.layers) > _SHOWN:
            lines.append(f"  and {len(self.layers) - _SHOWN} more")
        return "\n".join([*lines, *left_alone(self.frozen, self.untracked, self.unreached)])


def largest(distances: Tensor) -> float:
    """The largest magnitude; 0 of none."""
    return float(distances.abs().max()) if distances.numel() else 0.0


def left_alone(frozen: tuple[str, ...], untracked: tuple[str, ...], unreached: tuple[str, ...]) -> list[str]:
    """A line for each reason why layers, by name, kept the statistics that they had."""
    reasons = {
        "frozen": frozen,
        "without running statistics": untracked,
        "never reached by finite values": unreached,
    }
    return [
        f"left alone, {why}: {', '.join(name or '(the model)' for name in names)}"
        for why, names in reasons.items()
        if names
    ]
