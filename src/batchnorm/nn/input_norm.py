"""InputNorm: the training inputs' mean and standard deviation, applied unchanged to all later inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from batchnorm.kernels import matrix_moments, select
from batchnorm.kernels.matrix_moments import ColumnMoments
from batchnorm.moments import Moments, wide_dtype
from batchnorm.nn.leaf import as_leaf

_STATE = ("anchor", "shift", "count", "m2")
_CHUNK = 1 << 22  # values that are copied, or widened to float64, at a time
_AT_ONCE = 1 << 26  # values that are read where they are: threads meet once for so many
_ALIGNED = 64  # rows: whatever their size, a chunk begins at a cache line where the first does


class InputNorm(torch.nn.Module):
    """Normalize inputs by statistics that are fitted once: y = (x - mean) / sqrt(variance + eps).

    Args:
        num_features: how many features, or their shape: 13, (1, 28, 28).
        axis: where in the input they are, one axis or as many as the shape has; the last ones by default. Channels of
            images are InputNorm(3, axis=1).
        eps: added to the variance, inside the root.

    A feature that is constant in the training data carries nothing: it maps to 0, whatever comes later. NaN is ignored
    when fitting and stays NaN when normalizing. State is float64 whatever the model's dtype; statistics are exact
    whatever the chunks the data come in. `mean` and `std` print as the constants that a fixed transform takes.

    Raises:
        ValueError: features of another shape, infinite values, a negative eps.
        RuntimeError: normalizing before fitting.

    >>> norm = InputNorm(2).fit([[0.0, 5.0], [2.0, 5.0]])
    >>> norm(torch.tensor([[4.0, 5.0]]))
    tensor([[3., 0.]])
    >>> norm.std
    tensor([1., 0.], dtype=torch.float64)
    """

    anchor: Tensor  # a value near the mean, from which deviations are measured: the mean of the first batch
    shift: Tensor  # mean - anchor: kept apart, or chunks of data far from 0 would lose what one number cannot hold
    count: Tensor
    m2: Tensor

    def __init__(
        self, num_features: int | Sequence[int], *, axis: int | Sequence[int] | None = None, eps: float = 0.0
    ) -> None:
        super().__init__()
        self.shape = (num_features,) if isinstance(num_features, int) else tuple(num_features)
        self.axis = _axes(axis, len(self.shape))
        if any(size < 0 for size in self.shape):
            raise ValueError(f"InputNorm expected a number of features or their shape, got {num_features}")
        if not eps >= 0:
            raise ValueError(f"InputNorm eps expected a number >= 0, got {eps}")
        self.eps = eps
        for name in _STATE:
            self.register_buffer(name, torch.zeros(self.shape, dtype=torch.float64))

    @classmethod
    def from_constants(cls, mean: Any, std: Any, *, axis: int | Sequence[int] | None = None) -> Self:
        """A normalizer with a given mean and standard deviation, each of the features' shape.

        >>> InputNorm.from_constants([0.0], [16.0])(torch.tensor([[8.0]]))
        tensor([[0.5000]])
        """
        centre, scale = (torch.as_tensor(np.asarray(v), dtype=torch.float64) for v in (mean, std))
        squares = scale * scale
        if centre.shape != scale.shape or not bool(((scale >= 0) & (squares < torch.inf)).all()):
            raise ValueError(
                f"InputNorm expected mean and std >= 0 of one shape, got {tuple(centre.shape)}, {tuple(scale.shape)}"
            )
        norm = cls(tuple(centre.shape), axis=axis)
        norm._keep(centre, Moments(torch.ones_like(centre), torch.zeros_like(centre), squares))
        return norm

    def fit(self, data: Any, *, sample_weight: Any = None) -> Self:
        """Learn mean and standard deviation from `data` alone.

        Args:
            data: one array, tensor or data frame; or an iterable of batches, such as a DataLoader: of a batch that is a
                tuple or list the first element counts.
            sample_weight: (N,), how often each row of one array counts; rows are the first axis.
        """
        nothing = torch.zeros(self.shape, dtype=torch.float64)
        return self._accumulate(nothing, Moments(nothing, nothing, nothing), data, sample_weight)

    def partial_fit(self, data: Any, *, sample_weight: Any = None) -> Self:
        """Learn from `data` as well as from everything fitted so far."""
        so_far = Moments(self.count.cpu(), self.shift.cpu(), self.m2.cpu())
        return self._accumulate(self.anchor.cpu(), so_far, data, sample_weight)

    @property
    def mean(self) -> Tensor:
        """The mean of each feature, float64."""
        return self.anchor + self.shift

    @property
    def variance(self) -> Tensor:
        """The biased variance of each feature, float64; 0 for a constant.

        Values that differ by no more than the rounding of one number are a constant that was computed twice.
        """
        variance = Moments(self.count, self.shift, self.m2).variance()
        rounding = torch.finfo(variance.dtype).eps * self.mean.abs()
        return torch.where((self.count > 1) & (variance <= rounding * rounding), 0, variance)

    @property
    def std(self) -> Tensor:
        """sqrt(variance + eps), float64; 0 for a constant, which marks it."""
        variance = self.variance
        return torch.where(variance > 0, torch.sqrt(variance + self.eps), 0)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize. input: any shape with the features at `axis`; comes back in its dtype, integers in the default."""
        if isinstance(input, fx.Proxy):
            return as_leaf(self, input)
        mean, std = self._constants(input)
        x = input.to(mean.dtype)
        nothing = torch.where(torch.isnan(x), x, 0)
        y = torch.where(std > 0, (x - mean) / torch.where(std > 0, std, 1), nothing)
        return y.to(input.dtype if input.is_floating_point() else torch.get_default_dtype())

    def inverse(self, output: Tensor) -> Tensor:
        """Undo `forward`: back in the features' units; a constant feature gets its constant."""
        mean, std = self._constants(output)
        return (output.to(mean.dtype) * std + mean).to(output.dtype)

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.shape if len(self.shape) != 1 else self.shape[0]}, axis={self.axis}, eps={self.eps}"

    def _constants(self, x: Tensor) -> tuple[Tensor, Tensor]:
        can_look = select.way(x) == "fused" and not self.count.is_meta
        if can_look and self.count.numel() and not bool((self.count > 0).any()):
            raise RuntimeError("InputNorm has no statistics yet: call fit(training_data) or load a state_dict first")
        axes = self._feature_axes(x.shape)
        return self._spread(self.mean, axes, x.dim()), self._spread(self.std, axes, x.dim())

    def _spread(self, feature: Tensor, axes: tuple[int, ...], rank: int) -> Tensor:
        """A view of `feature`, of the features' shape, that broadcasts against an input with the features at `axes`."""
        order = sorted(range(len(axes)), key=axes.__getitem__)  # of the features' dimensions in the input
        sizes = iter(feature.permute(order).shape)
        return feature.permute(order).reshape([next(sizes) if d in axes else 1 for d in range(rank)])

    def _feature_axes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Where the features are in an input of this shape, counted from its first axis."""
        rank = len(shape)
        axes = tuple(a % rank for a in self.axis) if all(-rank <= a < rank for a in self.axis) else ()
        if len(set(axes)) != len(self.shape):
            raise ValueError(f"InputNorm expected features {self.shape} at axis {self.axis}, got input {tuple(shape)}")
        found = tuple(shape[a] for a in axes)
        if found != self.shape:
            raise ValueError(
                f"InputNorm expected features {self.shape} at axis {self.axis}, got {found} in input {tuple(shape)}"
            )
        return axes

    def _accumulate(self, anchor: Tensor, moments: Moments, data: Any, sample_weight: Any) -> Self:
        """Merge the Moments of data - anchor, then keep all; an error on the way changes nothing."""
        seen = False
        for rows, weights in _batches(data, sample_weight):
            axes = self._feature_axes(rows.shape)
            found = self._by_columns(rows, weights, axes)
            if found is not None:
                anchor = torch.where(moments.count == 0, found.mean, anchor)
                moments = moments.merge(Moments(found.count, (found.mean - anchor) + found.lost, found.m2))
            else:
                for part, counts in _cut(rows, weights):
                    if bool((moments.count == 0).any()):
                        anchor = torch.where(moments.count == 0, self._moments(part, counts, axes).mean, anchor)
                    wide = part.to(wide_dtype(part.device))
                    deviations = wide - self._spread(anchor.to(part.device), axes, part.dim())
                    moments = moments.merge(self._moments(deviations, counts, axes))
            seen = True
            wrong = ~(torch.isfinite(anchor) & torch.isfinite(moments.m2))
            if bool(wrong.any()):
                raise ValueError(
                    f"InputNorm.fit: feature {wrong.nonzero()[0].tolist()} holds infinite values or overflows float64; "
                    "leave such rows out"
                )
        if not seen:
            raise ValueError("InputNorm.fit expected at least one row, got none")
        self._keep(anchor, moments)
        return self

    def _by_columns(self, x: Tensor, weights: Tensor | None, axes: tuple[int, ...]) -> ColumnMoments | None:
        """By the compiled kernels, where x is a matrix with the features as columns; else None."""
        if weights is not None or axes != tuple(range(x.dim() - len(axes), x.dim())) or x.dim() == len(axes):
            return None
        if select.way(x) != "fused" or not x.is_contiguous() or x.numel() == 0:
            return None
        matrix = x.view(-1, math.prod(self.shape))
        if not matrix_moments.covers(matrix):
            return None
        found = matrix_moments.of_columns(matrix)
        return ColumnMoments(*(t.view(self.shape) for t in found))

    def _moments(self, x: Tensor, weights: Tensor | None, axes: tuple[int, ...]) -> Moments:
        dims = [d for d in range(x.dim()) if d not in axes]
        if not dims:
            raise ValueError(
                f"InputNorm.fit expected at least one axis besides the features {self.shape}, got {tuple(x.shape)}"
            )
        if weights is not None:
            weights = weights.view((-1,) + (1,) * (x.dim() - 1))
        found = Moments.of(x, dims=dims, weights=weights, ignore_nan=x.is_floating_point())
        # What is left after the sums stands in the input's order of axes; the features' own order may be another.
        back = [sorted(axes).index(a) for a in axes]
        count = found.count.expand(found.mean.shape)
        return Moments(count.permute(back).cpu(), found.mean.permute(back).cpu(), found.m2.permute(back).cpu())

    def _keep(self, anchor: Tensor, moments: Moments) -> None:
        for name, value in zip(_STATE, (anchor, moments.mean, moments.count, moments.m2), strict=True):
            getattr(self, name).copy_(value.expand(self.shape))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As ever; a state that is narrower and assigned, not copied, is widened."""
        super()._load_from_state_dict(*args, **kwargs)
        for name in _STATE:
            state = getattr(self, name)
            setattr(self, name, state.to(wide_dtype(state.device)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move; a cast of the model leaves the statistics in float64."""
        before = {name: getattr(self, name) for name in _STATE}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            moved = getattr(self, name)
            wide = wide_dtype(moved.device)
            if moved.dtype != wide:
                setattr(self, name, (moved if value.is_meta else value).to(device=moved.device, dtype=wide))
        return self


def _axes(axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(-rank, 0))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) != rank or len(set(axes)) != rank:
        raise ValueError(f"InputNorm expected one axis for each of {rank} feature dimensions, got axis={axis}")
    return axes


def _batches(data: Any, sample_weight: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The chunks of `data`, each a tensor of rows, with their weights."""
    if not _is_one_array(data):
        if sample_weight is not None:
            raise ValueError("InputNorm.fit expected one array with sample_weight, got an iterable of batches")
        for batch in data:
            first = batch[0] if isinstance(batch, (tuple, list)) else batch
            yield from _batches(first if isinstance(first, Tensor) else np.asarray(first), None)
        return
    x = data if isinstance(data, Tensor) else np.asarray(data)
    weights = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight), dtype=torch.float64)
    if weights is not None and (weights.shape != tuple(x.shape[:1]) or not bool((weights >= 0).all())):
        raise ValueError(f"sample_weight expected {len(x)} numbers >= 0, got shape {tuple(weights.shape)}")
    if not x.shape:
        raise ValueError("InputNorm.fit expected rows, got a single number")
    is_copied = isinstance(x, np.ndarray) and not (x.flags.writeable and x.dtype in (np.float32, np.float64))
    rows = _rows_of(_CHUNK if is_copied else _AT_ONCE, x.shape)
    for start in range(0, x.shape[0], rows):
        yield _as_tensor(x[start : start + rows]), None if weights is None else weights[start : start + rows]


