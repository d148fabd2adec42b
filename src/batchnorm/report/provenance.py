"""How the run was set up: settings, versions, seed: what someone needs to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchnorm.report import wording
from batchnorm.report.page import Section
from batchnorm.report.tables import table_html
from batchnorm.training.record import Record


def provenance(record: Record) -> Section:
    """Settings on one side, data, seed and versions on the other."""
    settings = table_html("Settings", ["setting", "value"], [[name, setting(v)] for name, v in record.settings.items()])
    data = {
        "data": wording.shorten(record.data_name, 400),
        "target": wording.shorten(record.target_name, 400),
        "training rows": wording.count(record.rows_train),
        "validation rows": wording.count(record.rows_valid),
        "test rows": wording.count(record.rows_test),
        "features": wording.count(record.features),
        "seed": str(record.seed),
    }
    tables = [settings] if record.settings else []
    tables.append(_pairs("Data and seed", ["", ""], data))
    if record.versions:
        tables.append(_pairs("Versions", ["package", "version"], record.versions))
    body = f'<div class="columns">{"".join(tables)}</div>'
    return Section("setup", "Settings, versions, seed", "", body, short="Settings")


def _pairs(caption: str, header: Sequence[str], values: Mapping[str, str]) -> str:
    return table_html(caption, header, [[key, str(value)] for key, value in values.items()])


def setting(value: Any) -> str:
    """A setting as a person would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, float):
        return wording.number(value, digits=6)
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(entry)}" for key, entry in value.items())
    return str(value)
