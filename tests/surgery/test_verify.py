"""With an example a converted model is compared with what it was; what differs is named, and taken back."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tests.surgery.small import fields, images, perceptron, rows
from torch import Tensor, nn

from batchnorm import convert
from batchnorm.surgery import VerificationError


class Peeking(nn.Module):
    """Uses a Sequential for storage and leaves its activation out: neighbours that do not follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body[1](self.body[0](x))


def test_equal_models_pass_and_the_record_says_how_equal() -> None:
    record = convert(perceptron(), rows())
    assert record.verified is not None
    assert record.verified.dtype == "float64"
    assert max(record.verified.outputs, record.verified.gradients, record.verified.statistics) < 1e-10
    assert str(record).splitlines()[-1].startswith("verified    in float64, relative differences of at most")


def test_difference_is_named_and_taken_back() -> None:
    model = Peeking()
    before = fields(model)
    with pytest.raises(VerificationError) as error:
        convert(model, rows())
    assert fields(model) == before
    text = str(error.value)
    assert text.startswith("the converted model differs from the model: output")
    assert text.endswith("of its largest value, where 1e-05 is allowed (rtol); the model is as it was")


def test_tolerance_can_be_set() -> None:
    model = Peeking()
    assert convert(model, rows(), rtol=10.0).verified is not None


@pytest.mark.parametrize(("example", "rtol"), [(None, 0.1), (rows(), 0.0), (rows(), -1.0), (rows(), float("nan"))])
def test_tolerance_that_means_nothing_is_refused(example: Tensor | None, rtol: float) -> None:
    model = perceptron()
    with pytest.raises(
        ValueError, match=r"^convert expected a number > 0 for rtol, and an example to compare on; got "
    ):
        convert(model, example, rtol=rtol)
    assert type(model[1]) is nn.BatchNorm1d


def test_model_and_random_numbers_are_not_touched() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5))
    model[1].eval()
    model(rows()).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    x = rows().requires_grad_()
    numbers = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    convert(model, x)
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert (np.random.get_state()[1] == numbers[2]).all()
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, grads)
    assert [m.training for m in model] == [True, False, True, True]
    assert x.grad is None


def test_random_numbers_are_the_same_for_both_models() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.body(x)) * random.random() * float(np.random.rand())

    assert convert(Noisy(), rows()).verified is not None


@dataclass
class Answer:
    scores: Tensor
    rank: Tensor


torch.utils._pytree.register_pytree_node(
    Answer,
    lambda a: ([a.scores, a.rank], None),
    lambda leaves, _: Answer(*leaves),
    flatten_with_keys_fn=lambda a: ([(torch.utils._pytree.GetAttrKey("scores"), a.scores)], None),
    serialized_type_name="tests.Answer",
)


class Structured(nn.Module):
    """Takes what it gets by name, and gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.BatchNorm1d(6), nn.ReLU())

    def forward(self, tokens: Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        y = self.body(tokens) * scale
        return {"scores": y, "more": [y.argmax(1), Answer(y, y)], "none": None}


def test_arguments_and_outputs_may_be_structures() -> None:
    tokens = torch.randint(0, 9, (8, 2), generator=torch.Generator().manual_seed(0))
    assert convert(Structured(), {"tokens": tokens, "scale": 2.0}).verified is not None
    assert convert(Structured(), (tokens,)).verified is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_is_verified_in_float64(dtype: torch.dtype) -> None:
    record = convert(perceptron().to(dtype), rows().to(dtype))
    assert record.verified is not None
    assert record.verified.dtype == "float64"


def test_model_that_runs_in_float32_alone_is_verified_in_it() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) @ torch.ones(3, 2, dtype=torch.float32)

    record = convert(Stubborn(), rows())
    assert record.verified is not None
    assert record.verified.dtype == "float32"


def test_model_that_sets_requires_grad_of_its_input_is_verified_without_that_gradient() -> None:
    """As speech models of transformers do, for the sake of checkpointing."""

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            x.requires_grad = True
            return self.body(x)

    record = convert(Asking(), rows())
    assert record.verified is not None
    assert record.verified.dtype == "float64"


def test_example_that_the_model_cannot_be_trained_on_is_refused() -> None:
    model = perceptron()
    before = fields(model)
    with pytest.raises(ValueError, match=r"^example expected an input that the model itself runs on, in training too"):
        convert(model, rows(1))
    with pytest.raises(ValueError, match="mat1 and mat2 shapes cannot be multiplied"):
        convert(model, torch.ones(4, 7))
    assert fields(model) == before


def test_model_that_gives_no_tensor_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    with pytest.raises(ValueError, match="output holds no tensor: NoneType"):
        convert(Silent(), rows())


def test_model_that_cannot_be_copied_is_refused() -> None:
    model = perceptron()
    model.kept = model(rows())
    with pytest.raises(ValueError, match=r"^verification needs a deep copy of the model, which fails"):
        convert(model, rows())
    assert type(model[1]) is nn.BatchNorm1d


def test_input_that_the_model_changes_in_place_may_be_the_example() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    x = images()
    before = x.clone()
    assert convert(model, x).verified is not None
    assert torch.equal(x, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_compared_whatever_the_mode_of_the_caller(mode: Any) -> None:
    with mode():
        record = convert(perceptron(), rows())
    assert record.verified is not None
    assert record.verified.gradients > 0
