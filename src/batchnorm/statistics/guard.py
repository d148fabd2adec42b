"""Whether the batches of a stream look like independent draws from one distribution, shifted or not.

A covariate shift moves all batches alike: their means go somewhere else together, and scatter about the new place no
more than the rows within them say. A stream that is sorted by label, or shows one scene after another, has batches
whose means scatter more than that; then a batch's statistics say what the batch happens to hold, and not how the world
has changed, and normalizing by them takes away what tells classes apart.

With T batches of n rows, and the rows' features at one layer of mean mu_t and covariance S within their batch,

    F = [sum n |mu_t - mu|^2 / (T - 1)] / [sum |row - mu_t|^2 / (N - T)] = 1 + n * tau^2 / sigma^2   on average,

where tau^2 is what the batches differ by beyond sampling. Where there is no such thing F follows, very nearly, the F
distribution with r (T - 1) and r (N - T) degrees of freedom, r = (tr S)^2 / tr S^2 the number of directions that the
features really have (Dempster 1958, "A high dimensional two sample significance test"; r as Bai and Saranadasa 1996
estimate it). No number of channels or of rows has to be tuned.

What harms is tau^2, and every batch's mean is off by sigma^2 / n anyway. So the question is not whether tau^2 is 0,
which no long stream passes, but whether it is beyond sigma^2 / n: whether F / 2 is too large for that distribution.
Rows are counted, not positions: those of an image are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from batchnorm.moments import Moments, wide_dtype

_FEWEST = 3  # batches: of two nobody can say whether they differ as all do, or whether it has begun
_RISK = 1e-3  # of calling a stream dependent that is at the border of what is harmless, over all layers
_TOLERATED = 2.0  # F where tau^2 = sigma^2 / n
_ROWS = 128  # of a batch that are enough to estimate r


@dataclass(frozen=True)
class Verdict:
    """What the guard makes of the stream so far.

    Attributes:
        state: "unknown" before the third batch; then "independent" or "dependent".
        batches: seen so far.
        spread: F at the layer where it is most unlikely, about 1 for independent batches.
        layer: that layer's name.
    """

    state: Literal["unknown", "independent", "dependent"]
    batches: int
    spread: float
    layer: str

    def __str__(self) -> str:
        if self.state == "unknown":
            seen = "1 batch is" if self.batches == 1 else f"{self.batches} batches are"
            return f"{seen} too few to know whether they are independent"
        where = (
            f"the means of {self.batches} batches spread {self.spread:.3g} times as sampling explains at {self.layer!r}"
        )
        return f"{self.state}: {where}"


class Guard:
    """Watches what enters the layers, batch after batch."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], _Spread] = {}
        self._batches = 0

    def watch(self, call: tuple[str, int], features: Tensor) -> None:
        """What one call of a layer, by name and number, sees of this batch. features: (n, C), a row per example."""
        self._calls.setdefault(call, _Spread()).take(features)

    def end_batch(self) -> None:
        """All calls of this batch have been seen."""
        self._batches += 1

    @property
    def verdict(self) -> Verdict:
        """What the stream looks like so far."""
        tests = [(*spread.test(), name) for (name, _), spread in self._calls.items() if spread.can_tell]
        if not tests or self._batches < 2:
            return Verdict("unknown", self._batches, 1.0, "")
        chance, spread, name = min(tests)
        if chance < _RISK / len(tests):
            return Verdict("dependent", self._batches, spread, name)
        return Verdict("unknown" if self._batches < _FEWEST else "independent", self._batches, spread, name)


class _Spread:
    """Between batches and within them, at one layer."""

    def __init__(self) -> None:
        self._means: Moments | None = None  # of the batches' means, weighted by rows
        self._batches = 0
        self._within, self._freedom = 0.0, 0
        self._squares, self._squares_freedom = 0.0, 0  # of tr S^2

    @property
    def can_tell(self) -> bool:
        return self._batches >= 2 and self._freedom >= 2

    def take(self, features: Tensor) -> None:
        rows = len(features)
        if rows == 0:
            return
        wide = features.to(wide_dtype(features.device))
        found = Moments.of(wide, dims=0)
        mean = Moments(found.count.expand(found.mean.shape), found.mean, torch.zeros_like(found.mean))
        self._means = mean if self._means is None else self._means.merge(mean)
        self._batches += 1
        self._within += float(found.m2.sum())
        self._freedom += rows - 1
        some = wide[:_ROWS]
        freedom = len(some) - 1
        if freedom >= 2:
            centred = some - some.mean(0)
            gram = centred @ centred.T if len(some) < some.shape[1] else centred.T @ centred
            trace = float(centred.square().sum()) / freedom
            squares = float(gram.square().sum()) / freedom**2
            # Without bias for normal rows: tr S^2 of the sample is larger by what (tr S)^2 adds to it.
            self._squares += freedom * (squares - trace**2 / freedom) * freedom**2 / ((freedom - 1) * (freedom + 2))
            self._squares_freedom += freedom

    def test(self) -> tuple[float, float]:
        """How likely a spread as large or larger is at the border of what is harmless; and the spread, F."""
        assert self._means is not None
        between = float(self._means.m2.sum()) / (self._batches - 1)
        within = self._within / self._freedom
        if within <= 0:
            return (1.0, 1.0) if between <= 0 else (0.0, math.inf)
        directions = 1.0
        if self._squares > 0:
            squares = self._squares / self._squares_freedom
            directions = min(max(within**2 / squares, 1.0), float(self._means.mean.numel()))
        spread = between / within
        return _upper_tail(spread / _TOLERATED, directions * (self._batches - 1), directions * self._freedom), spread


def _upper_tail(f: float, above: float, below: float) -> float:
    """P(F > f) with these degrees of freedom, by the cube roots of both chi-squares (Paulson 1942)."""
    a, b, root = 2 / (9 * above), 2 / (9 * below), f ** (1 / 3)
    z = ((1 - b) * root - (1 - a)) / math.sqrt(b * root * root + a)
    return 0.5 * math.erfc(z / math.sqrt(2))
