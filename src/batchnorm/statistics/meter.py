"""The statistics of every batch that goes through a layer, as the layer itself finds them in training.

With momentum 1 a layer's running statistics after a training batch are that batch's own. So they are read, not computed
again: it costs no second pass over the values, and it is right for subclasses that lay out, group or synchronize their
input in ways of their own. Each call of the layer writes into tensors of its own, which are summed up now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchnorm.functional import mask_weights
from batchnorm.moments import Moments, wide_dtype
from batchnorm.statistics.measured import Measured, of_one_value

_FEWEST, _MOST, _VALUES = 16, 128, 1 << 15  # calls that are summed up together, and numbers that they may leave
_PARTS = 64  # such sums that are merged together
_NARROW = (torch.float16, torch.bfloat16)
_NEEDS_NO_COUNTER = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Part(NamedTuple):
    """Calls of one size, all finite: how many, of how many values, and mean and m2 of what they have found, (2, C)."""

    calls: int
    values: float
    mean: Tensor
    m2: Tensor


class Meter:
    """Stands where a layer's forward was, and keeps what every call of it finds.

    The layer's settings and buffers are exchanged, so this is used inside `as_found` alone.

    Attributes:
        layer: the layer.
        forwards: its own `forward`, and `forward_weighted` where it has that, by name.
        old: (2, C), its mean and variance as they were.
        on_first_call: called once, before the layer's next call.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.on_first_call: Callable[[], None] | None = None
        self.forwards = {name: getattr(layer, name) for name in ("forward", "forward_weighted") if hasattr(layer, name)}
        self._original, self._features = layer.forward, max(1, layer.num_features)
        self._buffers: dict[str, Any] = layer._buffers
        device, dtype = layer.running_mean.device, layer.running_mean.dtype
        dtype = torch.float32 if dtype in _NARROW else dtype
        self.old = torch.stack([layer.running_mean.to(dtype), layer.running_var.to(dtype)])
        # What a call finds there has no weight, but must be finite for that. A layer of ours that refuses a batch
        # leaves it there, where no batch puts it: close to the old statistics, and yet in both not the same.
        mean, var = torch.nan_to_num(self.old, nan=1.0, posinf=1.0, neginf=1.0)
        self._start = torch.stack([mean + 1e-3 * var.abs().sqrt() + 1e-15, var.abs() * (1 + 1e-3) + 1e-30])
        self._refuses = "forward_weighted" in self.forwards
        self._is_shared = _is_shared(layer)
        self._room = _FEWEST
        self._found = self._start  # (2, room, C) from the first call on
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._counts: list[float] = []
        self._parts: list[_Part] = []
        self._measured = Measured.nothing(self.old.shape[1], device)
        self._make_room()
        self._install(dtype)

    def measured(self) -> Measured:
        """Everything so far."""
        self._sum_up()
        self._merge_parts()
        return self._measured

    def forget(self) -> None:
        """Begin anew."""
        self._sum_up()
        self._parts.clear()
        self._measured = Measured.nothing(self.old.shape[1], self.old.device)

    def use(self, mean: Tensor, var: Tensor) -> None:
        """From now on the layer is at test time with these statistics, and measures nothing."""
        own = vars(self.layer)
        own.update(self.forwards)
        self.layer.training = False
        buffers = own["_buffers"]
        buffers["running_mean"], buffers["running_var"] = mean.to(self.old.dtype), var.to(self.old.dtype)

    def _install(self, dtype: torch.dtype) -> None:
        layer, own = self.layer, vars(self.layer)
        layer.training = True
        own["momentum"], own["_has_warned"] = 1.0, True
        if "debias" in own:
            own["debias"] = False
        if "r_max" in own:  # batch renormalization at its limits is batch norm: by the batch, not by the old statistics
            own["r_max"], own["d_max"] = 1.0, 0.0
        if type(layer) in _NEEDS_NO_COUNTER:
            own["_buffers"]["num_batches_tracked"] = None
        for name, parameter in own["_parameters"].items():
            if parameter is not None and parameter.dtype in _NARROW:  # narrow input and wide everything else is a case
                own["_parameters"][name] = torch.nn.Parameter(parameter.to(dtype), requires_grad=False)
        own["forward"] = self._forward
        if "forward_weighted" in self.forwards:
            own["forward_weighted"] = self._forward_weighted

    def _forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.layer.training:  # whatever the model does to modes on its way, as encoders do
            self.layer.training = True
        k, count = len(self._counts), input.numel() // self._features
        if kwargs or k == self._room or count < 2 or self.on_first_call is not None:
            weights = None
            if kwargs and "forward_weighted" in self.forwards:  # a layer of ours, and what it means by a mask
                mask = kwargs.get("mask")
                weights = None if mask is None else mask_weights(input, mask)
            return self._measuring("forward", input, weights, *args, **kwargs)
        buffers = self._buffers
        mean, var = buffers["running_mean"], buffers["running_var"] = self._rows[k]
        y = self._original(input, *args)
        if buffers["running_mean"] is not mean or buffers["running_var"] is not var:
            self._take_over(mean, var)
        self._counts.append(count)
        return y

    def _forward_weighted(self, input: Tensor, weights: Tensor | None) -> Any:
        if not self.layer.training:
            self.layer.training = True
        return self._measuring("forward_weighted", input, weights, weights)

    def _measuring(self, name: str, input: Tensor, weights: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        count: float = input.numel() // self._features
        if weights is not None:
            count = float(weights.sum()) * input.shape[2:].numel() / max(1, weights.shape[2:].numel())
        if self.on_first_call is not None:
            self.on_first_call()
            self.on_first_call = None
        if count < 2 and not self._is_shared:
            return self._without_a_variance(self.forwards[name], input, weights, count, args, kwargs)
        if len(self._counts) == self._room:
            self._sum_up()
            self._make_room()
        buffers = self._buffers
        mean, var = buffers["running_mean"], buffers["running_var"] = self._rows[len(self._counts)]
        y = self.forwards[name](input, *args, **kwargs)
        self._take_over(mean, var)
        self._counts.append(count)
        return y

    def _without_a_variance(
        self, forward: Any, input: Tensor, weights: Tensor | None, count: float, args: Any, kwargs: Any
    ) -> Any:
        """One value per channel is normalized by what was measured before it; its own statistics say nothing."""
        total = self.measured().total
        seen = total.count >= 2
        buffers = self._buffers
        buffers["running_mean"] = torch.where(seen, total.mean, self.old[0]).to(self.old.dtype)
        buffers["running_var"] = torch.where(seen, total.variance(), self.old[1]).to(self.old.dtype)
        self.layer.training = False
        try:
            y = forward(input, *args, **kwargs)
        finally:
            self.layer.training = True
        if count > 0:
            wide = input.detach().to(wide_dtype(input.device))
            dims = [d for d in range(wide.dim()) if d != 1]
            value = wide.flatten() if weights is None else Moments.of(wide, dims=dims, weights=weights).mean
            self._merge(of_one_value(value, count))
        return y

    def _any_refused(self, taken: Tensor) -> bool:
        return self._refuses and bool((taken == self._start[:, None]).all(0).any())

    def _take_over(self, mean: Tensor, var: Tensor) -> None:
        """What a subclass has left that does not write into its buffers but puts new ones."""
        for mine, found in ((mean, self._buffers["running_mean"]), (var, self._buffers["running_var"])):
            if found is not mine:
                mine.copy_(found)

    def _make_room(self) -> None:
        """For more calls each time: short runs pay for little, long ones sum up seldom."""
        channels = self.old.shape[1]
        if self._rows:
            self._room = min(4 * self._room, _MOST, max(_FEWEST, _VALUES // max(1, channels)))
        if len(self._rows) < self._room:
            self._found = self._start[:, None].repeat(1, self._room, 1)
            self._rows = list(zip(self._found[0].unbind(0), self._found[1].unbind(0), strict=True))

    def _sum_up(self) -> None:
        """Make the tensors that calls write into free again."""
        k = len(self._counts)
        if k == 0:
            return
        if self._is_shared:  # what was found is of all processes together, and so must be what it weighs
            together = self._found.new_tensor(self._counts, dtype=torch.float64)
            dist.all_reduce(together, group=self.layer.process_group)
            self._counts[:] = together.tolist()
        taken = self._found[:, :k]
        found = taken.to(wide_dtype(taken.device))
        n = self._counts[0]
        mean = found.mean(1)
        deviation = found - mean[:, None]
        m2 = (deviation * deviation).sum(1)
        if self._counts.count(n) == k and bool(torch.isfinite(m2).all()) and not self._any_refused(taken):
            self._parts.append(_Part(k, n, mean, m2))
        else:
            # (k, C): 0 where a batch's statistics are not finite, or a layer of ours has refused them for that.
            one = (torch.isfinite(found).all(0) & ~(self._refuses & (taken == self._start[:, None]).all(0))).to(found)
            counts = one * found.new_tensor(self._counts)[:, None]
            found, batches = torch.where(one > 0, found, 0.0), one.sum(0)
            weighted = Moments.of(found, dims=1, weights=counts)
            within = (found[1] * (counts - 1)).sum(0)
            self._merge(Measured(weighted, within, batches, k - batches, found.sum(1), batches))
        taken.copy_(self._start[:, None].expand_as(taken))
        self._counts.clear()
        if len(self._parts) >= _PARTS:
            self._merge_parts()

    def _merge(self, measured: Measured) -> None:
        self._measured = self._measured.merge(measured)

    def _merge_parts(self) -> None:
        if not self._parts:
            return
        means, m2 = (torch.stack(each) for each in zip(*((p.mean, p.m2) for p in self._parts), strict=True))
        sizes = means.new_tensor([(p.calls, p.values) for p in self._parts])
        calls, n = sizes[:, :1, None], sizes[:, 1:, None]  # (parts, 1, 1), against (parts, 2, C)
        between = Moments.of(means, dims=0, weights=calls * n)
        within = (means[:, 1] * (calls * (n - 1))[:, 0]).sum(0)
        batches = calls.sum().expand(len(within))
        of_batches = Moments(between.count, between.mean, between.m2 + (n * m2).sum(0))
        self._merge(Measured(of_batches, within, batches, batches - batches, (calls * means).sum(0), batches))
        self._parts.clear()


def _is_shared(layer: Any) -> bool:
    """Whether other processes take part in each call of the layer: all must call it equally often."""
    if not hasattr(layer, "process_group") or not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size(layer.process_group) > 1
