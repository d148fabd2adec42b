"""Real architectures: every ordinary pair is folded; `benchmarks/foldings.py` has all of them."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.libraries import library
from tests.surgery.test_fold import report

from batchnorm.surgery import convert, fold


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("mobilenet_v3_small", 34), ("shufflenet_v2_x0_5", 56)])
def test_torchvision_models_fold_wholly(name: str, count: int) -> None:
    model = library("torchvision").models.get_model(name, weights=None)
    found = report(fold(model, torch.randn(2, 3, 64, 64)))
    assert (len(found.folded), found.refused, found.alone) == (count, (), ())
    assert found.measured.fits


@pytest.mark.parametrize(("name", "size", "count"), [("efficientnet_lite0", 64, 49), ("levit_128s", 224, 52)])
def test_timm_models_fold_wholly(name: str, size: int, count: int) -> None:
    model = library("timm").create_model(name)
    found = report(fold(model, torch.randn(2, 3, size, size)))
    assert (len(found.folded), found.refused, found.alone) == (count, (), ())


def test_a_converted_model_folds_with_its_residuals() -> None:
    model = library("torchvision").models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    convert(model)
    folded = fold(model, x)
    assert len(report(folded).folded) == 20
    torch.testing.assert_close(folded(x), expected, rtol=1e-3, atol=1e-4)
