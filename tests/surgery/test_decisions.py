"""Forwards that decide in ways of which a trace sees one: each is traced both ways, or refused."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.surgery.test_fold import lived_in, report
from torch import Tensor, nn

from batchnorm.surgery import drop_redundant_bias, fold, insert
from batchnorm.surgery.stand_ins import UnprovenError
from batchnorm.surgery.tracing import traces


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.n = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.extra: nn.Module | None = None
        self.skipped = nn.ModuleDict({"a": nn.Identity()})


def is_none(value: Any) -> bool:
    return value is None


class Asked(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return torch.full((1,), value).numel() == 1


class Odd(metaclass=Asked):
    pass


@dataclass
class Holder:
    value: Any


# How a forward gets at whether it takes the other way, once z = self.l(x); and in how many ways it is then traced.
SEEN = {
    "an argument that must be given": ("self, x, skip", "skip is None", 2),
    "an optional argument": ("self, x, skip=None", "skip is None", 2),
    "somewhere else": ("self, x, skip", "is_none(skip)", 2),
    "a tuple": ("self, x", "isinstance(x, tuple)", 2),
    "a dictionary": ("self, x", "isinstance(x, dict)", 2),
    "a truth": ("self, x", "bool(x.sum() > 0)", 2),
    "a number": ("self, x, n", "isinstance(n, int)", 2),
    "numbers": ("self, x, n", "isinstance(n, (int, float)) or isinstance(n, str)", 2),
    "a comparison": ("self, x", "x.shape[0] == 7", 2),
    "its own module": ("self, x", "self.extra is not None and getattr(self, 'more', None) is None", 1),
}
REFUSED = {
    "a key of modules": ("self, x, key", "key in self.skipped"),
    "dimensions in a set": ("self, x", "x.ndim in {3}"),
    "an attribute that may be there": ("self, x", "hasattr(x, 'scale')"),
    "a field": ("self, x", "(holder := Holder(x)).value is None"),
    "a type by a name": ("self, x", "(lambda kind: kind is int)(type(x))"),
    "a subclass": ("self, x", "issubclass(type(x), int)"),
    "an operator": ("self, x, n", "operator.is_(n, None)"),
    "an address": ("self, x, n", "id(n) == id(x)"),
    "a parameter": ("self, x", "isinstance(x, nn.Parameter)"),
    "another class": ("self, x", "isinstance(x.shape[0], Odd) and type(x) is int"),
    "a type": ("self, x", "type(x) is int"),
    "types": ("self, x", "type(x) in (int, float)"),
    "equal types": ("self, x", "type(x) == int"),
    "an entry": ("self, x", "x.get('k') is not None"),
    "an attribute": ("self, x", "x.mask is None"),
    "an element": ("self, x", "[x, None][0] is None"),
    "an assignment": ("self, x", "(q := x + 1) is None"),
    "another value": ("self, x, y", "x is y"),
    "a constant": ("self, x, flag=False", "flag is True"),
    "a set": ("self, x", "x.shape[0] in {7}"),
    "a table": ("self, x", "{7: 1}.get(x.shape[0])"),
    "inference mode": ("self, x", "torch.is_inference_mode_enabled()"),
    "autocast": ("self, x", "torch.is_autocast_enabled('cpu')"),
}


_ = operator  # for the forwards above


def deciding(arguments: str, condition: str) -> nn.Module:
    source = f"def forward({arguments}):\n    z = self.l(x)\n    return self.n(z) + z if {condition} else self.n(z)"
    return written(source)


def written(source: str) -> nn.Module:
    namespace = dict(globals())
    exec(source, namespace)  # as many forwards as there are ways to decide
    return type("Written", (Pair,), {"forward": namespace["forward"]})()  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", SEEN)
def test_both_ways_are_traced(how: str) -> None:
    arguments, condition, ways = SEEN[how]
    found = traces(deciding(arguments, condition), every_way=True)
    assert len({graph.python_code("self").src for graph in found.graphs}) == ways


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_traced_both_ways_is_refused(how: str) -> None:
    with pytest.raises(UnprovenError):
        traces(deciding(*REFUSED[how]), every_way=True)


@pytest.mark.parametrize("question", ["int(x.shape[0])", "len(x)", "[*x]", "{x}", "x['image']", "self.n(x)"])
def test_forward_that_catches_exceptions_is_refused(question: str) -> None:
    """Real values raise what stand-ins do not, and the other way round."""
    source = f"""
