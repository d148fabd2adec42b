"""timm's layer with an activation inside, where that activation stays a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import Tensor, nn

from batchnorm.nn import BatchNorm2d


class BatchNormAct2d(BatchNorm2d):
    """timm's BatchNormAct2d after `convert`, where its activation is none of ours: y = act(drop(batch_norm(x))).

    Made by `convert` alone, which leaves timm's `drop` and `act` where they are. It needs no timm.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor, *, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """As BatchNorm2d, then `drop` and `act`. input: (N, C, H, W)."""
        y: Tensor = self.act(self.drop(super().forward(input, residual=residual, mask=mask)))
        return y

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """`drop` and `act`; and a refusal to a converter that would go on without them (see BatchNorm2d)."""
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm":
            raise ValueError(
                f"convert_sync_batchnorm would drop the {type(self.act).__name__} of this {type(self).__name__}: call "
                "batchnorm.revert(model) first"
            )
        return super().named_children()
