"""timm's residual blocks, with the add and the activation after it handed to the last layer.

Imported where a block of timm's is converted, or where such a model is unpickled. What is an Identity by then is called
all the same, for hooks.
"""

from __future__ import annotations

from timm.models import resnet
from torch import Tensor


class FusedBasicBlock(resnet.BasicBlock):  # type: ignore[misc]
    """timm's BasicBlock after `convert`, without attention and stochastic depth. x: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.drop_block(self.bn1(self.conv1(x))))
        x = self.conv2(self.aa(x))
        y: Tensor = self.act2(self.bn2(x, residual=shortcut))
        return y


class FusedBottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """timm's Bottleneck after `convert`, without attention and stochastic depth. x: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """act3(bn3(conv3(act2(bn2(conv2(act1(bn1(conv1(x)))))))) + shortcut)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.drop_block(self.bn2(self.conv2(x))))
        x = self.conv3(self.aa(x))
        y: Tensor = self.act3(self.bn3(x, residual=shortcut))
        return y
