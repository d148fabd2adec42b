"""recalibrate: the statistics of all values, on any model, from any loader, with the model left as found."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.statistics.small import LAYERS, everything, input_of, raising_after
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import batchnorm
from batchnorm import freeze, recalibrate
from batchnorm.errors import StatisticsWarning


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def one_layer() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(1))


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4), batchnorm.BatchNorm1d(4)
    )


def rows(count: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 1


class TestBesideUpdateBn:
    """What torch's update_bn does, and what should be done."""

    def test_rows_of_a_small_batch_weigh_as_much_as_others(self) -> None:
        batches = [column(*range(8)), column(8, 9)]
        theirs, ours = one_layer(), one_layer()
        update_bn(batches, theirs)
        recalibrate(ours, batches)
        assert theirs[0].running_mean.item() == 6.0
        assert ours[0].running_mean.item() == 4.5
        assert ours[0].running_var.item() == pytest.approx(np.var(range(10)))

    def test_variance_between_batches_counts(self) -> None:
        batches = [column(0, 2), column(100, 102)]
        theirs, ours = one_layer(), one_layer()
        update_bn(batches, theirs)
        recalibrate(ours, batches)
        assert theirs[0].running_var.item() == 2
        assert ours[0].running_var.item() == 2501

    def test_loader_that_raises_leaves_momentum_and_statistics(self) -> None:
        theirs, ours = one_layer(), one_layer()
        before = everything(ours)
        with pytest.raises(OSError, match=r"^disk$"):
            update_bn(raising_after([column(5, 6)], OSError("disk")), theirs)
        with pytest.raises(OSError, match=r"^disk$"):
            recalibrate(ours, raising_after([column(5, 6)], OSError("disk")))
        assert theirs[0].momentum is None
        assert theirs[0].running_mean.item() == 5.5
        assert everything(ours) == before

    def test_empty_loader_is_an_error(self) -> None:
        theirs, ours = (nn.Sequential(nn.BatchNorm1d(1)) for _ in range(2))
        for model in (theirs, ours):
            model[0].running_mean.fill_(7)
        update_bn([], theirs)
        with pytest.raises(ValueError, match=r"^recalibrate expected at least one batch, got none"):
            recalibrate(ours, [])
        assert theirs[0].running_mean.item() == 0
        assert ours[0].running_mean.item() == 7

    def test_average_is_what_they_compute(self) -> None:
        """Dropout, which they leave on, aside."""
        theirs = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4))
        ours = copy.deepcopy(theirs)
        batches = [rows(8, 1), rows(8, 2), rows(4, 3)]
        update_bn(batches, theirs)
        record = recalibrate(ours, batches, statistics="average")
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        assert record.statistics == "average"


