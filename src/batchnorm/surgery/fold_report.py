"""What `fold` did: which pairs became one layer, which stayed and why."""

from __future__ import annotations

from dataclasses import dataclass

from batchnorm.surgery.fold_check import Measured
from batchnorm.surgery.record import Entry, grouped


@dataclass(frozen=True)
class Folding:
    """What `fold` did; in `model.fold_report`.

    Attributes:
        folded: batch norm layers that are gone, and into what.
        refused: layers that stand beside a linear map and stay, with the reason.
        alone: layers that stand beside no linear map.
        measured: how far the folded model is from the model.
    """

    folded: tuple[Entry, ...]
    refused: tuple[Entry, ...]
    alone: tuple[Entry, ...]
    measured: Measured

    def __str__(self) -> str:
        count = len(self.folded)
        lines = [f"folded {count} batch norm layer{'' if count == 1 else 's'}, {self.measured}"]
        for kind, entries in (("folded", self.folded), ("refused", self.refused), ("alone", self.alone)):
            lines += grouped(kind, entries)
        return "\n".join(lines)
