"""scikit-learn's StandardScaler and scale() spoken by InputNorm: the shape that scikit-learn's own tests expect.

InputNorm always centres and always scales. Where a test asks for one without the other, the adapter takes back from
InputNorm's output what was not asked for, so that what InputNorm computes is in every number that a test looks at.
"""

# X is scikit-learn's name for it.
# ruff: noqa: N803, N806
from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from tests.peers import subject

FLOATING = (np.float16, np.float32, np.float64)


class StandardScaler(TransformerMixin, BaseEstimator):
    """InputNorm over the columns of X: (N, F)."""

    def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        X = dense(X)
        self.norm_ = subject.InputNorm(X.shape[-1]).fit(X, sample_weight=sample_weight)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        X = dense(X)
        if not hasattr(self, "norm_"):
            self.norm_ = subject.InputNorm(X.shape[-1])
        self.norm_.partial_fit(X, sample_weight=sample_weight)
        return self

    def transform(self, X: Any, copy: bool | None = None) -> np.ndarray:
        given, X = X, dense(X)
        y = self.norm_(torch.from_numpy(X)).numpy()
        if not self.with_std:
            y = y * self._scale.astype(X.dtype)
        if not self.with_mean:
            mean = self.norm_.mean.numpy()
            y = y + (mean / self._scale if self.with_std else mean).astype(X.dtype)
        if (self.copy if copy is None else copy) or given is not X:
            return y.view(type(X))
        X[...] = y
        return X

    def inverse_transform(self, X: Any) -> np.ndarray:
        X = y = dense(X)
        if not self.with_mean:
            mean = self.norm_.mean.numpy()
            y = y - (mean / self._scale if self.with_std else mean).astype(y.dtype)
        if not self.with_std:
            y = y / self._scale.astype(y.dtype)
        return self.norm_.inverse(torch.from_numpy(y)).numpy().view(type(X))

    @property
    def mean_(self) -> np.ndarray | None:
        return self.norm_.mean.numpy() if self.with_mean or self.with_std else None

    @property
    def var_(self) -> np.ndarray | None:
        return self.norm_.variance.numpy() if self.with_std else None

    @property
    def scale_(self) -> np.ndarray | None:
        return self._scale if self.with_std else None

    @property
    def n_samples_seen_(self) -> float | np.ndarray:
        """scikit-learn's is one number where every feature has seen as many, an array where NaN were left out."""
        counts = self.norm_.count.numpy()
        return counts if np.ptp(counts) else counts[0]

    @property
    def _scale(self) -> np.ndarray:
        """InputNorm marks a constant feature by a standard deviation of 0, StandardScaler by 1."""
        std = self.norm_.std.numpy()
        return np.where(std == 0, 1.0, std)


def scale(X: Any, *, axis: int = 0, with_mean: bool = True, with_std: bool = True, copy: bool = True) -> np.ndarray:
    """Fit and transform at once, along either axis, of one column too."""
    X = np.asarray(X, dtype=float)
    if not with_mean and not with_std:
        return X.copy()
    columns = X.reshape(-1, 1) if X.ndim == 1 else X if axis == 0 else X.T
    scaled = StandardScaler(with_mean=with_mean, with_std=with_std).fit_transform(np.ascontiguousarray(columns))
    return scaled.T if axis == 1 else scaled.reshape(X.shape)


def dense(X: Any) -> np.ndarray:
    """X as a floating array; the same object where it is one already."""
    if sparse.issparse(X):
        raise ValueError("InputNorm expected a dense array, got a sparse one")
    X = X if isinstance(X, np.ndarray) else np.asarray(X)
    return X if X.dtype in FLOATING else X.astype(np.float64)
