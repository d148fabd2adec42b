"""What was done to a model, entry by entry, with reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 3  # names of a group that are printed before the rest is counted


@dataclass(frozen=True)
class Entry:
    """One place in a model.

    Attributes:
        name: where, as in `model.named_modules()`; empty for the model itself.
        what: what is there, or what became of it.
        reason: how it was recognized, or why it was left alone.
    """

    name: str
    what: str
    reason: str


@dataclass(frozen=True)
class Verified:
    """How far the converted model was from the model before, on an example.

    Attributes:
        dtype: in which it was computed.
        outputs: the largest difference of an output, in units of that output's largest value.
        gradients: likewise, of a parameter's or an input's gradient.
        statistics: likewise, of the running statistics after the training step.
    """

    dtype: str
    outputs: float
    gradients: float
    statistics: float

    def __str__(self) -> str:
        return (
            f"in {self.dtype}, relative differences of at most {self.outputs:.1e} in outputs, {self.gradients:.1e} in "
            f"gradients, {self.statistics:.1e} in running statistics"
        )


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        converted: layers of torch.nn that are now this package's.
        fused: layers that now compute the activation after them, with or without a residual add before it.
        not_fused: activations or blocks that stay as they were, although they follow a layer.
        left_alone: batch norm layers that stay as they were.
        verified: what was measured on the example; None without one.
    """

    converted: tuple[Entry, ...]
    fused: tuple[Entry, ...]
    not_fused: tuple[Entry, ...]
    left_alone: tuple[Entry, ...]
    verified: Verified | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many entries of each kind."""
        return {
            "converted": len(self.converted),
            "fused": len(self.fused),
            "not_fused": len(self.not_fused),
            "left_alone": len(self.left_alone),
        }

    def __str__(self) -> str:
        lines = [self._headline()]
        for kind in self.counts:
            lines += grouped(kind.replace("_", " "), getattr(self, kind), width=11)
        if self.verified is not None:
            lines.append(f"verified    {self.verified}")
        return "\n".join(lines)

    def _headline(self) -> str:
        if not self.converted and not self.fused:
            ours = sum(entry.reason == ALREADY for entry in self.left_alone)
            why = "this model is converted already" if ours else "no layer of torch.nn that can be"
            return f"nothing converted: {why}" + (f" ({ours} layers of batchnorm)" if ours else "")
        residual = sum(entry.what.startswith("residual") for entry in self.fused)
        adds = f", {residual} of them with a residual add" if residual else ""
        alone = f", left {_count(len(self.left_alone), 'layer')} alone" if self.left_alone else ""
        return f"converted {_count(len(self.converted), 'layer')}, fused {len(self.fused)}{adds}{alone}"


@dataclass(frozen=True)
class Reversion:
    """What `revert` put back: layers, blocks and activations, by name."""

    restored: tuple[Entry, ...]

    def __str__(self) -> str:
        if not self.restored:
            return "nothing to revert: no module of this model was converted"
        return "\n".join(
            [f"restored {_count(len(self.restored), 'module')}", *grouped("restored", self.restored, width=11)]
        )


ALREADY = "is one of batchnorm's already"


def grouped(kind: str, entries: Iterable[Entry], *, width: int = 8) -> list[str]:
    """One line for all entries that differ in their names alone."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        groups.setdefault((entry.what, entry.reason), []).append(entry.name or "(the model)")
    lines = []
    for (what, reason), names in groups.items():
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        lines.append(f"{kind:{width}s} {len(names)} x {what}: {reason} [{shown}]")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
