"""Trained models and small tables that several tests share; every run of a test has folders of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.cli.interruptions import TRAINING
from tests.cli.program import batchnorm

HOUSES = "area,rooms,garden,town,price"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves where it runs must not meet another test's."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with numbers (some missing), a boolean, a category and a price."""
    random = np.random.default_rng(0)
    lines = [HOUSES]
    for row in range(120):
        area, rooms = random.uniform(40, 200), int(random.integers(1, 7))
        town = ("Ulm", "Köln", "Bonn")[row % 3]
        garden = ("yes", "no")[int(random.integers(2))]
        price = 1000 * area + 5000 * rooms + (20_000 if garden == "yes" else 0) + 30_000 * (row % 3)
        lines.append(f"{area:.1f},{'' if row % 10 == 7 else rooms},{garden},{town},{price:.0f}")
    path = tmp_path_factory.mktemp("tables") / "houses.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def wine_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three wines by thirteen numbers."""
    out = tmp_path_factory.mktemp("wine") / "run"
    assert batchnorm("train", "wine", "--hidden", "12", "--epochs", "15", "--out", out, "--device", "cpu").code == 0
    return out / "model.safetensors"


@pytest.fixture(scope="session")
def house_model(houses: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A price by columns of every kind."""
    out = tmp_path_factory.mktemp("houses") / "run"
    arguments = ("train", houses, "--target", "price", "--hidden", "12", "--epochs", "80", "--out", out)
    assert batchnorm(*arguments, "--device", "cpu").code == 0
    return out / "model.safetensors"


@pytest.fixture(scope="session")
def iris_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table without a header line: three numbers and, last, a class."""
    random = np.random.default_rng(1)
    rows = [(*np.round(random.normal(size=3) + row % 2, 3), ("left", "right")[row % 2]) for row in range(60)]
    path = tmp_path_factory.mktemp("tables") / "points.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def headless_model(iris_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose columns are known by number."""
    out = tmp_path_factory.mktemp("points") / "run"
    arguments = ("train", iris_like, "--no-header", "--target", "last", "--hidden", "none", "--epochs", "20")
    assert batchnorm(*arguments, "--out", out).code == 0
    return out / "model.safetensors"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of TRAINING that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert batchnorm(*TRAINING, "--out", out).code == 0
    return out


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that nothing can be written to."""
    with mounted(tmp_path / "disk", "ro,size=64k") as folder:
        yield folder


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`; skips the test where mounting is not allowed."""
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("needs Linux to mount a file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
