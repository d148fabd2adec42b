"""What is to be trained, and on what: every reason not to begin is found here, before anything is written."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace

import numpy as np

from batchnorm.data import Prepared
from batchnorm.errors import SettingsError, quoted
from batchnorm.training.assemble import find_device, refuse_misfits
from batchnorm.training.examples import Examples, counted, refuse_huge, refuse_vanishing
from batchnorm.training.objective import Task
from batchnorm.training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and on what.

    Attributes:
        data: encoded training, validation and test rows.
        settings: of the main network.
        compare: also train the same network without normalization.
        goal: the validation metric whose first reaching is counted in steps; None: not counted.
    """

    data: Prepared
    settings: Settings
    compare: bool = False
    goal: float | None = None

    def __post_init__(self) -> None:
        """Raise where settings and data do not go together, before anything is written or trained.

        Raises:
            SettingsError: a choice that these data do not allow.
            DataError: numbers that cannot be computed with.
        """
        if self.compare and not self.is_normalized:
            got = "--norm none" if self.settings.hidden else "--hidden none"
            raise SettingsError(
                f"--compare expected a network with batch normalization, got {got}: leave one of them out"
            )
        if self.goal is not None and not math.isfinite(self.goal):
            raise SettingsError(f"goal expected a finite number, such as 0.95, got {self.goal}", setting="goal")
        find_device(self.settings.device)
        refuse_misfits(counted(self.train), self.settings, task=self.task, outputs=self.outputs)
        data, schema = self.data, self.data.schema
        for name, values in zip(schema.feature_names, data.x_train.T, strict=True):
            remedy = "repair it, leave its row out, mark it as missing with --na, or change the column's unit"
            refuse_huge(values, f"{data.name}: column {quoted(name)}", remedy=remedy, numbers=data.numbers_train)
        if self.task == "regression":
            what = f"{data.name}: target {quoted(schema.target.name)}"
            remedy = "repair it, leave its row out, or change the target's unit"
            refuse_huge(data.y_train, what, remedy=remedy, numbers=data.numbers_train)
            refuse_vanishing(data.y_train, what)

    @property
    def task(self) -> Task:
        """What the target asks for."""
        return "classification" if self.data.schema.target.kind == "class" else "regression"

    @property
    def is_normalized(self) -> bool:
        """Whether the main network has a layer of batch normalization."""
        return self.settings.norm is not None and bool(self.settings.hidden)

    @property
    def outputs(self) -> int:
        """One per class, or one."""
        return len(self.data.schema.classes) or 1

    @property
    def train(self) -> Examples:
        """The training rows."""
        return Examples(self.data.x_train, self.data.y_train, self.data.w_train)

    @property
    def networks(self) -> tuple[tuple[str, Settings], ...]:
        """(label, settings) of each network to train."""
        label = "with batch normalization" if self.is_normalized else "without normalization"
        if not self.settings.hidden:
            label = "logistic regression" if self.task == "classification" else "linear regression"
        twin = (("without normalization", replace(self.settings, norm=None)),) if self.compare else ()
        return ((label, self.settings), *twin)

    def identity(self, settings: Settings) -> str:
        """A digest of data and settings: two runs that share it compute the same."""
        digest = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode())
        rows = (self.data.x_train, self.data.y_train, self.data.x_valid, self.data.y_valid)
        weights = (w for w in (self.data.w_train, self.data.w_valid) if w is not None)
        for array in (*rows, *weights):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