class TestNumbers:
    @pytest.mark.parametrize("name", LAYERS)
    def test_statistics_are_those_of_all_values(self, name: str) -> None:
        layer = LAYERS[name]()
        x = input_of(layer, 23)
        recalibrate(nn.Sequential(layer), x.split(5))
        values = x.double().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(layer.running_mean, values.mean(1), rtol=1e-6)
        np.testing.assert_allclose(layer.running_var, values.var(1), rtol=1e-5)

    @pytest.mark.parametrize("size", [2, 7, 64])
    def test_first_layer_is_the_same_however_the_rows_are_cut(self, size: int) -> None:
        model = deep()
        recalibrate(model, rows().split(size))
        z = model[0](rows()).detach().double()
        torch.testing.assert_close(model[1].running_mean.double(), z.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), z.var(0, correction=0), rtol=1e-5, atol=1e-6)

    def test_layers_after_it_see_the_batch_normalized_and_no_dropout(self) -> None:
        model = deep()
        recalibrate(model, [rows()])
        z = torch.relu(nn.functional.batch_norm(model[0](rows()), None, None, *model[1].parameters(), training=True))
        expected = model[4](z).detach()
        torch.testing.assert_close(model[5].running_mean, expected.mean(0))
        torch.testing.assert_close(model[5].running_var, expected.var(0, correction=0))

    def test_sequential_feeds_each_layer_with_the_new_statistics(self) -> None:
        model = deep()
        recalibrate(model, rows().split(4), sequential=True)
        z = model.eval()[:5](rows()).detach()
        torch.testing.assert_close(model[5].running_mean, z.mean(0))
        torch.testing.assert_close(model[5].running_var, z.var(0, correction=0))

    def test_reused_layer_is_merged_over_its_calls(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, x: Tensor) -> Tensor:
                return self.norm(x) + self.norm(10 * x[:4])[:1]

        model = Twice()
        record = recalibrate(model, rows().split(16))
        seen = torch.cat([part for x in rows().split(16) for part in (x, 10 * x[:4])])
        torch.testing.assert_close(model.norm.running_mean, seen.mean(0))
        torch.testing.assert_close(model.norm.running_var, seen.var(0, correction=0))
        assert (record.batches, record.layers[0].batches, record.layers[0].values) == (4, 8, 80)

    def test_masked_positions_do_not_count(self) -> None:
        model, x, mask = nn.ModuleList([batchnorm.BatchNorm1d(3)]), rows(24), torch.arange(24) % 3 > 0
        batches = list(zip(x.split(8), mask.split(8), strict=True))
        recalibrate(model, batches, call=lambda model, batch: model[0](batch[0], mask=batch[1]))
        torch.testing.assert_close(model[0].running_mean, x[mask].mean(0))
        torch.testing.assert_close(model[0].running_var, x[mask].var(0, correction=0))

    def test_masked_images_count_positions(self) -> None:
        layer, x = batchnorm.BatchNorm2d(3), input_of(nn.BatchNorm2d(3), 6)
        mask = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(0)) > 0.4
        batches = list(zip(x.split(2), mask.split(2), strict=True))
        recalibrate(layer, batches, call=lambda model, batch: model(batch[0], mask=batch[1]))
        seen = x.permute(0, 2, 3, 1)[mask]
        torch.testing.assert_close(layer.running_mean, seen.mean(0))
        torch.testing.assert_close(layer.running_var, seen.var(0, correction=0))

    def test_rows_by_weight_count_as_often(self) -> None:
        layer, x = batchnorm.BatchNorm1d(3), rows(6)
        weights = torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0, 1.0])[:, None]
        recalibrate(layer, [(x, weights)], call=lambda model, batch: model.forward_weighted(*batch))
        seen = x.repeat_interleave(weights[:, 0].long(), 0)
        torch.testing.assert_close(layer.running_mean, seen.mean(0))
        torch.testing.assert_close(layer.running_var, seen.var(0, correction=0))

    @pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
    def test_last_batch_of_one_row_counts(self, kind: Callable[[int], nn.Module]) -> None:
        """With 1797 rows in batches of 4 there is one."""
        layer = kind(3)
        recalibrate(nn.Sequential(layer), rows(9).split(4))
        torch.testing.assert_close(layer.running_mean, rows(9).mean(0))
        torch.testing.assert_close(layer.running_var, rows(9).var(0, correction=0))

    def test_batches_of_one_row_alone_do_for_the_layer_that_they_reach_first(self) -> None:
        layer = batchnorm.BatchNorm1d(3)
        recalibrate(layer, rows(9).split(1))
        torch.testing.assert_close(layer.running_mean, rows(9).mean(0))
        torch.testing.assert_close(layer.running_var, rows(9).var(0, correction=0))

    @pytest.mark.parametrize("calls", [15, 16, 17, 100, 300])
    def test_number_of_batches_does_not_matter(self, calls: int) -> None:
        layer, x = nn.BatchNorm1d(3), rows(2 * calls)
        record = recalibrate(layer, x.split(2))
        torch.testing.assert_close(layer.running_mean, x.mean(0))
        torch.testing.assert_close(layer.running_var, x.var(0, correction=0))
        assert record.batches == calls

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
    def test_half_precision_is_added_up_in_full(self, kind: Callable[[int], nn.Module], dtype: torch.dtype) -> None:
        layer = kind(3).to(dtype)
        x = rows(512).to(dtype)
        parameters = dict(layer.named_parameters())
        recalibrate(layer, x.split(16))
        kept = layer.running_mean.dtype
        torch.testing.assert_close(layer.running_mean, x.double().mean(0).to(kept), rtol=1e-6, atol=0)
        torch.testing.assert_close(layer.running_var, x.double().var(0, correction=0).to(kept), rtol=1e-5, atol=0)
        assert all(p is parameters[name] and p.dtype == dtype for name, p in layer.named_parameters())

    def test_statistics_that_the_buffers_cannot_hold_are_said(self) -> None:
        layer = nn.BatchNorm1d(3).half()
        with pytest.warns(StatisticsWarning, match="float16 cannot hold the new statistics"):
            record = recalibrate(layer, (rows(512) * 400).half().split(16))
        record.undo()
        assert bool((layer.running_var == 1).all())

    def test_far_from_zero_the_variance_keeps_its_digits(self) -> None:
        x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)) + 3000
        layer = nn.BatchNorm1d(1)
        recalibrate(layer, x.split(8))
        assert layer.running_var.item() == pytest.approx(float(x.double().var(correction=0)), rel=1e-4)


