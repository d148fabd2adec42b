"""The browser that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.report.browser import Browser, find_chromium

SCREENSHOTS = Path(__file__).parents[2] / "build" / "report"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium; without one the tests skip, but never where CI is to see them run."""
    executable = find_chromium()
    if executable is None:
        missing = "no `chromium` on the PATH: install it (Debian: apt-get install chromium) to run the browser tests"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Browser(executable) as running:
        yield running


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder where pictures of the pages are left to be looked at."""
    return SCREENSHOTS
