"""torchvision, timm and transformers for tests and benchmarks: models alone, without weights."""

from __future__ import annotations

import importlib
import importlib.util
import os
import types

import pytest
import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def library(name: str) -> types.ModuleType:
    """A library of models; the test is skipped where it is not installed, but fails under CI, which installs it."""
    if importlib.util.find_spec(name) is None:
        reason = f"{name} is not installed: make .venv/installed-models"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return loaded(name)


def loaded(name: str) -> types.ModuleType:
    """The library, imported beside a torch that torchvision's compiled operators need not fit.

    torchvision's wheel on PyPI is built for CUDA. Beside a CPU torch its operators do not load, and its import, with
    that of the others, stops at the first that it describes; a schema is all that it asks for.
    """
    if name != "torchvision" and importlib.util.find_spec("torchvision") is not None:
        loaded("torchvision")
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", _NMS)
    return importlib.import_module(name)