class TestBatches:
    """Whatever a loader yields."""

    EXPECTED = rows().mean(0)

    @pytest.mark.parametrize(
        "batches",
        [
            rows().split(16),
            [(x, torch.zeros(16)) for x in rows().split(16)],
            [[x, torch.zeros(16)] for x in rows().split(16)],
            DataLoader(TensorDataset(rows(), torch.zeros(64)), batch_size=16, shuffle=True),
            DataLoader(rows(), batch_size=10),
            (x for x in rows().split(16)),
        ],
        ids=["tensors", "tuples", "lists", "loader", "loader of tensors", "generator"],
    )
    def test_first_element_goes_to_the_model(self, batches: Any) -> None:
        layer = nn.BatchNorm1d(3)
        recalibrate(nn.Sequential(layer), batches)
        torch.testing.assert_close(layer.running_mean, self.EXPECTED)

    def test_dictionary_goes_to_the_model_as_it_is(self) -> None:
        class ByName(nn.BatchNorm1d):
            def forward(self, input: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
                return super().forward(input["x"])

        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, batch: dict[str, Tensor]) -> Tensor:
                return self.norm(batch["x"])

        model = Outer()
        recalibrate(model, [{"x": x, "y": 3} for x in rows().split(16)])
        torch.testing.assert_close(model.norm.running_mean, self.EXPECTED)

    def test_call_says_otherwise(self) -> None:
        model = deep()
        batches = [{"input": x} for x in rows().split(16)]
        recalibrate(model, batches, call=lambda model, batch: model(**batch))
        torch.testing.assert_close(model[1].running_mean, model[0](rows()).mean(0).detach())

    def test_stream_without_a_length_is_read_once(self) -> None:
        class Stream(IterableDataset[Tensor]):
            def __iter__(self) -> Iterator[Tensor]:
                return iter(rows())

        layer = nn.BatchNorm1d(3)
        assert recalibrate(layer, DataLoader(Stream(), batch_size=16)).batches == 4
        torch.testing.assert_close(layer.running_mean, self.EXPECTED)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
    def test_values_that_are_not_finite_are_left_out_with_their_batch(self, kind: Any, bad: float) -> None:
        layer, x = kind(3), rows(32)
        x[3, 1] = bad
        with pytest.warns(
            StatisticsWarning, match=r"^recalibrate: up to 1 batches are not finite in some channels of 1"
        ):
            record = recalibrate(nn.Sequential(layer), x.split(8))
        torch.testing.assert_close(layer.running_mean[[0, 2]], x[:, [0, 2]].mean(0))
        torch.testing.assert_close(layer.running_mean[1], x[8:, 1].mean(0))
        torch.testing.assert_close(layer.running_var[1], x[8:, 1].var(0, correction=0))
        assert record.layers[0].refused == 1
        assert layer._has_warned is False if hasattr(layer, "_has_warned") else True

    def test_channel_that_is_never_finite_keeps_what_it_had(self) -> None:
        layer, x = nn.BatchNorm1d(3), rows(32)
        x[:, 1] = float("nan")
        with pytest.warns(StatisticsWarning, match="^recalibrate: up to 4 batches"):
            recalibrate(layer, x.split(8))
        assert (layer.running_mean[1], layer.running_var[1]) == (0, 1)
        torch.testing.assert_close(layer.running_mean[0], x[:, 0].mean())

    def test_statistics_that_are_nan_are_cured(self) -> None:
        layer = batchnorm.BatchNorm1d(3)
        layer.running_var.fill_(float("nan"))
        layer.running_mean.fill_(float("inf"))
        recalibrate(layer, rows().split(16))
        torch.testing.assert_close(layer.running_mean, self.EXPECTED)

    @pytest.mark.parametrize("batches", [[torch.empty(0, 3)], [torch.full((4, 3), float("nan"))], [rows(1)]])
    def test_batches_that_bring_nothing_are_an_error(self, batches: list[Tensor]) -> None:
        layer = nn.BatchNorm1d(3)
        before = everything(layer)
        with pytest.raises(ValueError, match=r"^recalibrate expected batches that bring two finite values or more"):
            recalibrate(layer, batches)
        assert everything(layer) == before


