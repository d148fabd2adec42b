"""The laboratory: each reason that is given for batch normalization, measured on the user's own data.

`batchnorm.lab.speed("digits", seeds=3)` carries out one experiment and returns its frozen `Record`; `names()` says
which there are. Nothing heavy is imported before one is carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchnorm.lab.experiment import Experiment
from batchnorm.lab.questions import names
from batchnorm.lab.record import Effect, Record

if TYPE_CHECKING:
    from batchnorm.lab.material import Material

__all__ = ["Effect", "Experiment", "Material", "Record", "names"]


def __getattr__(name: str) -> Experiment:
    if name == "Material":
        from batchnorm.lab.material import Material

        return Material  # type: ignore[return-value]
    if name in names():
        return Experiment(name)
    raise AttributeError(f"module 'batchnorm.lab' has no attribute {name!r}: the experiments are {', '.join(names())}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *names()])
