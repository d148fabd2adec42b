"""The command line: one command per file, each parses, calls and renders. Nothing heavy is imported for --help."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    from batchnorm.cli.direct import carry_out, is_direct

    if is_direct(sys.argv[1:]):
        sys.exit(carry_out(sys.argv[1:]))
    from batchnorm.cli.app import run

    run()


__all__ = ["main"]
