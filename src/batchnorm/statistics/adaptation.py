"""What `adapt` has done to a model, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from batchnorm.statistics.guard import Verdict
from batchnorm.statistics.layers import Kept, Statistics
from batchnorm.statistics.record import left_alone


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    """One layer.

    Attributes:
        name: as in `model.named_modules()`.
        old: the source's statistics, by value.
        new: what is in its buffers now.
        rows: examples of the target that went through it.
    """

    name: str
    old: Statistics
    new: Statistics
    rows: int


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` did. As a context manager it is undone at the end of the block.

    Attributes:
        layers: those that the data reached.
        batches: read.
        prior: examples that the source counts for.
        verdict: what the guard makes of the batches; None without a guard.
        adapted: False where the guard has left the source statistics.
        frozen, untracked: names of layers left alone, as for `recalibrate`.
        unreached: names of layers that no finite value went through.
    """

    layers: tuple[AdaptedLayer, ...]
    batches: int
    prior: float
    verdict: Verdict | None
    adapted: bool
    frozen: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    _kept: tuple[Kept, ...] = field(default=(), repr=False)

    def undo(self) -> None:
        """Put the source's statistics back, in place."""
        for kept in self._kept:
            kept.put_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.undo()

    def __str__(self) -> str:
        many = f"{len(self.layers)} layer" + ("" if len(self.layers) == 1 else "s")
        rows = max((layer.rows for layer in self.layers), default=0)
        data = f"{rows} example{'' if rows == 1 else 's'} in {self.batches} batch{'' if self.batches == 1 else 'es'}"
        if self.adapted:
            lines = [f"adapted {many} to {data}, the source counting for {self.prior:g}"]
        else:
            lines = [f"left the source statistics in {many}"]
        if self.verdict is not None:
            lines.append(str(self.verdict))
        return "\n".join([*lines, *left_alone(self.frozen, self.untracked, self.unreached)])
