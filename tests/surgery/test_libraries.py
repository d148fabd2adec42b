"""A missing library is no reason to pass under CI."""

from __future__ import annotations

import pytest
from tests.surgery.libraries import library


def test_missing_library_fails_under_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"^no_such_library is not installed: make"):
        library("no_such_library")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match=r"^no_such_library is not installed: make"):
        library("no_such_library")