def forward(self, x):
    z = self.l(x)
    try:
        n = {question}
    except ValueError:
        return self.n(z)
    return self.n(z) + z
"""
    with pytest.raises(UnprovenError, match="catches exceptions"):
        traces(written(source), every_way=True)


@contextmanager
def swallowing() -> Iterator[None]:
    with suppress(Exception):
        yield


@pytest.mark.parametrize("question", ["int(x.shape[0])", "len(x)", "[*x]", "{x}", "isinstance(x, nn.Parameter)"])
def test_answer_that_is_lost_on_the_way_counts_all_the_same(question: str) -> None:
    source = f"""
def forward(self, x):
    z = self.l(x)
    with swallowing():
        {question}
        return self.n(z) + z
    return self.n(z)
"""
    with pytest.raises(UnprovenError):
        traces(written(source), every_way=True)


@pytest.mark.parametrize("pattern", ["(a, b)", "None", "{'k': v}", "int()"])
def test_match_is_refused(pattern: str) -> None:
    source = f"""
def forward(self, x, y):
    z = self.l(x)
    match y:
        case {pattern}:
            return self.n(z) + z
    return self.n(z)
"""
    with pytest.raises(UnprovenError):
        traces(written(source), every_way=True)


def test_source_whose_places_coincide_does_not_end_the_interpreter() -> None:
    """As generated code may have it: what a call begins with is then not to be seen."""
    tree = ast.parse("def forward(self, x):\n    isinstance(x, nn.Module)\n    return self.n(self.l(torch.arange(x)))")
    for node in ast.walk(tree):
        for name, value in {"lineno": 1, "end_lineno": 1, "col_offset": 0, "end_col_offset": 1}.items():
            if hasattr(node, name):
                setattr(node, name, value)
    namespace = dict(globals())
    exec(compile(tree, "generated", "exec"), namespace)
    module = type("Generated", (Pair,), {"forward": namespace["forward"]})()
    with pytest.raises(UnprovenError):
        traces(module, every_way=True)


@pytest.mark.parametrize(
    "change", ["x.mul_(2)", "F.relu_(x)", "F.relu(x, inplace=True)", "torch.nn.ReLU(True)(x)", "x += 1"]
)
def test_what_goes_into_a_layer_may_not_change_once_it_is_handed_on(change: str) -> None:
    """The layer makes a copy of it; folded into the map after it, there is none any more."""
    source = f"""
def forward(self, x):
    x = x * 1
    z = self.n(x)
    {change}
    return self.l(z) + x
"""
    model = lived_in(written(source))
    model.n.affine, model.n.running_mean = True, torch.zeros(4)
    with pytest.raises(ValueError, match=r"refused  1 x BatchNorm1d -> Linear"):
        fold(model, torch.randn(5, 4))


def test_layer_whose_value_goes_elsewhere_without_an_argument_stays() -> None:
    """It was folded, its bias dropped, a layer inserted: by the one way that the example takes."""
    model, x = lived_in(deciding("self, x, skip", "skip is None")), (torch.randn(5, 4), torch.ones(1))
    with pytest.raises(ValueError, match=r"refused  1 x Linear -> BatchNorm1d"):
        fold(model, x)
    assert drop_redundant_bias(model, x).dropped == ()
    plain = lived_in(deciding("self, x, skip", "skip is not None"))
    plain.n = nn.Identity()
    with pytest.raises(ValueError, match="insert found no linear map"):
        insert(plain, x)


class Outer(nn.Module):
    """Its forward cannot be traced: it decides by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x)
        return self.further(x, y) if int(x.shape[0]) > 6 else y

    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y * 2


