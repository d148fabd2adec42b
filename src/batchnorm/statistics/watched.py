"""What a guard is shown of a batch: each layer's input, example by example, while the model runs as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import mask_weights


class Watcher:
    """Stands where a layer's forward was, and keeps what enters. Used inside `as_found`, for one batch.

    Attributes:
        seen: of each call (n, C): each example's mean over its positions, in units of the source statistics.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.seen: list[Tensor] = []
        own = vars(layer)
        self._forwards = {
            name: getattr(layer, name) for name in ("forward", "forward_weighted") if hasattr(layer, name)
        }
        own["forward"] = self._forward
        if "forward_weighted" in self._forwards:
            own["forward_weighted"] = self._forward_weighted

    def _forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("mask") if "forward_weighted" in self._forwards else None
        self._see(input, None if mask is None else mask_weights(input, mask))
        return self._forwards["forward"](input, *args, **kwargs)

    def _forward_weighted(self, input: Tensor, weights: Tensor | None) -> Any:
        self._see(input, weights)
        return self._forwards["forward_weighted"](input, weights)

    def _see(self, input: Tensor, weights: Tensor | None) -> None:
        layer: Any = self._layer
        channels_last = input.shape[1] != layer.num_features and input.shape[-1] == layer.num_features
        values = (input.movedim(-1, 1) if channels_last else input).to(
            torch.promote_types(layer.running_mean.dtype, torch.float32)
        )
        values = values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)
        if weights is None:
            features = values.mean(2)
        else:  # (N, 1, *): of each row the positions that count; a row without any is nobody's example
            counted = weights.to(values.dtype).flatten(2) if weights.dim() > 2 else weights.to(values.dtype)[..., None]
            counted = counted.expand(-1, -1, values.shape[2])
            features = (values * counted).sum(2) / counted.sum(2).clamp(min=1e-30)
            features = features[counted.sum((1, 2)) > 0]
        features = (features - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps)
        # An example that is not finite says nothing of the others.
        self.seen.append(features[torch.isfinite(features).all(1)])
