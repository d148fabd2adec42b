"""revert takes back exactly what convert did; an error on the way takes it back too."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.surgery.small import assert_same_step, fields, perceptron, rows
from torch import nn

from batchnorm import BatchNorm1d, convert, revert
from batchnorm.surgery import changes


def test_everything_is_as_it_was() -> None:
    model = perceptron()
    before = fields(model)
    convert(model)
    record = revert(model)
    assert fields(model) == before
    assert sorted(entry.name for entry in record.restored) == ["1", "2", "4", "5"]
    assert str(record).splitlines()[0] == "restored 4 modules"


def test_parameters_and_statistics_keep_what_was_learnt() -> None:
    model, reference = perceptron().double(), perceptron().double()
    convert(model)
    for m in (model, reference):
        m(rows().double()).sum().backward()
        with torch.no_grad():
            m[1].weight.sub_(1.0)
    revert(model)
    torch.testing.assert_close(model.state_dict(), reference.state_dict())
    assert_same_step(model, reference, rows())


def test_reverting_twice_changes_nothing_and_says_so() -> None:
    model = perceptron()
    convert(model)
    revert(model)
    before = fields(model)
    assert str(revert(model)) == "nothing to revert: no module of this model was converted"
    assert fields(model) == before


def test_model_that_was_never_converted_keeps_layers_of_ours() -> None:
    model = nn.Sequential(BatchNorm1d(3, activation="relu"), nn.Identity())
    before = fields(model)
    assert revert(model).restored == ()
    assert fields(model) == before


def test_convert_and_revert_and_convert_again() -> None:
    model, reference = perceptron(), perceptron()
    for _ in range(3):
        assert convert(model).counts == {"converted": 2, "fused": 2, "not_fused": 0, "left_alone": 0}
        assert_same_step(model, reference, rows())
        revert(model)
        assert_same_step(model, reference, rows())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_of_a_converted_model_can_be_reverted_without_touching_the_model(copied) -> None:  # type: ignore[no-untyped-def]
    model = perceptron()
    convert(model)
    before = fields(model)
    other = copied(model)
    revert(other)
    assert [type(m) for m in other] == [type(m) for m in perceptron()]
    assert fields(model) == before
    assert_same_step(other, model, rows())


def test_mode_stays_and_so_does_one_that_was_set_in_between() -> None:
    model = perceptron()
    convert(model)
    assert all(module.training for module in model.modules())
    revert(model)
    convert(model.eval())
    assert not any(module.training for module in model.modules())
    revert(model)
    convert(model.train())
    model.eval()
    revert(model)
    assert not any(module.training for module in model.modules())


def test_hooks_that_were_set_in_between_move_to_the_activation() -> None:
    model = perceptron()
    convert(model)
    seen: list[int] = []
    handle = model[2].register_forward_hook(lambda *args: seen.append(1))
    revert(model)
    model(rows())
    assert seen == [1]
    handle.remove()
    model(rows())
    assert seen == [1]


@pytest.mark.parametrize("number", range(6))
def test_error_halfway_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    model = perceptron().half()
    before = fields(model)
    calls = iter(range(100))
    become, remove = changes.Changes.become, changes.Changes.remove

    def failing(original):  # type: ignore[no-untyped-def]
        def change(*args, **kwargs):  # type: ignore[no-untyped-def]
            original(*args, **kwargs)
            if next(calls) == number:
                raise MemoryError("no more")

        return change

    monkeypatch.setattr(changes.Changes, "become", failing(become))
    monkeypatch.setattr(changes.Changes, "remove", failing(remove))
    with pytest.raises(MemoryError):
        convert(model)
    assert fields(model) == before


def test_error_in_a_second_convert_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perceptron()
    convert(model, fuse=False)
    before = fields(model)

    def fail(*args: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(changes.Changes, "remove", fail)
    with pytest.raises(MemoryError):
        convert(model)
    assert fields(model) == before
    revert(model)
    assert type(model[1]) is nn.BatchNorm1d
