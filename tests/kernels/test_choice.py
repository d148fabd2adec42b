"""Which kernels run: what is asked for by name or environment variable, what cannot run, and that CI has them all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from tests.kernels.parity import kernels

import batchnorm.kernels
from batchnorm.errors import SettingsError
from batchnorm.functional import batch_norm
from batchnorm.kernels import choice

SETS = kernels()[1:]
NAMES = "auto, native, spec, x86-64-v4, x86-64-v3, x86-64-v2, plain"

needs_native = pytest.mark.skipif(not SETS, reason="the native kernels were not built here")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What runs after a test is what ran before it."""
    with choice.using(choice.current().asked):
        yield


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has not asked yet."""
    monkeypatch.setattr(choice, "_choice", None)
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    return monkeypatch


@pytest.mark.skipif(not os.environ.get("CI"), reason="elsewhere a machine may have no compiler")
def test_ci_runs_the_native_kernels() -> None:
    """An installation without them is silent about it; CI must not be."""
    assert choice.use("auto").kernel == "native", choice.current().why


@needs_native
@pytest.mark.parametrize("name", SETS)
def test_each_instruction_set_runs_when_asked_for(name: str) -> None:
    assert choice.use(name) == choice.Choice(name, "native", name, "asked for")
    assert choice.native() is not None


@needs_native
@pytest.mark.parametrize("name", ["auto", "native"])
def test_best_instruction_set_runs_by_itself(name: str) -> None:
    assert choice.use(name) == choice.Choice(name, "native", SETS[0], "the best that this processor has")


def test_spec_runs_when_asked_for() -> None:
    assert choice.use("spec") == choice.Choice("spec", "spec", None, "asked for")
    assert choice.native() is None
    assert choice.layer_call is None


@pytest.mark.parametrize("name", ["", "fast", "AUTO", "x86_64_v3", "native "])
def test_unknown_name_is_refused_and_nothing_changes(name: str) -> None:
    choice.use("spec")
    with pytest.raises(SettingsError) as refused:
        choice.use(name)
    assert str(refused.value) == f"kernel expected one of {NAMES}; got {name!r}"
    assert choice.current().asked == "spec"


@needs_native
def test_instruction_set_of_another_processor_is_refused_and_nothing_changes() -> None:
    other = "plain" if "plain" not in SETS else "x86-64-v3"
    before = choice.current()
    with pytest.raises(SettingsError, match=f"kernel '{other}' cannot run on this processor, which has {SETS[0]}"):
        choice.use(other)
    assert choice.current() == before


@pytest.mark.parametrize("name", ["native", "x86-64-v2"])
def test_without_compiled_kernels_they_are_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchnorm.kernels._native", None)
    monkeypatch.delattr(batchnorm.kernels, "_native", raising=False)
    said = f"kernel '{name}' cannot run: the native kernels were not built when batchnorm was installed .*Use spec"
    with pytest.raises(SettingsError, match=said):
        choice.use(name)


def test_without_compiled_kernels_auto_is_spec_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchnorm.kernels._native", None)
    monkeypatch.delattr(batchnorm.kernels, "_native", raising=False)
    found = choice.use("auto")
    assert (found.kernel, found.instruction_set) == ("spec", None)
    assert found.why.startswith("the native kernels were not built")
    assert batch_norm(torch.randn(4, 3), None, None, training=True).isfinite().all()


def test_processor_older_than_any_instruction_set_runs_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(instruction_sets=list)
    monkeypatch.setitem(sys.modules, "batchnorm.kernels._native", old)
    monkeypatch.setattr(batchnorm.kernels, "_native", old, raising=False)
    assert choice.use("auto").kernel == "spec"
    assert "none of the instruction sets" in choice.current().why


def test_using_lasts_as_long_as_its_block_even_when_that_fails() -> None:
    choice.use("auto")
    with choice.using("spec") as found:
        assert choice.current() is found
    assert choice.current().asked == "auto"
    with pytest.raises(SettingsError), choice.using("spec"):
        choice.use("fastest")
    assert choice.current().asked == "auto"


@pytest.mark.parametrize("name", ["auto", "spec", *SETS])
def test_environment_variable_is_read_at_the_first_use(name: str, unread: pytest.MonkeyPatch) -> None:
    unread.setenv(choice.VARIABLE, name)
    assert choice.current().asked == name
    unread.setenv(choice.VARIABLE, "spec")
    assert choice.current().asked == name


@pytest.mark.parametrize("value", [None, ""])
def test_absent_or_empty_environment_variable_is_auto(value: str | None, unread: pytest.MonkeyPatch) -> None:
    if value is not None:
        unread.setenv(choice.VARIABLE, value)
    assert choice.current().asked == "auto"


def test_environment_variable_is_called_by_its_name_in_errors(unread: pytest.MonkeyPatch) -> None:
    unread.setenv(choice.VARIABLE, "fastest")
    with pytest.raises(SettingsError) as refused:
        choice.current()
    assert str(refused.value) == f"BATCHNORM_KERNEL expected one of {NAMES}; got 'fastest'"


def test_choosing_is_public_and_imports_no_torch() -> None:
    code = (
        "import sys, batchnorm\n"
        "assert 'batchnorm.kernels' not in sys.modules\n"
        "from batchnorm.kernels import current, use, using\n"
        "assert 'torch' not in sys.modules\n"
        "assert use('spec') == current()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
