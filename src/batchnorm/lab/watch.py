"""What an experiment tells whoever watches."""

from __future__ import annotations


class Watch:
    """Watches experiments; every method may be overridden, none must be."""

    def began(self, name: str) -> None:
        """The experiment `name` begins."""

    def expected(self, cases: int) -> None:
        """So many more cases are to be measured."""

    def advanced(self) -> None:
        """One case is done."""

    def ended(self, verdict: str) -> None:
        """The experiment is over; not said where it raised."""
