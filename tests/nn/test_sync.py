"""SyncBatchNorm in two and in four real processes against BatchNorm in one on all their rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from tests.nn.sync_ranks import (
    CASES,
    PLAIN,
    Case,
    layer_of,
    network,
    solve,
    train,
    training_batches,
    whole_batch,
    work,
)
from torch import Tensor, nn
from torch.testing import assert_close

import batchnorm
from batchnorm.nn import BatchNorm1d, SyncBatchNorm1d

Found = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 4], ids=["two processes", "four processes"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each process found."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(request.param)]


def alone(case: Case, world: int) -> dict[str, Tensor]:
    """One process on the whole batch, in float64 from the same numbers."""
    wide = {name: t.double() if t.is_floating_point() else t for name, t in whole_batch(case, world).items()}
    return solve(layer_of(case, PLAIN).double(), case, wide)


@pytest.mark.parametrize("name", list(CASES))
def test_processes_together_equal_one_with_all_rows(found: Found, name: str) -> None:
    case, expected = CASES[name], alone(CASES[name], len(found))
    answers = [process[name] for process in found]
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}[case.dtype]

    def near(ours: Tensor, theirs: Tensor, what: str) -> None:
        size = max(1.0, float(theirs.abs().max()))
        assert_close(ours.double(), theirs.double(), rtol=0, atol=tolerance * size, msg=lambda m: f"{what}: {m}")

    for rows in ("y", "x", *(["residual"] if case.residual else [])):
        near(torch.cat([a[rows] for a in answers]), expected[rows], rows)
        assert [len(a[rows]) for a in answers] == case.split(len(found))
        assert all(a[rows].dtype == case.dtype for a in answers)
    for parameter in ("weight", "bias") if case.affine else ():
        near(sum(a[parameter].double() for a in answers), expected[parameter], parameter)
    for statistic in ("running_mean", "running_var"):
        for a in answers:
            assert_close(a[statistic], answers[0][statistic], rtol=0, atol=0)
            near(a[statistic], expected[statistic], statistic)
    assert all(a["num_batches_tracked"] == 2 for a in answers)


def test_gradients_of_gamma_and_beta_are_each_processs_own_sums(found: Found) -> None:
    case = CASES["an empty process"]
    batch, sizes = whole_batch(case, len(found)), case.split(len(found))
    x = batch["x"].double()
    z_norm = (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5)
    dy = batch["dy"].double()
    for process, z, g in zip(found, z_norm.split(sizes), dy.split(sizes), strict=True):
        assert_close(process["an empty process"]["weight"].double(), (z * g).sum(0), rtol=0, atol=1e-5)
        assert_close(process["an empty process"]["bias"].double(), g.sum(0), rtol=0, atol=1e-5)


def test_network_in_ddp_trains_as_one_process_would(found: Found) -> None:
    """Unequal and empty shares of the rows, three steps."""
    sizes = CASES["rows"].split(len(found))
    expected = train(network(BatchNorm1d), training_batches(sizes), 1 / sum(sizes))
    for process in found:
        for name, value in expected.items():
            assert_close(process["trained"][name], value, rtol=0, atol=3e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_checkpointed_and_compiled_layers_are_synchronized_too(found: Found) -> None:
    for process in found:
        assert_close(process["checkpointed"]["x"], process["rows"]["x"], rtol=0, atol=1e-6)
        assert process["checkpointed"]["counted"] == 1
        assert_close(process["compiled"]["x"], process["rows"]["x"], rtol=0, atol=1e-6)
        assert_close(process["compiled"]["running_var"], found[0]["compiled"]["running_var"], rtol=0, atol=0)


def test_one_value_in_all_processes_is_refused_in_each(found: Found) -> None:
    for process in found:
        assert process["one value"].startswith("Expected more than 1 value per channel when training, got input size")
        assert process["one value"].endswith("one in all processes together")


def test_process_group_says_who_shares_a_batch(found: Found) -> None:
    together = torch.cat([process["group"]["x"] for process in found[1:]])
    assert_close(found[0]["group"]["running_mean"], 0.1 * found[0]["group"]["x"].mean(0))
    for process in found[1:]:
        assert_close(process["group"]["running_mean"], 0.1 * together.mean(0))
    for process in found:
        assert process["group"]["said"].startswith(
            "SyncBatchNorm1d is called in a process that is not in its process_g"
        )


def test_layer_alone_is_batch_norm_to_the_bit() -> None:
    layer, plain = SyncBatchNorm1d(3, activation="relu"), BatchNorm1d(3, activation="relu")
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert_close(layer(x), plain(x), rtol=0, atol=0)
    assert_close(layer.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert_close(layer.eval()(x), plain.eval()(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SyncBatchNorm1d(3)(x[:1])


def test_layer_is_torchs_in_keys_and_type_and_pickles_without_a_group() -> None:
    layer = SyncBatchNorm1d(3)
    assert isinstance(layer, nn.BatchNorm1d)
    assert list(layer.state_dict()) == list(nn.SyncBatchNorm(3).state_dict())
    assert pickle.loads(pickle.dumps(layer)).process_group is None
    layer.process_group = "a group"
    with pytest.raises(TypeError, match=r"cannot be pickled: save its state_dict\(\), or"):
        pickle.dumps(layer)
    assert batchnorm.SyncBatchNorm1d is SyncBatchNorm1d
