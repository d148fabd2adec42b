"""adapt and adapting: the formula, the two ways to use it, what is refused, and the model left as found."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.statistics.small import LAYERS, everything, input_of, raising_after
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import batchnorm
from batchnorm import adapt, freeze
from batchnorm.errors import StatisticsWarning
from batchnorm.statistics import adapting


def rows(count: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def layer_of(kind: Callable[[int], Any] = nn.BatchNorm1d) -> Any:
    layer = kind(3).eval()
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    return layer


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4), batchnorm.BatchNorm1d(4)
    )
    model(rows())
    return model.eval()


class TestFormula:
    @pytest.mark.parametrize("prior", [0, 1, 16, 1000.5])
    @pytest.mark.parametrize("variance", ["convex", "mixture"])
    @pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
    def test_statistics_are_weighed_by_examples(self, kind: Any, variance: str, prior: float) -> None:
        layer, x = layer_of(kind), rows(10)
        mean_s, var_s = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
        mean_t, var_t = x.double().numpy().mean(0), x.double().numpy().var(0)
        adapt(layer, x, prior=prior, variance=variance)
        a = prior / (prior + 10)
        between = a * (1 - a) * (mean_s - mean_t) ** 2 if variance == "mixture" else 0
        np.testing.assert_allclose(layer.running_mean, a * mean_s + (1 - a) * mean_t, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, a * var_s + (1 - a) * var_t + between, rtol=1e-5)

    def test_mixture_is_the_variance_of_all_values_together(self) -> None:
        """With as many values of the source as the prior says, and its own statistics."""
        source, target = rows(16, 1), rows(10, 2) + 3
        layer = nn.BatchNorm1d(3)
        layer.running_mean.copy_(source.mean(0))
        layer.running_var.copy_(source.var(0, correction=0))
        adapt(layer, target, prior=16, variance="mixture")
        both = torch.cat([source, target])
        torch.testing.assert_close(layer.running_mean, both.mean(0))
        torch.testing.assert_close(layer.running_var, both.var(0, correction=0))

    def test_images_count_as_examples_whatever_their_size(self) -> None:
        layer, x = nn.BatchNorm2d(3), input_of(nn.BatchNorm2d(3), 8)
        adapt(layer, x, prior=8)
        torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)) / 2)

    def test_stream_is_merged(self) -> None:
        layer, x = layer_of(), rows(40)
        adaptation = adapt(layer, iter(x.split(7)), prior=0)
        torch.testing.assert_close(layer.running_mean, x.mean(0))
        torch.testing.assert_close(layer.running_var, x.var(0, correction=0))
        assert (adaptation.batches, adaptation.layers[0].rows) == (6, 40)

    def test_layers_after_it_see_the_adapted_ones(self) -> None:
        model, x = deep(), rows(20, 5) + 4
        adapt(model, x, prior=4)
        adapted, source = model[5].running_mean, deep()[5].running_mean
        z = model[:5](x).mean(0).detach()
        torch.testing.assert_close(adapted, 4 / 24 * source + 20 / 24 * z)

    def test_prediction_of_a_batch_is_that_of_the_adapted_model(self) -> None:
        model, x = deep(), rows(20, 5) + 4
        y = adapting(model, guard=False)(x)
        with adapt(model, x):
            torch.testing.assert_close(y, model(x).detach())

    @pytest.mark.parametrize("name", LAYERS)
    def test_every_kind_of_layer_adapts(self, name: str) -> None:
        layer = LAYERS[name]()
        layer(input_of(layer, 8))
        x = input_of(layer, 6, 3) * 2 + 9
        source = layer.running_mean.double().numpy().copy()
        adapt(layer, x, prior=3)
        target = x.double().transpose(0, 1).flatten(1).numpy().mean(1)
        np.testing.assert_allclose(layer.running_mean, source / 3 + target * 2 / 3, rtol=1e-5)

    def test_one_example_adapts_with_a_prior_and_not_without(self) -> None:
        layer = layer_of()
        adapt(layer, torch.zeros(1, 3), prior=1)
        assert layer.running_mean.tolist() == [0.25, -0.5, 1.0]
        assert layer.running_var.tolist() == [0.25, 0.5, 1.0]
        with pytest.raises(ValueError, match=r"^prior=0 expected two values or more per channel, got input of shape"):
            adapt(layer_of(), torch.zeros(1, 3), prior=0)

    def test_masked_positions_do_not_count(self) -> None:
        layer, x, mask = layer_of(batchnorm.BatchNorm1d), rows(12), torch.arange(12) % 3 > 0
        adapt(layer, (x, mask), prior=0, call=lambda model, batch: model(batch[0], mask=batch[1]))
        torch.testing.assert_close(layer.running_mean, x[mask].mean(0))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("kind", [nn.BatchNorm1d, batchnorm.BatchNorm1d])
    def test_half_precision(self, kind: Any, dtype: torch.dtype) -> None:
        layer = layer_of(kind).to(dtype)
        x = rows(64).to(dtype)
        y = adapting(layer, prior=0, guard=False)(x)
        assert y.dtype == dtype
        adapt(layer, iter(x.split(8)), prior=0)
        torch.testing.assert_close(layer.running_mean.double(), x.double().mean(0), rtol=1e-2, atol=1e-2)


class TestGuard:
    def sorted(self) -> list[Tensor]:
        return [rows(32, seed) + 10 * seed for seed in range(6)]

    def test_permanent_change_is_refused_for_dependent_batches(self) -> None:
        layer = layer_of()
        before = everything(layer)
        with pytest.warns(StatisticsWarning, match=r"^adapt has left the source statistics: dependent: the means of 6"):
            adaptation = adapt(layer, iter(self.sorted()))
        assert everything(layer) == before
        assert not adaptation.adapted
        assert str(adaptation).startswith("left the source statistics in 1 layer\ndependent: ")

    def test_without_a_guard_it_is_made(self) -> None:
        layer = layer_of()
        adaptation = adapt(layer, iter(self.sorted()), prior=0, guard=False)
        torch.testing.assert_close(layer.running_mean, torch.cat(self.sorted()).mean(0))
        assert (adaptation.adapted, adaptation.verdict) == (True, None)

    def test_online_the_source_predicts_until_it_is_known_and_where_it_is_dependent(self) -> None:
        model = deep()
        adapted, used = adapting(model), []
        for x in (*(rows(32, seed) + 3 for seed in range(4)), rows(32, 9) - 9):
            y = adapted(x)
            used.append(adapted.has_adapted)
            if not adapted.has_adapted:
                torch.testing.assert_close(y, model(x).detach(), rtol=0, atol=0)
        assert used == [False, False, True, True, False]
        assert adapted.verdict is not None
        assert adapted.verdict.state == "dependent"

    def test_batch_at_which_the_model_raises_is_not_part_of_the_stream(self) -> None:
        adapted = adapting(deep())
        with pytest.raises(RuntimeError):
            adapted(torch.randn(4, 7))
        assert adapted.batches == 0
        for seed in range(3):
            adapted(rows(32, seed))
        assert adapted.verdict is not None
        assert (adapted.verdict.state, adapted.verdict.batches) == ("independent", 3)

    def test_positions_of_an_image_are_not_examples(self) -> None:
        """Each image is of one colour: by positions the batches would differ more than sampling explains."""
        adapted = adapting(nn.Sequential(nn.BatchNorm2d(3)))
        for seed in range(6):
            adapted(rows(16, seed)[:, :, None, None].expand(-1, -1, 12, 12))
        assert adapted.verdict is not None
        assert adapted.verdict.state == "independent"
        assert adapted.verdict.spread < 3

    def test_examples_that_are_not_finite_are_not_heard(self) -> None:
        adapted = adapting(layer_of())
        batches = [rows(32, seed) for seed in range(4)]
        for x in batches:
            x[3] = float("inf")
        outputs = []
        with pytest.warns(StatisticsWarning, match=r"^adapting: a batch is not finite in some channels"):
            outputs.extend(map(adapted, batches))
        y = outputs[-1]
        assert adapted.has_adapted
        assert torch.isfinite(y[:3]).all()


class TestBothWays:
    def test_block_undoes_it_also_when_it_raises(self) -> None:
        model = deep()
        before = everything(model)
        with adapt(model, rows() + 3) as adaptation:
            assert everything(model) != before
            assert adaptation.layers[0].old.mean.tolist() != adaptation.layers[0].new.mean.tolist()
        assert everything(model) == before
        with pytest.raises(KeyError), adapt(model, rows() + 3):
            raise KeyError
        assert everything(model) == before

    def test_permanent_change_stays_until_it_is_undone(self) -> None:
        model = deep()
        before, held = everything(model), model[1].running_mean
        adaptation = adapt(model, rows() + 3)
        assert everything(model) != before
        assert model[1].running_mean is held
        adaptation.undo()
        assert everything(model) == before

    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("guard", [True, False])
    def test_adapting_leaves_the_model_as_it_is(self, train: bool, guard: bool) -> None:
        model = deep().train(train)
        model[5].momentum = None
        before, state = everything(model), torch.get_rng_state()
        adapted = adapting(model, guard=guard)
        for seed in range(4):
            adapted(rows(16, seed))
        assert everything(model) == before
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("after", [0, 2])
    def test_stream_that_raises_changes_nothing(self, after: int) -> None:
        model = deep()
        before, error = everything(model), OSError("my own")
        with pytest.raises(OSError) as caught:  # noqa: PT011
            adapt(model, raising_after([rows()] * after, error))
        assert caught.value is error
        assert everything(model) == before

    @pytest.mark.parametrize("guard", [True, False])
    def test_random_numbers_that_a_loader_draws_are_put_back(self, guard: bool) -> None:
        """A shuffling DataLoader draws its seed each time; recalibrate put that back, and adapt did not."""
        model, before = deep(), torch.get_rng_state()
        adapt(model, DataLoader(TensorDataset(rows()), batch_size=16, shuffle=True), guard=guard)
        assert torch.equal(torch.get_rng_state(), before)

    def test_warning_points_to_who_calls(self) -> None:
        x = rows()
        x[3] = float("nan")
        for run in (lambda: adapt(layer_of(), iter([x, rows()])), lambda: adapting(layer_of(), guard=False)(x)):
            with pytest.warns(StatisticsWarning, match="a batch is not finite in some channels") as caught:
                run()
            assert caught[0].filename == __file__

    def test_frozen_untracked_and_unreached_layers_are_left_alone(self) -> None:
        model = nn.Sequential(layer_of(), layer_of(), nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(9))
        model.eval()
        freeze(model, "0")
        before = copy.deepcopy(model[0].state_dict())
        adaptation = adapt(model, rows(), call=lambda model, batch: model[:3](batch))
        assert (adaptation.frozen, adaptation.untracked, adaptation.unreached) == (("0",), ("2",), ("3",))
        torch.testing.assert_close(model[0].state_dict(), before, rtol=0, atol=0)
        assert str(adaptation).splitlines()[2:] == [
            "left alone, frozen: 0",
            "left alone, without running statistics: 2",
            "left alone, never reached by finite values: 3",
        ]

    @pytest.mark.parametrize(
        "data",
        [
            (rows(), torch.zeros(64)),
            [rows(), torch.zeros(64)],
            [rows()],
            [(rows(), torch.zeros(64))],
            DataLoader(TensorDataset(rows(), torch.zeros(64)), batch_size=16),
            (x for x in rows().split(16)),
            iter(rows().split(16)),
        ],
        ids=["tuple", "list", "list of one tensor", "list of tuples", "loader", "generator", "iterator"],
    )
    def test_batches_and_streams(self, data: Any) -> None:
        layer = layer_of()
        adapt(nn.Sequential(layer).eval(), data, prior=0)
        torch.testing.assert_close(layer.running_mean, rows().mean(0))

    def test_dictionary_is_one_batch(self) -> None:
        layer = layer_of()
        adapt(layer, {"input": rows()}, prior=0, call=lambda model, batch: model(**batch))
        torch.testing.assert_close(layer.running_mean, rows().mean(0))

    def test_text_says_what_was_done(self) -> None:
        text = "adapted 1 layer to 1 example in 1 batch, the source counting for 16\n1 batch is too few to know whether"
        assert str(adapt(layer_of(), rows(1))).startswith(text)
        text = "adapted 1 layer to 64 examples in 4 batches, the source counting for 16"
        assert str(adapt(layer_of(), iter(rows().split(16)))).splitlines()[0] == text


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "text"),
    [
        (3, rows(), {}, TypeError, "adapt expected a torch.nn.Module, got int"),
        (
            nn.Linear(2, 2),
            rows(),
            {},
            ValueError,
            "adapt expected a model with batch norm layers, got Linear without any",
        ),
        (deep(), 3, {}, TypeError, "adapt expected a batch or an iterable of batches, got int"),
        (deep(), [], {}, ValueError, "adapt expected at least one batch, got none"),
        (deep(), list(rows().split(16)), {}, ValueError, "adapt expected a batch or a stream, got a list of 4 tensors"),
        (
            nn.BatchNorm2d(3).eval(),
            [torch.randn(4, 3, size, size) for size in (5, 6)],
            {},
            ValueError,
            "adapt expected a batch or a stream, got a list of 2 tensors of one kind",
        ),
        (
            nn.Sequential(nn.Embedding(9, 2), nn.BatchNorm1d(5)),
            [torch.ones(4, 5, dtype=torch.long)] * 3,
            {},
            ValueError,
            "adapt expected a batch or a stream, got a list of 3 tensors of one kind",
        ),
        (
            nn.BatchNorm1d(3, device="meta"),
            rows(),
            {},
            ValueError,
            "adapt expected layers with numbers in them, got '' on the meta device: load",
        ),
        (deep(), rows(), {"prior": -1}, ValueError, "adapt expected a number of examples >= 0 as prior, got -1"),
        (
            deep(),
            rows(),
            {"prior": float("inf")},
            ValueError,
            "adapt expected a number of examples >= 0 as prior, got inf",
        ),
        (deep(), rows(), {"prior": True}, ValueError, "adapt expected a number of examples >= 0 as prior, got True"),
        (deep(), rows(), {"variance": "full"}, ValueError, "adapt expected variance='convex' or 'mixture', got 'full'"),
        (
            deep(),
            torch.empty(0, 3),
            {},
            ValueError,
            "adapt expected batches that bring finite values to a layer, but 1",
        ),
        (
            nn.BatchNorm1d(3, track_running_stats=False),
            rows(),
            {},
            ValueError,
            "adapt found no layer to adapt: 0 are fr",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Any, data: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        adapt(model, data, **options)


def test_adapting_names_itself_in_its_errors() -> None:
    with pytest.raises(ValueError, match=r"^adapting expected a number of examples >= 0 as prior"):
        adapting(deep(), prior=-1)
