"""The report of a training run: which sections it has, in which order, and what stands above them."""

from __future__ import annotations

from pathlib import Path

from batchnorm.report import wording
from batchnorm.report.activations import activations
from batchnorm.report.learning_curves import learning_curves
from batchnorm.report.page import page, write_page
from batchnorm.report.parameters import parameters
from batchnorm.report.predictions import mistakes, singles
from batchnorm.report.provenance import provenance
from batchnorm.report.running_statistics import running_statistics
from batchnorm.report.summary import summary
from batchnorm.report.tables import facts_html, paragraph_html
from batchnorm.report.verdict import verdict
from batchnorm.training.record import Record


def render(record: Record) -> str:
    """The report as one self-contained HTML document.

    It opens offline, in the dark and on a phone. Sections without anything to show are left out: a run without
    normalization has no gamma and beta, a network without hidden layers no activations.

    >>> record = Record("Digits", "digits", 1293, 144, 360, 64, "classification", "accuracy", "digit", None, (), ())
    >>> render(record)[:15]
    '<!doctype html>'
    """
    sections = [
        summary(record) if record.runs else None,
        learning_curves(record),
        activations(record),
        parameters(record),
        running_statistics(record),
        mistakes(record),
        singles(record),
        provenance(record),
    ]
    return page(
        wording.shorten(record.title, 120),
        eyebrow="Training report",
        header=_header(record),
        sections=[section for section in sections if section is not None],
        footer=_footer(record),
    )


def write(record: Record, path: Path | str) -> None:
    """Render `record` into the file `path`; raises OutputError where it cannot be written."""
    write_page(render(record), path)


def _header(record: Record) -> str:
    return paragraph_html(" ".join(verdict(record)), kind="verdict") + facts_html(
        {
            "Data": wording.shorten(record.data_name, 80),
            "Target": wording.shorten(record.target_name, 80),
            "Features": wording.count(record.features),
            "Training rows": wording.count(record.rows_train),
            "Validation rows": wording.count(record.rows_valid),
            "Test rows": wording.count(record.rows_test),
        }
    )


def _footer(record: Record) -> str:
    version = record.versions.get("batchnorm", "")
    return (
        f"Made by batchnorm {version}".rstrip() + ". This file is complete in itself: it asks nothing of any network."
    )
