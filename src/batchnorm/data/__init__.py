"""Data: tables and arrays in, a schema learnt from the training rows, numeric matrices out. No torch in here."""

from __future__ import annotations

from batchnorm.data.builtin import BUILTIN
from batchnorm.data.column import Column, Label, Target
from batchnorm.data.inputs import Inputs, read_features
from batchnorm.data.learn import learn_schema
from batchnorm.data.prepare import Prepared, prepare
from batchnorm.data.read import read
from batchnorm.data.schema import Schema
from batchnorm.data.split import Split, split
from batchnorm.data.table import Table
from batchnorm.data.task import Task

__all__ = [
    "BUILTIN",
    "Column",
    "Inputs",
    "Label",
    "Prepared",
    "Schema",
    "Split",
    "Table",
    "Target",
    "Task",
    "learn_schema",
    "prepare",
    "read",
    "read_features",
    "split",
]
