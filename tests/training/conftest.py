"""Plans on built-in data that several tests share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchnorm.data import Prepared, prepare
from batchnorm.training.plan import Plan
from batchnorm.training.settings import Settings

QUICK = Settings(hidden=(8, 6), epochs=4, batch_size=32, dropout=0.2, device="cpu")


@pytest.fixture(scope="session")
def wine_rows() -> Prepared:
    return prepare("wine")


@pytest.fixture(scope="session")
def wine(wine_rows: Prepared) -> Plan:
    """Two small networks on 178 wines, twenty steps each."""
    return Plan(wine_rows, QUICK, compare=True, goal=0.9)


@pytest.fixture(scope="session")
def diabetes() -> Plan:
    """One small network on 442 patients, a number to predict."""
    return Plan(prepare("diabetes"), replace(QUICK, epochs=3))
