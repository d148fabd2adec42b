"""BatchRenorm1d, 2d, 3d: batch norm that trains on what it will see in evaluation, for small or uneven batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import is_recomputation, refuse_one_value
from batchnorm.kernels import select
from batchnorm.kernels.batch_moments import batch_moments
from batchnorm.kernels.renorm import Correction, correction
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine
from batchnorm.moments import Moments
from batchnorm.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _Layer


@dataclass(frozen=True)
class Ramp:
    """A limit that stays at `start` up to step `first`, then grows evenly to `end` at step `last` and stays there.

    With `last` = `first` it is `end` at once from that step on.

    Raises:
        ValueError: last before first.

    >>> ramp = Ramp(first=100, last=300, start=1.0, end=3.0)
    >>> [ramp(step) for step in (0, 100, 200, 300, 1000)]
    [1.0, 1.0, 2.0, 3.0, 3.0]
    """

    first: int
    last: int
    start: float
    end: float

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(
                f"Ramp expected a last step that is not before the first, got first={self.first} and last={self.last}: "
                "exchange them"
            )

    def __call__(self, step: int) -> float:
        """The limit after `step` batches."""
        if step >= self.last:
            return self.end
        done = 0.0 if step <= self.first else (step - self.first) / (self.last - self.first)
        return self.start + (self.end - self.start) * done


Limit = float | Callable[[int], float]

# Ioffe 2017, section 3: plain batch norm for 5000 steps, then r_max to 3 at 40000 and d_max to 5 at 25000.
PAPER_R_MAX = Ramp(first=5000, last=40000, start=1.0, end=3.0)
PAPER_D_MAX = Ramp(first=5000, last=25000, start=0.0, end=5.0)


class _Renorm(_Layer):
    """What the three share: the limits, and r and d of the batch at hand."""

    r_max: Limit
    d_max: Limit
    _latest: tuple[Tensor, Correction] | None  # the latest batch's mean and correction

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        r_max: Limit = PAPER_R_MAX,
        d_max: Limit = PAPER_D_MAX,
        bias: bool = True,
        activation: str | None = None,
        debias: bool = False,
    ) -> None:
        if not track_running_stats:
            raise ValueError(
                f"{type(self).__name__} needs running statistics, got track_running_stats=False: use BatchNorm, or True"
            )
        for name, limit, least in (("r_max", r_max, 1.0), ("d_max", d_max, 0.0)):
            if not callable(limit):
                self._checked(name, limit, least)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            activation=activation,
            debias=debias,
        )
        self.r_max, self.d_max = r_max, d_max
        self._latest = None

    def _normalize_at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        return None if self.training else super()._normalize_at_once(input, residual)

    def _normalized(
        self, input: Tensor, running: Running | None, affine: Affine, *, training: bool, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if not training or input.numel() == 0:
            return super()._normalized(input, running, affine, training=training, weights=weights)
        refuse_one_value(input, weights)
        found = self._correction(input, batch_moments(input, weights))
        return super()._normalized(input, running, found.applied(affine), training=True, weights=weights)

    def _correction(self, input: Tensor, batch: Moments) -> Correction:
        if is_recomputation():
            return self._repeated(batch)
        assert self.running_mean is not None
        assert self.running_var is not None
        found = correction(
            batch,
            self.running_mean,
            self.running_var,
            eps=self.eps,
            r_max=self._limit("r_max", 1.0),
            d_max=self._limit("d_max", 0.0),
        )
        if select.way(input) == "fused":
            self._latest = (batch.mean, found)
        return found

    def _repeated(self, batch: Moments) -> Correction:
        """What the forward pass used that activation checkpointing now repeats: it has moved the statistics since."""
        if self._latest is None or not torch.equal(self._latest[0], batch.mean):
            raise RuntimeError(
                f"{type(self).__name__} was called again before activation checkpointing repeated an earlier call, "
                "whose r and d are no longer known: leave the layer out of the checkpoint, or call it once a step"
            )
        return self._latest[1]

    def _limit(self, name: str, least: float) -> float:
        limit = getattr(self, name)
        if not callable(limit):
            return self._checked(name, limit, least)
        assert self.num_batches_tracked is not None
        return self._checked(name, limit(int(self.num_batches_tracked)), least)

    def _checked(self, name: str, limit: Any, least: float) -> float:
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit) or limit < least:
            raise ValueError(
                f"{type(self).__name__} {name} expected a number of at least {least:g}, or a function of the step that "
                f"gives one; got {limit!r}"
            )
        return float(limit)

    def _own_settings(self) -> dict[str, Any]:
        return super()._own_settings() | {"r_max": self.r_max, "d_max": self.d_max}


class BatchRenorm1d(_Renorm, BatchNorm1d):
    """BatchNorm1d whose training batches come out as evaluation would have them, within limits.

        y = gamma * ((x - mu) / s * r + d) + beta        s = sqrt(sigma2 + eps)
        r = clip(s / s_run, 1 / r_max, r_max)            d = clip((mu - mu_run) / s_run, -d_max, d_max)

    The gradient flows through mu and s, and takes r and d for constants. With r_max = 1 and d_max = 0 this is batch
    norm, to the bit. Evaluation is BatchNorm's.

    Args:
        r_max, d_max: numbers (r_max at least 1, d_max at least 0, both may be math.inf), or functions of the number of
            batches seen so far. The default is the paper's: 1 and 0 for 5000 batches, then evenly to 3 at 40000 and to
            5 at 25000. For a shorter training give a Ramp of your own: plain batch norm until the running statistics
            mean something, a few times 1 / momentum batches.
        num_features, eps, momentum, affine, device, dtype, bias, activation, debias: as in BatchNorm1d; the paper takes
            momentum 0.01.

    On a GPU a function of the step makes the host wait for the number of batches; numbers do not.

    Raises:
        ValueError: track_running_stats=False; a limit out of range; and what BatchNorm1d raises.
        RuntimeError: activation checkpointing repeats a call that was not the layer's latest.

    Source: Ioffe 2017, "Batch Renormalization", arXiv 1702.03275, Algorithm 1.

    >>> import torch
    >>> layer = BatchRenorm1d(1, r_max=3.0, d_max=5.0)  # running mean 0, variance 1: evaluation changes nothing
    >>> layer(torch.tensor([[1.0], [3.0]])).flatten()
    tensor([1.0000, 3.0000], grad_fn=<ViewBackward0>)
    """


class BatchRenorm2d(_Renorm, BatchNorm2d):
    """BatchRenorm1d for (N, C, H, W).

    >>> import torch
    >>> BatchRenorm2d(3)(torch.randn(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """


class BatchRenorm3d(_Renorm, BatchNorm3d):
    """BatchRenorm1d for (N, C, D, H, W).

    >>> import torch
    >>> BatchRenorm3d(3)(torch.randn(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """
