"""Rows from another distribution: brighter, paler, noisy, inverted, in another tint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np

from batchnorm.data import Prepared

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LEAST_PIXELS = 36


@dataclass(frozen=True, eq=False)
class Shifts:
    """What can be done to raw rows, (N, F), in units that suit the data.

    Pixels share one scale: origin and span are the lowest and the range of all training pixels, and what leaves the
    range is clipped, as in a picture. The features of a table have scales of their own: origin and span are each
    feature's mean and standard deviation, and nothing is clipped.
    """

    origin: Array | float
    span: Array | float
    are_pixels: bool

    @classmethod
    def of(cls, data: Prepared) -> Self:
        """Of the training rows."""
        x = data.x_train
        if are_pixels(data):
            return cls(float(x.min()), float(x.max() - x.min()), True)
        return cls(x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64), False)

    @property
    def middle(self) -> float:
        """Between dark and light, from the origin in spans."""
        return 0.5 if self.are_pixels else 0.0

    def affine(self, x: Array, factor: float, offset: float) -> Array:
        """factor * x + offset, x counted from the origin in spans."""
        return self._clipped(self.origin + factor * (x - self.origin) + offset * self.span)

    def brighter(self, x: Array, by: float) -> Array:
        """Every feature up by so many spans."""
        return self.affine(x, 1.0, by)

    def paler(self, x: Array, by: float) -> Array:
        """Towards the middle: 0 is as it was, 1 is grey."""
        return self.affine(x, 1 - by, by * self.middle)

    def noisy(self, x: Array, by: float, seed: int) -> Array:
        """With independent normal noise whose standard deviation is so many spans."""
        drawn = np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32)
        return self._clipped(x + by * self.span * drawn)

    def inverted(self, x: Array) -> Array:
        """Light for dark."""
        return self.affine(x, -1.0, 2 * self.middle)

    def tinted(self, x: Array, paper: float, ink: float) -> Array:
        """Dark on light, which is paper 1 and ink 0, printed with another ink on other paper."""
        return self.affine(x, paper - ink, ink if self.are_pixels else (paper + ink - 1) / 2)

    def _clipped(self, x: Array) -> Array:
        return np.clip(x, self.origin, self.origin + self.span) if self.are_pixels else x


def are_pixels(data: Prepared) -> bool:
    """Whether the features are so many and so alike: numbers whose background, the lowest value, most of them share."""
    x = data.x_train
    features = x.shape[1]
    sides = {round((features / channels) ** 0.5) ** 2 * channels for channels in (1, 3)}
    numbers = all(column.kind == "number" for column in data.schema.columns)
    return bool(numbers and features >= _LEAST_PIXELS and features in sides and np.mean(x.min(0) == x.min()) > 0.5)