class CallsInside(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.inner[0](x)


class ReadsInside(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + F.linear(x, self.inner[0].weight)


class HandsOn(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + first_of(self.inner)(x)


class HandsItselfOn(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + first_of(getattr(self, "in" + "ner"))(x)


class FindsInside(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.get_submodule("inner.0")(x)  # type: ignore[no-any-return]


class GoesThroughAll(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + sum(p.sum() for p in self.parameters())


class Renames(Outer):
    def further(self, x: Tensor, y: Tensor) -> Tensor:
        inner = self.inner or None
        return y + inner[0](x)  # type: ignore[index,no-any-return]


class Keeps(Outer):
    @cached_property
    def first(self) -> nn.Module:
        return self.inner[0]

    def further(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.first(x)  # type: ignore[no-any-return]


def first_of(modules: nn.Sequential) -> nn.Module:
    return modules[0]


class InAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.blocks))
        x = x + 0 * parts[0].sum()
        for _, block in enumerate(self.blocks):
            x = block(x) * (2 if int(x.shape[0]) > 6 else 1)
        return x


class InsideAList(InAList):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + (block[0](x) if int(x.shape[0]) > 6 else 0)
        return x


class InLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lists = nn.ModuleList(
            nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = int(x.shape[0])
        for first in self.lists:
            for number, block in enumerate(first):
                x = block(x) * number + rows
        return x


class InsideLists(InLists):
    def forward(self, x: Tensor) -> Tensor:
        y = self.lists[0][0](x) + self.lists[0][1](x) + self.lists[1][0](x) + self.lists[1][1](x)
        return y + (self.lists[0][0][0](x) if int(x.shape[0]) > 6 else 0)  # type: ignore[index]


class HandsMembersOn(InAList):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + (first_of(block)(x) if int(x.shape[0]) > 6 else 0)
        return x


class HandsTheListOn(InAList):
    def forward(self, x: Tensor) -> Tensor:
        for number in range(2):
            x = self.blocks[number](x) + (first_of(first_of(self.blocks))(x) if int(x.shape[0]) > 6 else 0)  # type: ignore[arg-type]
        return x


@pytest.mark.parametrize(
    "kind",
    [
        CallsInside,
        ReadsInside,
        HandsOn,
        HandsItselfOn,
        FindsInside,
        GoesThroughAll,
        Renames,
        Keeps,
        InsideAList,
        HandsMembersOn,
        HandsTheListOn,
        InsideLists,
    ],
)
def test_outer_forward_that_may_reach_inside_is_refused(kind: type[nn.Module]) -> None:
    """Whatever the example shows: it takes the other branch."""
    with pytest.raises(ValueError, match="whose forward cannot be traced, may do more with"):
        fold(lived_in(kind()), torch.randn(5, 4))


class Named(nn.ModuleDict):
    def __init__(self) -> None:
        super().__init__({name: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for name in "ab"})
        self.wanted = {"a": 1.0, "b": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        rows = int(x.shape[0])
        for number, (name, module) in enumerate(self.items()):
            x = module(x) * self.wanted[name] * number + rows
        return x


class Zipped(InAList):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x * int(x.shape[0]), x]
        return sum(block(part.relu()) for part, block in zip(parts, self.blocks, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(("kind", "count"), [(Outer, 1), (InAList, 2), (InLists, 4), (Named, 2), (Zipped, 2)])
def test_outer_forward_that_only_calls_may_do_what_it_wants(kind: type[nn.Module], count: int) -> None:
    model = lived_in(kind())
    folded = fold(model, torch.randn(5, 4))
    assert len(report(folded).folded) == count
    x = torch.randn(7, 4)
    torch.testing.assert_close(folded(x), model(x))


def test_outer_forward_without_source_is_refused() -> None:
    namespace: dict[str, Any] = {}
    exec("def forward(self, x):\n    return self.inner(x) if int(x.shape[0]) > 6 else self.inner(x) + 1", namespace)
    kind = type("Unread", (Outer,), {"forward": namespace["forward"]})
    with pytest.raises(ValueError, match="can be neither traced nor read"):
        fold(lived_in(kind()), torch.randn(5, 4))


def test_hooks_of_a_container_between_a_pair_see_the_same_values() -> None:
    model = lived_in(nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.BatchNorm1d(4)))
    model[0].register_forward_hook(lambda module, inputs, output: output + 1 if len(output) > 6 else None)
    with pytest.raises(ValueError, match="Sequential in between has hooks"):
        fold(model, torch.randn(5, 4))
