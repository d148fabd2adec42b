"""The bench an experiment works at: its data, its seeds, whether to be quick, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from batchnorm.data import Prepared
from batchnorm.errors import DataError, quoted
from batchnorm.lab.material import Material
from batchnorm.lab.trial import PAPER, Trial
from batchnorm.lab.watch import Watch
from batchnorm.training.network import Network
from batchnorm.training.settings import Settings

Case = TypeVar("Case")


@dataclass(frozen=True, eq=False)
class Bench:
    """What `measure` is given.

    Attributes:
        material: the data.
        seeds: each of a split, of weights and of an order.
        quick: whether a tenth of the time has to do.
        watch: is told of every case.
    """

    material: Material
    seeds: tuple[int, ...]
    quick: bool
    watch: Watch

    def data(self, seed: int) -> Prepared:
        """Encoded rows, split by this seed."""
        return self.material.of(seed)

    @property
    def paper(self) -> Settings:
        """PAPER; where a number is predicted with a tenth of its rate, for squared error is steeper."""
        is_number = not self.data(self.seeds[0]).schema.classes
        return replace(PAPER, learning_rate=PAPER.rate / 10) if is_number else PAPER

    def trial(
        self,
        settings: Settings,
        seed: int,
        *,
        dtype: torch.dtype = torch.float32,
        change: Callable[[Network], None] | None = None,
    ) -> Trial:
        """A fresh network on this seed's rows; arguments as `Trial`."""
        return Trial(self.data(seed), replace(settings, seed=seed), dtype=dtype, change=change)

    def each(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The cases one by one, with a progress bar over them."""
        listed = list(cases)
        self.watch.expected(len(listed))
        for case in listed:
            yield case
            self.watch.advanced()

    def require_classes(self) -> None:
        """Raise DataError where the target is a number: for experiments that count right answers."""
        data = self.data(self.seeds[0])
        if not data.schema.classes:
            raise DataError(
                f"{data.name}: this experiment expected classes to predict, got the number "
                f"{quoted(data.schema.target.name)}: choose another --target, or data such as digits"
            )