class TestLeftAlone:
    def test_layer_that_freeze_froze(self) -> None:
        model = deep()
        freeze(model, "1")
        before = copy.deepcopy(model[1].state_dict())
        record = recalibrate(model, rows().split(16))
        torch.testing.assert_close(model[1].state_dict(), before, rtol=0, atol=0)
        assert ([layer.name for layer in record.layers], record.frozen) == (["5"], ("1",))
        expected = model.eval()[:5](rows()).mean(0).detach()  # it has normalized by its own statistics
        torch.testing.assert_close(model[5].running_mean, expected)

    def test_layer_whose_parameters_alone_are_frozen_is_not_frozen(self) -> None:
        model = deep()
        freeze(model, "1", statistics=False)
        assert recalibrate(model, rows().split(16)).frozen == ()

    def test_layer_in_eval_mode_inside_a_model_in_train_mode(self) -> None:
        model = deep()
        model[1].eval()
        assert recalibrate(model, rows().split(16)).frozen == ("1",)
        assert model[1].running_mean.abs().sum() == 0

    def test_model_wholly_in_eval_mode_is_recalibrated_whole(self) -> None:
        record = recalibrate(deep().eval(), rows().split(16))
        assert ([layer.name for layer in record.layers], record.frozen) == (["1", "5"], ())

    def test_layer_without_running_statistics(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
        record = recalibrate(model, rows().split(16))
        assert record.untracked == ("0",)
        assert model[0].running_mean is None

    def test_layer_that_nothing_reaches(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3))
        model.register_module("aside", nn.BatchNorm1d(9))
        before = copy.deepcopy(model.aside.state_dict())
        record = recalibrate(model, [rows()], call=lambda model, batch: model[0](batch))
        assert record.unreached == ("aside",)
        torch.testing.assert_close(model.aside.state_dict(), before, rtol=0, atol=0)
        assert "never reached by finite values: aside" in str(record)

    def test_model_that_is_frozen_whole_warns_and_reads_nothing(self) -> None:
        model = deep()
        freeze(model)
        with pytest.warns(
            StatisticsWarning, match=r"^recalibrate found nothing to do: of the model's layers 2 are froz"
        ):
            record = recalibrate(model, raising_after([], OSError("read")))
        assert (record.layers, record.batches) == ((), 0)


