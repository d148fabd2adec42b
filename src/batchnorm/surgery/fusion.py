"""What a fusion is: layers that are to end in the activations that now follow them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from batchnorm.surgery.places import Place, Places
from batchnorm.surgery.record import Entry

_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")  # those that see what the layer gives


@dataclass(frozen=True)
class Ending:
    """One layer and the activation that it is to end in."""

    layer: nn.Module
    activation: str
    has_residual: bool = False

    @property
    def what(self) -> str:
        """For the record."""
        return f"residual add and {self.activation}" if self.has_residual else self.activation


@dataclass(frozen=True)
class Fusion:
    """Endings that can only be had together, since one activation module or one forward serves them.

    Attributes:
        endings: the layers.
        removed: where activations stand that have nothing left to do.
        block: the module whose class changes, for a forward that hands the layer its residual; None if none does.
        becomes: the class it changes to.
        how: how it was recognized, for the record.
    """

    endings: tuple[Ending, ...]
    removed: tuple[Place, ...]
    how: str
    block: nn.Module | None = None
    becomes: type[nn.Module] | None = None


class Candidates:
    """The layers of a model that have no activation yet, each to be had once."""

    def __init__(self, places: Places, layers: Iterable[nn.Module]) -> None:
        self.places = places
        self._free = dict.fromkeys(layers)
        self.fusions: list[Fusion] = []
        self.refusals: list[Entry] = []

    def __contains__(self, layer: object) -> bool:
        return layer in self._free

    def why_not(self, layer: nn.Module) -> str | None:
        """Why this layer cannot end in an activation; None where it can."""
        if any(getattr(layer, hooks) for hooks in _HOOKS):
            return f"{self.places.names[layer]} has hooks, which would see other values"
        return None

    def accept(self, fusion: Fusion) -> None:
        """Take a fusion, and with it its layers."""
        self.fusions.append(fusion)
        for ending in fusion.endings:
            del self._free[ending.layer]

    def refuse(self, module: nn.Module, what: str, reason: str) -> None:
        """Note that something was not fused."""
        entry = Entry(self.places.names[module], what, reason)
        if entry not in self.refusals:
            self.refusals.append(entry)

    def entries(self) -> Iterable[Entry]:
        """The accepted fusions, for the record."""
        for fusion in self.fusions:
            for ending in fusion.endings:
                yield Entry(self.places.names[ending.layer], ending.what, fusion.how)
