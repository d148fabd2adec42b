"""Reports: records in, one self-contained HTML file out; the only place that writes HTML."""

from __future__ import annotations

from batchnorm.report.training_report import render, write

__all__ = ["render", "write"]
