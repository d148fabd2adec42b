"""The record says in one line each what was done, where, and why not."""

from __future__ import annotations

import dataclasses

import pytest
from tests.surgery.small import rows
from torch import nn

from batchnorm import convert
from batchnorm.surgery import Conversion, Entry, Reversion


def _model() -> nn.Module:
    body = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()) for _ in range(5)]
    return nn.Sequential(*body, nn.BatchNorm1d(3), nn.Hardtanh(), nn.BatchNorm1d(3, momentum=2.0))


def test_lines_group_what_differs_in_names_alone() -> None:
    assert str(convert(_model())).splitlines() == [
        "converted 6 layers, fused 5, left 1 layer alone",
        "converted   6 x torch.nn.BatchNorm1d -> batchnorm.BatchNorm1d: same parameters and buffers [0.1, 1.1, 2.1 and "
        "3 more]",
        "fused       5 x relu: neighbours in Sequential [0.1, 1.1, 2.1 and 2 more]",
        "not fused   1 x Hardtanh after it: Hardtanh(min_val=-1.0, max_val=1.0) is none of the activations that a "
        "layer can end in [5]",
        "left alone  1 x torch.nn.BatchNorm1d: has settings that are refused here: BatchNorm1d momentum expected a "
        "number in [0, 1], the weight of the new batch, or None for the plain average; got 2.0 [7]",
    ]


def test_counts_are_those_of_the_entries() -> None:
    record = convert(_model(), rows())
    assert record.counts == {"converted": 6, "fused": 5, "not_fused": 1, "left_alone": 1}
    assert {entry.name for entry in record.converted} == {"0.1", "1.1", "2.1", "3.1", "4.1", "5"}


def test_model_itself_has_a_name_in_the_text() -> None:
    assert "(the model)" in str(convert(nn.BatchNorm1d(3)))


@pytest.mark.parametrize("record", [Conversion((), (), (), ()), Reversion(()), Entry("a", "b", "c")])
def test_record_is_frozen(record: object) -> None:
    field = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, ())
