"""Models that change modes on their way, that begin in a wrapper's, or whose layers lean on their old statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import batchnorm
from batchnorm import BatchRenorm1d, adapt, recalibrate


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
@pytest.mark.parametrize("sequential", [False, True])
def test_calls_that_change_the_mode_are_measured_as_others(kind: type[nn.BatchNorm1d], sequential: bool) -> None:
    """As encoders' own methods do, which predict."""
    model, rows = nn.Sequential(kind(4)).eval(), torch.randn(256, 4) + 5

    def encode(model: nn.Module, batch: torch.Tensor) -> object:
        return model.eval()(batch)

    recalibrate(model, rows.split(32), sequential=sequential, call=encode)
    assert torch.allclose(model[0].running_mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, rows.var(0, correction=0), rtol=1e-5)
    other = nn.Sequential(kind(4)).eval()
    adapt(other, iter(rows.split(128)), prior=0, guard=False, call=encode)
    assert torch.allclose(other[0].running_mean, rows.mean(0), atol=1e-5)


def test_batch_renormalization_upstream_normalizes_by_the_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(BatchRenorm1d(4, r_max=3.0, d_max=5.0) for _ in range(2)))
    for _ in range(60):
        model(2 * torch.randn(64, 4) + 3)
    rows = torch.randn(512, 4)
    recalibrate(model, rows.split(128))
    found = model.eval()[0](rows)
    assert torch.allclose(model[1].running_var, found.var(0), rtol=0.05)
    assert model[0].r_max == 3.0


def test_model_in_eval_mode_inside_a_wrapper_is_recalibrated() -> None:
    rows = torch.randn(64, 4) + 5
    for wrap in (nn.DataParallel, AveragedModel):
        model = wrap(nn.Sequential(nn.BatchNorm1d(4)).eval())
        assert [layer.name for layer in recalibrate(model, [rows]).layers] == ["module.0"]
        assert (model.training, model.module.training) == (True, False)
