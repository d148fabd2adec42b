"""BatchNorm1d, BatchNorm2d, BatchNorm3d: torch.nn's layers, with exact statistics, activations, residuals and masks."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from batchnorm.errors import StatisticsWarning
from batchnorm.functional import check_arguments, mask_weights, normalize_and_update, refusal
from batchnorm.kernels import choice, exported, select
from batchnorm.kernels.activations import check_activation
from batchnorm.kernels.native import ACTIVATION_NUMBERS, Settled
from batchnorm.kernels.running import Running, corrected_momentum
from batchnorm.kernels.spec import Affine
from batchnorm.moments import wide_dtype
from batchnorm.nn.leaf import as_leaf


class _Layer(torch.nn.modules.batchnorm._BatchNorm):
    """What the three layers share: everything but the number of dimensions they accept."""

    activation: str | None
    debias: bool = False  # here, too, for layers pickled before there was such a thing
    _dimensions: ClassVar[tuple[int, int]]  # fewest and most dimensions of an input
    _has_warned: bool
    _refusals: Tensor | None  # (C,) batches that a channel's average must not count, where the average counts them

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
        bias: bool = True,
        activation: str | None = None,
        debias: bool = False,
    ) -> None:
        name = type(self).__name__
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"{name} eps must be positive (0 only for evaluation), got {eps}: 1e-5 is usual")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(
                f"{name} momentum expected a number in [0, 1], the weight of the new batch, or None for the plain "
                f"average; got {momentum}"
            )
        check_activation(activation)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
        self.activation = activation
        self.debias = debias
        self._has_warned = False
        self._refusals = None
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean, self.running_var = _kept_wide(self.running_mean), _kept_wide(self.running_var)

    def forward(self, input: Tensor, *, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalize; in training also update the running statistics.

        Args:
            input: (N, num_features) or (N, num_features, *), as the layer's name says.
            residual: like `input`: added before the activation.
            mask: boolean, (N,), (N, *) or (N, 1, *): False positions count in no statistic and come out 0.

        Raises:
            ValueError: a wrong number of dimensions, or one value per channel in training: torch's own texts.
            RuntimeError: a wrong number of channels or a dtype that torch.nn refuses too.
        """
        if mask is None and not torch.compiler.is_compiling():
            y = self._normalize_at_once(input, residual)
            if y is not None:
                return y
        if isinstance(input, fx.Proxy):
            return as_leaf(self, input, residual=residual, mask=mask)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        return self._normalize(input, residual, None if mask is None else mask_weights(input, mask))

    def forward_weighted(self, input: Tensor, weights: Tensor | None) -> Tensor:
        """forward() where each position counts `weights` times in the statistics: (N, 1, *), >= 0; None is once.

        A row of weight 2 counts as that row twice; a row of weight 0 is masked and comes out 0.

        Raises:
            ValueError: weights of another shape; and what forward() raises.
        """
        expected = (input.shape[0], 1, *input.shape[2:])
        if weights is not None and tuple(weights.shape) != expected:
            raise ValueError(
                f"weights expected shape {expected} for input {tuple(input.shape)}, got {tuple(weights.shape)}"
            )
        return self._normalize(input, None, None if weights is None else weights.to(wide_dtype(input.device)))

    def by_batch(self, input: Tensor) -> Tensor:
        """What a training batch gives before the activation, gamma * z_norm + beta, with nothing updated."""
        y, _ = self._normalized(input, None, Affine(self.weight, self.bias, None, None), training=True, weights=None)
        return y

    def _normalize_at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """The usual case in one call of compiled code; None where it is not the usual case."""
        call = choice.layer_call
        if call is None or not self.track_running_stats:
            return None
        parameters, buffers = self._parameters, self._buffers
        # Where pruning or sharding has put something else in their place, `...` is found: not a tensor.
        mean, var = buffers.get("running_mean", ...), buffers.get("running_var", ...)
        answer = call(
            input,
            parameters.get("weight", ...),
            parameters.get("bias", ...),
            mean,
            var,
            buffers.get("num_batches_tracked", ...),
            residual,
            self._momentum_now(),
            self.eps,
            ACTIVATION_NUMBERS[self.activation],
            self.training,
            *self._dimensions,
        )
        if type(answer) is tuple:
            answer, block = answer
            count = input.numel() // self.num_features
            assert isinstance(mean, Tensor)
            assert isinstance(var, Tensor)
            refused = Running(mean, var, self.momentum).unmoved(Settled(block, True, count).centre())
            self._count_refusals(refused)
            self.warn_of(refused, stacklevel=6)  # to the line that calls the layer
        return answer  # type: ignore[no-any-return]

    def _momentum_now(self) -> float | None:
        """The weight of this batch in the running statistics, where it is one number and nothing has to wait for it."""
        momentum = self.momentum
        if not self.training:
            return 0.0
        if momentum is not None and not (self.debias and momentum):
            return float(momentum)
        counter = self._buffers.get("num_batches_tracked")
        if self._refusals is not None or counter is None or not counter.is_cpu or select.way(counter) != "fused":
            return None
        return float(corrected_momentum(momentum or 0.0, counter))

    def _normalize(self, input: Tensor, residual: Tensor | None, weights: Tensor | None) -> Tensor:
        training, tracks = self.training, self.track_running_stats
        # As attributes: pruning, parametrizations and sharding put plain tensors where parameters and buffers were.
        weight, bias = self.weight, self.bias
        mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        by_batch = training or (mean is None and var is None)
        if training and not tracks:
            mean = var = None
        momentum = self.momentum
        if by_batch or not exported.is_asked_for():  # see check_arguments
            self._check_channels(input, by_batch=by_batch)
        check_arguments(
            input,
            (mean, var),
            (weight, bias),
            training=by_batch,
            momentum=momentum or 0.0,
            eps=self.eps,
            alone=not self._has_others(),
        )
        running = None
        if mean is not None and var is not None:
            if momentum is None and counter is None:
                momentum = 0.0  # torch.nn, too, leaves the statistics as they are where nobody counts
            debiases = self.debias and momentum and counter is not None
            if training and (debiases or momentum is None):
                self._count_unseen_refusals(input)
            running = Running(mean, var, None if debiases else momentum, counter, self._refusals, momentum or 0.0)
        affine = Affine(weight, bias, residual, self.activation)
        y, refused = self._normalized(input, running, affine, training=by_batch, weights=weights)
        self._count_refusals(refused)
        self.warn_of(refused, stacklevel=6)  # to the line that calls the layer
        return y

    def _normalized(
        self, input: Tensor, running: Running | None, affine: Affine, *, training: bool, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """y and which channels were refused: what a layer that normalizes a training batch otherwise has its own of."""
        weight, bias, residual, activation = affine
        return normalize_and_update(
            input,
            running,
            weight,
            bias,
            training=training,
            eps=self.eps,
            activation=activation,
            residual=residual,
            weights=weights,
        )

    def _has_others(self) -> bool:
        """Whether other processes have more of the batch."""
        return False

    def _count_refusals(self, refused: Tensor | None) -> None:
        if refused is not None and (self.momentum is None or self.debias):
            self._refusals = refused.long() if self._refusals is None else self._refusals + refused

    def _count_unseen_refusals(self, input: Tensor) -> None:
        """Make a place where refusals are counted that nobody looks at: in a compiled graph, and on a GPU."""
        in_graph = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
        if self._refusals is None and (in_graph or input.is_cuda):
            self._refusals = torch.zeros(self.num_features, dtype=torch.int64, device=input.device)

    def warn_of(self, refused: Tensor | None, *, stacklevel: int = 2) -> None:
        """Say, once in the layer's life, which channels' batch statistics were refused. refused: (C,) bool or None."""
        if refused is not None and not self._has_warned:
            self._has_warned = True
            message = refusal(f"{type(self).__name__}({self.num_features})", refused)
            warnings.warn(message, StatisticsWarning, stacklevel=stacklevel)

    def extra_repr(self) -> str:
        """As torch.nn has it, and what only these layers know where it is set."""
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return ", ".join((text, *(f"{name}={value}" for name, value in self._own_settings().items())))

    def reset_running_stats(self) -> None:
        """As torch.nn does: mean 0, variance 1, no batch counted."""
        self._refusals = None
        super().reset_running_stats()

    def _own_settings(self) -> dict[str, Any]:
        """What this layer was told and torch.nn's layers cannot be told."""
        activation = {} if self.activation is None else {"activation": self.activation}
        return activation | ({"debias": True} if self.debias else {})

    def named_children(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """None; and a refusal to a converter that would lose the activation or another setting.

        SyncBatchNorm.convert_sync_batchnorm copies a layer's parameters and statistics into a new layer that knows no
        activation, then asks the old one for its children: the only moment at which the old one is heard.
        """
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm" and (own := self._own_settings()):
            advice = (
                "before converting, give the layer activation=None and put the activation in a module after it"
                if self.activation is not None
                else "use batchnorm's SyncBatchNorm layers, or leave this layer out of what is converted"
            )
            lost = ", ".join(f"{name}={value!r}" for name, value in own.items())
            raise ValueError(f"convert_sync_batchnorm would drop {lost} of this {type(self).__name__}: {advice}")
        return super().named_children()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast; running statistics never become narrower than float32, whatever the parameters do."""
        before = (self.running_mean, self.running_var)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before[0] is not None and self.running_mean is not None:
            self.running_mean = _kept_wide(self.running_mean, before[0])
        if before[1] is not None and self.running_var is not None:
            self.running_var = _kept_wide(self.running_var, before[1])
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        """Load; load_state_dict(assign=True) puts the loaded tensors in place as they are, narrow ones too."""
        self._refusals = None  # of other batches than those that the loaded state has counted
        super()._load_from_state_dict(*args)
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean, self.running_var = _kept_wide(self.running_mean), _kept_wide(self.running_var)

    def _check_channels(self, input: Tensor, *, by_batch: bool) -> None:
        channels = input.shape[1]
        if channels == self.num_features or (by_batch and input[:, 0].numel() == 1):
            return  # one value per channel is an error of its own, and torch's first
        known = {"running_mean": self.running_mean, "weight": self.weight, "bias": self.bias}
        first = next((name for name, t in known.items() if t is not None), None)
        if first is None:  # nothing here depends on the number of channels; torch.nn accepts it, too
            return
        sizes = "".join(f", {size}" for size in ("L", "D", "H", "W")[-(input.dim() - 2) :]) if input.dim() > 2 else ""
        sizes = ", L" if input.dim() == 3 else sizes
        raise RuntimeError(
            f"{type(self).__name__} expected input (N, {self.num_features}{sizes}), got {tuple(input.shape)}: "
            f"{channels} channels where num_features={self.num_features} "
            f"({first} should contain {channels} elements not {self.num_features})"
        )


class BatchNorm1d(_Layer, torch.nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L): torch.nn.BatchNorm1d and more.

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats, device, dtype, bias: as in torch.nn; momentum is the weight of the
            new batch (half_life() gives it from a number of batches).
        activation: applied to the result: relu, leaky_relu (slope 0.01), sigmoid, tanh, gelu, silu or None.
        debias: the running statistics are averages of batches alone: the 0 and 1 that stand there before the first
            batch have no share, the first batch's are taken whole. See docs/decisions/0010-running-averages.md.

    Where it differs from torch.nn: running statistics stay float32 under .half() and .bfloat16(); a channel whose batch
    statistics are not finite keeps its running values; a forward pass inside a backward pass (activation checkpointing)
    updates nothing; an empty or wholly masked batch is not counted.

    Raises:
        ValueError: momentum outside [0, 1], a negative eps, an unknown activation; in training, eps = 0 or one value
            per channel.

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167.

    >>> import torch
    >>> layer = BatchNorm1d(2, activation="relu")
    >>> layer(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    tensor([[0.0000, 0.0000],
            [1.0000, 1.0000]], grad_fn=<FusedBatchNormBackward>)
    """

    _dimensions = (2, 3)


class BatchNorm2d(_Layer, torch.nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W), per channel; see BatchNorm1d.

    >>> import torch
    >>> BatchNorm2d(3)(torch.randn(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    _dimensions = (4, 4)


class BatchNorm3d(_Layer, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W), per channel; see BatchNorm1d.

    >>> import torch
    >>> BatchNorm3d(3)(torch.randn(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    _dimensions = (5, 5)


def _kept_wide(statistic: Tensor, before: Tensor | None = None) -> Tensor:
    """A running statistic; in float32 where a cast made it narrower: from `before`, which has the digits."""
    if statistic.dtype not in (torch.float16, torch.bfloat16):
        return statistic
    source = statistic if before is None or before.is_meta or statistic.is_meta else before
    return source.to(device=statistic.device, dtype=torch.float32)
