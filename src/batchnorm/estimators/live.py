"""A predictor that follows its network: built when first asked for, and again once the network has been changed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from batchnorm.predictor import Predictor


class LivePredictor:
    """Keeps a network's predictor for as long as the network stays as it is; copies and pickles start without one.

    A change is seen by torch's count of in-place changes of each tensor, which `tensor.data` evades.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor], list[int], Predictor] | None = None

    def of(self, network: nn.Module, build: Callable[[], Predictor]) -> Predictor:
        """The predictor of `network`, which `build` makes where it must."""
        tensors = [*network.parameters(), *network.buffers()]
        versions = [tensor._version for tensor in tensors]
        kept = self._kept  # read once: another thread may put its own there
        if kept is None or versions != kept[1] or any(a is not b for a, b in zip(tensors, kept[0], strict=True)):
            kept = self._kept = (tensors, versions, build())
        return kept[2]

    def __reduce__(self) -> tuple[type[LivePredictor], tuple[()]]:
        return LivePredictor, ()
