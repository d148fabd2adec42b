"""Installing where nothing can be compiled: it succeeds, says so once, and what is installed runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "csrc")
NOTE = "batchnorm was installed without its native kernels"
TRAIN = """
import torch, batchnorm
from batchnorm.kernels import current
layer = batchnorm.BatchNorm2d(3)
layer(torch.randn(4, 3, 5, 5, requires_grad=True)).sum().backward()
assert layer.weight.grad is not None
print(batchnorm.__file__, current().kernel, current().why, sep="\\n")
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A wheel built with a compiler that is not there, and what pip -v said."""
    pytest.importorskip("scikit_build_core", reason="building without isolation needs the building tools here")
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", "out", "."]
    missing = str(folder / "no-such-compiler")
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"CXX": missing, "CC": missing}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "out").glob("*.whl")
    return wheel, done.stdout + done.stderr


def test_installing_without_a_compiler_succeeds_with_one_note(built: tuple[Path, str]) -> None:
    _, said = built
    assert said.count(NOTE) == 1
    assert "batchnorm env" in said


def test_what_is_installed_without_a_compiler_runs_and_says_why(built: tuple[Path, str], tmp_path: Path) -> None:
    wheel, _ = built
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ("--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel)
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    # Everything else from here; .pth files there, the editable installation among them, do not apply.
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (own / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run([python, "-c", TRAIN], cwd=tmp_path, capture_output=True, text=True, check=True)
    where, kernel, why = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert kernel == "spec"
    assert why.startswith("the native kernels were not built when batchnorm was installed")
    shown = subprocess.run([python, "-m", "batchnorm", "env"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "kernel             spec\n" in shown.stdout
