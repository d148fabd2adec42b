"""Records that several tests look at, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from batchnorm.lab import Experiment, Material, Record


@pytest.fixture(scope="session")
def digits() -> Material:
    """Digits, read and split once per seed for all experiments."""
    return Material("digits")


@pytest.fixture(scope="session")
def carried_out(digits: Material) -> Callable[..., Record]:
    """An experiment's record on digits by its name; the same call is carried out once."""

    @cache
    def once(name: str, **options: Any) -> Record:
        return Experiment(name)(digits, **options)

    return once
