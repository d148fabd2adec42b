"""SyncBatchNorm1d, 2d, 3d: a batch spread over processes is normalized as one, on CPU and on GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from batchnorm.functional import is_recomputation, refuse_residual
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine
from batchnorm.kernels.synchronized import run_synchronized
from batchnorm.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _Layer


class _Group:
    """A process group that copies of a layer share: torch can neither copy nor pickle one."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> _Group:
        return self

    def __reduce__(self) -> tuple[type[_Group], tuple[None]]:
        if self.group is not None:
            raise TypeError(
                "a layer with a process_group belongs to this process and cannot be pickled: save its state_dict(), or "
                "set layer.process_group = None, which means all processes"
            )
        return (_Group, (None,))


class _Sync(_Layer):
    """What the three share: whose statistics are gathered."""

    _shared: _Group

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
        process_group: Any = None,
        bias: bool = True,
        activation: str | None = None,
        debias: bool = False,
    ) -> None:
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
        self._shared = _Group(process_group)

    @property
    def process_group(self) -> Any:
        """The torch.distributed group whose processes share a batch; None for all processes."""
        return self._shared.group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        self._shared = _Group(group)

    def _normalize_at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        return None if self._has_others() else super()._normalize_at_once(input, residual)

    def _normalized(
        self, input: Tensor, running: Running | None, affine: Affine, *, training: bool, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if not (training and self._has_others()):
            return super()._normalized(input, running, affine, training=training, weights=weights)
        refuse_residual(input, affine.residual)
        moving = None if is_recomputation() else running
        return run_synchronized(input, affine, eps=self.eps, weights=weights, moving=moving, group=self.process_group)

    def _has_others(self) -> bool:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return False
        size = dist.get_world_size(self.process_group)
        if size < 1:
            raise ValueError(
                f"{type(self).__name__} is called in a process that is not in its process_group: give each process the "
                "group that it belongs to"
            )
        return size > 1

    def _own_settings(self) -> dict[str, Any]:
        group = {} if self.process_group is None else {"process_group": self.process_group}
        return super()._own_settings() | group


class SyncBatchNorm1d(_Sync, BatchNorm1d):
    """BatchNorm1d over all the processes of a group: what one process would do with all their rows in one batch.

    In training, forward: each process's count, mean and squared deviations are gathered and merged exactly, whatever
    the counts; a process may have one row, or none. Backward: the input's gradient is that of one large batch; weight
    and bias get the sums over the process's own rows, which DistributedDataParallel averages like any other gradient.
    Running statistics move by the whole batch and are the same in every process. Evaluation, and a process alone
    (torch.distributed not initialized, or a group of one): BatchNorm's.

    Any backend of torch.distributed: gloo on CPU, where torch.nn.SyncBatchNorm refuses to run, NCCL on GPU.

    Args:
        process_group: of torch.distributed; None for all processes.
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias, activation, debias: as in
            BatchNorm1d.

    Every process of the group must call the layer the same number of times, forward and backward, also one that has no
    rows: torch.empty(0, C). One node of the graph, differentiable once. torch.compile breaks the graph here.

    Raises:
        ValueError: one value per channel in all processes together; a process that is not in the group; and what
            BatchNorm1d raises.

    >>> import torch
    >>> SyncBatchNorm1d(2)(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))  # alone
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]], grad_fn=<FusedBatchNormBackward>)
    """


class SyncBatchNorm2d(_Sync, BatchNorm2d):
    """SyncBatchNorm1d for (N, C, H, W).

    >>> import torch
    >>> SyncBatchNorm2d(3)(torch.randn(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """


class SyncBatchNorm3d(_Sync, BatchNorm3d):
    """SyncBatchNorm1d for (N, C, D, H, W).

    >>> import torch
    >>> SyncBatchNorm3d(3)(torch.randn(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """
