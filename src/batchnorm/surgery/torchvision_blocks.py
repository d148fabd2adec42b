"""torchvision's residual blocks, with the add and the activation after it handed to the last layer.

Imported where a block of torchvision's is converted, or where such a model is unpickled. `relu` is an Identity by then:
each call of it stays, for hooks.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models import resnet


class FusedBasicBlock(resnet.BasicBlock):  # type: ignore[misc]
    """torchvision's BasicBlock after `convert`. x: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(bn2(conv2(relu(bn1(conv1(x))))) + identity)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.relu(self.bn2(self.conv2(out), residual=identity))
        return y


class FusedBottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """torchvision's Bottleneck after `convert`. x: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + identity)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        y: Tensor = self.relu(self.bn3(self.conv3(out), residual=identity))
        return y