class TestAsFound:
    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("sequential", [True, False])
    def test_all_but_the_statistics_is_as_before(self, train: bool, sequential: bool) -> None:
        model = deep().train(train)
        model[5].momentum, model[2].training = None, True
        model[0].requires_grad_(False)
        model.register_forward_hook(lambda *_: None)
        before = everything(model, statistics=False)
        record = recalibrate(model, rows().split(16), sequential=sequential)
        assert everything(model, statistics=False) == before
        record.undo()
        assert everything(model) == everything(deep().train(train)) | before

    @pytest.mark.parametrize("after", [0, 1, 20])
    @pytest.mark.parametrize("sequential", [True, False])
    @pytest.mark.parametrize("name", LAYERS)
    def test_loader_that_raises_halfway_changes_nothing(self, name: str, sequential: bool, after: int) -> None:
        layer = LAYERS[name]()
        layer(input_of(layer, 8))
        before = everything(layer)
        error = KeyError("my own")
        batches = [input_of(layer, 4)] * after
        with pytest.raises(KeyError) as caught:
            recalibrate(layer, raising_after(batches, error), sequential=sequential)
        assert caught.value is error
        assert everything(layer) == before

    def test_model_that_raises_changes_nothing(self) -> None:
        model = deep()
        before = everything(model)
        with pytest.raises(RuntimeError):
            recalibrate(model, [rows(), torch.randn(4, 7)])
        assert everything(model) == before

    def test_random_numbers_go_on_as_if_nothing_had_happened(self) -> None:
        def draw() -> tuple[float, float, float]:
            return torch.rand(()).item(), random.random(), float(np.random.rand())

        def noisy() -> Iterator[Tensor]:
            for x in rows().split(16):
                draw()
                yield x

        def seeded() -> None:
            torch.manual_seed(3)
            random.seed(3)
            np.random.seed(3)

        model, drawn = deep(), []
        for batches in ([], [noisy(), DataLoader(rows(), batch_size=8, shuffle=True)]):
            seeded()
            for each in batches:
                recalibrate(model, each)
            drawn.append(draw())
        assert drawn[0] == drawn[1]

    def test_train_and_eval_of_the_model_are_not_called(self) -> None:
        class Merging(nn.Sequential):
            def train(self, mode: bool = True) -> Any:
                raise AssertionError("weights would have been merged")

        recalibrate(Merging(nn.BatchNorm1d(3)), rows().split(16))

    def test_hooks_see_every_batch(self) -> None:
        model, seen = deep(), []
        model[1].register_forward_hook(lambda module, args, y: seen.append(y.shape))
        model[1].register_forward_pre_hook(lambda module, args: (args[0] + 100,))
        recalibrate(model, rows().split(16))
        assert len(seen) == 4
        torch.testing.assert_close(model[1].running_mean, model[0](rows()).mean(0).detach() + 100)

    def test_forward_that_an_object_has_of_its_own_is_used_and_kept(self) -> None:
        layer = nn.BatchNorm1d(3)
        own = vars(layer)["forward"] = lambda x: nn.BatchNorm1d.forward(layer, x + 100)
        recalibrate(nn.Sequential(layer), rows().split(16))
        assert vars(layer)["forward"] is own
        torch.testing.assert_close(layer.running_mean, rows().mean(0) + 100)

    def test_buffers_are_written_in_place(self) -> None:
        layer = nn.BatchNorm1d(3)
        held = layer.running_mean
        recalibrate(layer, rows().split(16))
        assert layer.running_mean is held
        torch.testing.assert_close(held, rows().mean(0))

    def test_compiled_model_is_recalibrated_without_compiling(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
        compiled = torch.compile(model, backend="eager")
        compiled(rows(8))
        recalibrate(compiled, rows().split(16))
        torch.testing.assert_close(model[0].running_mean, rows().mean(0))
        y = compiled.eval()(rows(8))
        torch.testing.assert_close(y, model(rows(8)))

    @pytest.mark.parametrize(("momentum", "counted"), [(None, 4), (0.1, 9)])
    def test_plain_average_goes_on_from_the_batches_measured(self, momentum: float | None, counted: int) -> None:
        layer = batchnorm.BatchNorm1d(3, momentum=momentum)
        layer.num_batches_tracked.fill_(9)
        recalibrate(layer, rows().split(16))
        assert layer.num_batches_tracked.item() == counted

    def test_inference_mode_around_it_does_no_harm(self) -> None:
        layer = nn.BatchNorm1d(3)
        with torch.inference_mode():
            recalibrate(layer, rows().split(16))
        torch.testing.assert_close(layer.running_mean, rows().mean(0))
        layer(rows()).sum().backward()


@pytest.mark.parametrize(
    ("model", "batches", "options", "error", "text"),
    [
        (3, [], {}, TypeError, "recalibrate expected a torch.nn.Module, got int"),
        (
            nn.Linear(2, 2),
            [],
            {},
            ValueError,
            "recalibrate expected a model with batch norm layers, got Linear without",
        ),
        (nn.LazyBatchNorm1d(), [], {}, ValueError, "recalibrate expected layers that have a size, got ''"),
        (deep(), rows(), {}, TypeError, "recalibrate expected an iterable of batches, got Tensor: hand over [batch]"),
        (deep(), 3, {}, TypeError, "recalibrate expected an iterable of batches, got int"),
        (
            deep(),
            {"input": rows()},
            {},
            TypeError,
            "recalibrate expected an iterable of batches, got dict: hand over [batch] if it is one",
        ),
        (
            nn.BatchNorm1d(3, device="meta"),
            [rows()],
            {},
            ValueError,
            "recalibrate expected layers with numbers in them, got '' on the meta device: load the model's weights",
        ),
        (deep(), [rows()], {"statistics": "mean"}, ValueError, "recalibrate expected statistics='population' or 'ave"),
        (deep(), [rows()], {"call": 3}, TypeError, "call expected a function of model and batch, got int"),
        (deep(), [()], {}, ValueError, "a batch expected at least one element for the model"),
        (deep(), iter([]), {"sequential": True}, ValueError, "recalibrate with sequential=True reads the batches once"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Any, batches: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        recalibrate(model, batches, **options)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_programs_whose_layers_cannot_be_seen_are_explained() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for program in (torch.jit.script(model), torch.export.export(model, (rows(),)).module()):
        with pytest.raises(
            ValueError, match=r"without any: programs that torch has exported or scripted hide theirs; ha"
        ):
            recalibrate(program, [rows()])
