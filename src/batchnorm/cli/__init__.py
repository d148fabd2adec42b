"""The command line: one command per file, each parses, calls and renders. Nothing heavy is imported for --help."""

from __future__ import annotations

from batchnorm.cli.app import main

__all__ = ["main"]
