"""GhostBatchNorm1d, 2d, 3d: a large batch normalized as the small batches that it is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import is_recomputation, refuse_one_value, refuse_residual
from batchnorm.kernels.groups import group_sizes, run_in_groups
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine
from batchnorm.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _Layer


class _Ghost(_Layer):
    """What the three share: how a training batch is split."""

    virtual_batch_size: int

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
        virtual_batch_size: int,
        bias: bool = True,
        activation: str | None = None,
        debias: bool = False,
    ) -> None:
        if isinstance(virtual_batch_size, bool) or not isinstance(virtual_batch_size, int) or virtual_batch_size < 1:
            raise ValueError(
                f"{type(self).__name__} virtual_batch_size expected a number of rows, 1 or more, got "
                f"{virtual_batch_size!r}: 32 is usual"
            )
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
        self.virtual_batch_size = virtual_batch_size

    def _normalize_at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        return None if self.training else super()._normalize_at_once(input, residual)

    def _normalized(
        self, input: Tensor, running: Running | None, affine: Affine, *, training: bool, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        positions = input.shape[2:].numel()
        # Evaluation asks for no sizes: a program may take any number of rows.
        sizes = group_sizes(input.shape[0], self.virtual_batch_size, positions) if self.training else ()
        if len(sizes) < 2:
            return super()._normalized(input, running, affine, training=training, weights=weights)
        if self.virtual_batch_size * positions == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input.shape} and "
                f"{type(self).__name__} virtual_batch_size=1: give it 2 or more"
            )
        refuse_one_value(input, weights)
        refuse_residual(input, affine.residual)
        moving = None if is_recomputation() else running
        return run_in_groups(input, affine, sizes, eps=self.eps, weights=weights, moving=moving)

    def _own_settings(self) -> dict[str, Any]:
        return super()._own_settings() | {"virtual_batch_size": self.virtual_batch_size}


class GhostBatchNorm1d(_Ghost, BatchNorm1d):
    """BatchNorm1d whose training batches are normalized in groups of `virtual_batch_size` rows, each by itself.

    A large batch keeps the noise of small ones, which regularizes, and the batch size becomes a matter of speed alone.
    Groups are taken in order: rows 0 to B-1, B to 2B-1, and so on. What is left over is a smaller group; where that
    would have one value per channel, it joins the group before. A batch of one group is BatchNorm1d's own.

    The running statistics move once a batch, by the mean and variance of the whole of it: the groups' Moments, merged.
    Evaluation is BatchNorm's; so is what a layer that tracks no running statistics does in evaluation.

    Args:
        virtual_batch_size: B, rows per group.
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias, activation, debias: as in
            BatchNorm1d.

    At call time a mask leaves the groups as they are: a group is B rows, whichever of them count; a group in which one
    value counts comes out beta.

    Raises:
        ValueError: virtual_batch_size below 1, or 1 where that is one value per channel; and what BatchNorm1d raises.

    Source: Hoffer, Hubara and Soudry 2017, arXiv 1705.08741, Algorithm 1; there the running statistics move by one
    group after the other, which is not the variance of the batch.

    >>> import torch
    >>> layer = GhostBatchNorm1d(1, virtual_batch_size=2, affine=False)
    >>> layer(torch.tensor([[0.0], [2.0], [100.0], [104.0]])).flatten()
    tensor([-1.0000,  1.0000, -1.0000,  1.0000])
    """


class GhostBatchNorm2d(_Ghost, BatchNorm2d):
    """GhostBatchNorm1d for (N, C, H, W).

    >>> import torch
    >>> GhostBatchNorm2d(3, virtual_batch_size=2)(torch.randn(5, 3, 4, 4)).shape
    torch.Size([5, 3, 4, 4])
    """


class GhostBatchNorm3d(_Ghost, BatchNorm3d):
    """GhostBatchNorm1d for (N, C, D, H, W).

    >>> import torch
    >>> GhostBatchNorm3d(3, virtual_batch_size=2)(torch.randn(5, 3, 4, 4, 4)).shape
    torch.Size([5, 3, 4, 4, 4])
    """