def _cut(x: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The rows of x in chunks that are small enough to be widened, with their weights."""
    rows = _rows_of(_CHUNK, x.shape)
    for start in range(0, x.shape[0], rows):
        yield x[start : start + rows], None if weights is None else weights[start : start + rows]


def _rows_of(values: int, shape: Sequence[int]) -> int:
    """How many rows of an array of this shape hold about so many values."""
    rows = max(1, values // max(1, math.prod(shape[1:])))
    return rows if rows < _ALIGNED else rows - rows % _ALIGNED


def _is_one_array(data: Any) -> bool:
    """Whether `data` is rows itself, rather than something that yields batches of rows."""
    if isinstance(data, (list, tuple)):
        while isinstance(data, (list, tuple)) and data:
            data = data[0]
        return isinstance(data, (int, float, np.generic))
    if isinstance(data, (Tensor, np.ndarray)) or hasattr(data, "__array__"):
        return True
    if isinstance(data, Iterable):
        return False
    raise TypeError(f"InputNorm.fit expected an array, a tensor or an iterable of batches, got {type(data).__name__}")


def _as_tensor(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        x = data.detach()
    else:
        array = np.asarray(data)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"InputNorm.fit expected numbers, got an array of {array.dtype}")
        if (array.dtype.kind == "u" and array.dtype.itemsize > 1) or array.dtype == np.longdouble:
            array = array.astype(np.float64)
        # torch takes no negative strides, and warns of memory that it could not write to.
        has_to_copy = any(stride < 0 for stride in array.strides) or not array.flags.writeable
        x = torch.as_tensor(array.copy() if has_to_copy else array)
    if x.is_complex():
        raise TypeError("InputNorm.fit expected real numbers, got complex ones")
    return x
