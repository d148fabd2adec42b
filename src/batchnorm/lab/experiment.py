"""An experiment: one file of `questions/`, whose docstring states the claim and whose `measure` puts it to the test."""

from __future__ import annotations

import ast
import importlib
import inspect
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from numbers import Integral
from typing import TYPE_CHECKING, Any

from batchnorm.errors import SettingsError
from batchnorm.lab.record import Record, verdict_of
from batchnorm.lab.watch import Watch

if TYPE_CHECKING:
    from batchnorm.lab.material import Material

PARTS = ("Source", "Measured", "Unfair")
"""What a docstring must have after the claim, each a paragraph that begins with the word and a colon."""

USUAL_SEEDS = 3
_NOT_OF_A_TRIAL = ("epochs", "patience", "evaluate_every", "seed", "device")  # settings that a trial does not look at


@dataclass(frozen=True)
class Experiment:
    """A claim that can be tested; call it to do so. Reading the claim imports neither the experiment nor torch.

    >>> experiment = Experiment("bias")
    >>> experiment.claim
    'The bias before batch normalization is redundant.'
    """

    name: str

    def __call__(
        self,
        data: Material | Any = "digits",
        *,
        target: str | int | None = None,
        seeds: int | Sequence[int] | None = None,
        quick: bool = False,
        watch: Watch | None = None,
    ) -> Record:
        """Carry it out.

        Args:
            data: a path, the name of a built-in set, a frame, an array, a pair (X, y), or a `Material`.
            target: the column to predict, where the data does not bring one.
            seeds: how many, or which; None: as many as the experiment asks for, which is 3 unless it says otherwise.
            quick: a short form, for a first look: a tenth of the time, cruder numbers.
            watch: is told of the progress.

        Raises:
            DataError: the data cannot be read, has too few rows, or a target that the experiment cannot use.
            SettingsError: no such seeds.
        """
        from batchnorm.lab.bench import Bench
        from batchnorm.lab.material import Material
        from batchnorm.training.experiment import versions
        from batchnorm.training.loop import own_randomness
        from batchnorm.training.threads import one_thread

        module = importlib.import_module(f"batchnorm.lab.questions.{self.name}")
        numbers = seeds_of(getattr(module, "SEEDS", USUAL_SEEDS) if seeds is None else seeds)
        material = data if isinstance(data, Material) else Material(data, target)
        bench = Bench(material, numbers, quick, watch or Watch())
        bench.watch.began(self.name)
        began = time.perf_counter()
        first = bench.data(numbers[0])
        # Networks of this size are quicker on one thread, and its sums are the same on every machine.
        with own_randomness(numbers[0], _cpu()), one_thread():
            outcome = module.measure(bench)
        verdict = verdict_of(outcome.effects)
        bench.watch.ended(verdict)
        return Record(
            name=self.name,
            claim=self.claim,
            source=self.source,
            measured=self.measured,
            unfair=self.unfair,
            finding=f"{outcome.finding} ({len(numbers)} seed{'s' if len(numbers) > 1 else ''}).",
            verdict=verdict,
            effects=outcome.effects,
            charts=outcome.charts,
            numbers=outcome.numbers,
            settings={k: v for k, v in outcome.settings.items() if k not in _NOT_OF_A_TRIAL and v is not None},
            data_name=first.name,
            rows={"train": len(first.x_train), "test": len(first.x_test)},
            features=first.x_train.shape[1],
            seeds=numbers,
            quick=quick,
            seconds=time.perf_counter() - began,
            versions=versions(),
        )

    @property
    def claim(self) -> str:
        """One sentence."""
        return self._stated["Claim"]

    @property
    def source(self) -> str:
        """Who claims it."""
        return self._stated["Source"]

    @property
    def measured(self) -> str:
        """How it is measured, and what it must show."""
        return self._stated["Measured"]

    @property
    def unfair(self) -> str:
        """When the comparison is unfair."""
        return self._stated["Unfair"]

    @cached_property
    def _stated(self) -> dict[str, str]:
        source = (files("batchnorm.lab.questions") / f"{self.name}.py").read_text(encoding="utf-8")
        return stated(inspect.cleandoc(ast.get_docstring(ast.parse(source)) or ""))


def stated(docstring: str) -> dict[str, str]:
    """The parts of an experiment's docstring, each as one line.

    >>> stated("It is so.\\n\\nSource: A 2015.\\n\\nMeasured: by\\nhand.\\n\\nUnfair: never.")["Measured"]
    'By hand.'
    """
    claim, *rest = (" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))
    found = {part: p[len(part) + 2 :] for part in PARTS for p in rest if p.startswith(f"{part}: ")}
    found = {part: said[:1].upper() + said[1:] for part, said in found.items()}
    missing = [part for part in PARTS if part not in found]
    assert claim, "an experiment whose docstring states no claim"
    assert not missing, f"an experiment whose docstring lacks {', '.join(missing)}"
    return {"Claim": claim, **found}


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """3 as (0, 1, 2); a sequence as it is.

    Raises:
        SettingsError: none, one twice, one outside [0, 2**32), or no whole numbers.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if not 1 <= seeds <= 100:
            raise SettingsError(f"seeds expected a number from 1 to 100, got {seeds}", setting="seeds")
        return tuple(range(seeds))
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Iterable):
        raise SettingsError(
            f"seeds expected how many, such as 3, or which, such as [0, 7], got {seeds!r}", setting="seeds"
        )
    numbers = tuple(seeds)
    are_whole = all(isinstance(seed, Integral) and 0 <= seed < 2**32 for seed in numbers)
    if not numbers or len(set(numbers)) < len(numbers) or not are_whole:
        raise SettingsError(
            f"seeds expected different whole numbers in [0, 2**32), at least one, got {numbers}", setting="seeds"
        )
    return tuple(map(int, numbers))


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
