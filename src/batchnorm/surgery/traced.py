"""Fusions in the forward of any module, found by tracing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from batchnorm.surgery.activations import why_not_fused
from batchnorm.surgery.changes import is_converted
from batchnorm.surgery.fusion import Candidates, Ending, Fusion
from batchnorm.surgery.patterns import Match, follow
from batchnorm.surgery.places import Place
from batchnorm.surgery.rewritten import rewritten, why_not_rewritten
from batchnorm.surgery.shapes import equal_sides
from batchnorm.surgery.stand_ins import UnprovenError
from batchnorm.surgery.tracing import Traces, traces


@dataclass(frozen=True)
class _Traced:
    """A module with the graphs of its forward and what can be fused in the first of them."""

    module: nn.Module
    traces: Traces
    matches: list[Match]

    def child(self, node: fx.Node) -> nn.Module:
        return self.module.get_submodule(str(node.target))


def find(candidates: Candidates, model: nn.Module, example: Any) -> None:
    """Accept what is proven to follow a layer in the forward of a module that calls it."""
    found = [traced for module in list(candidates.places.names) for traced in _trace(module, candidates)]
    alike = _alike(found, candidates, model, example)
    for traced in found:
        to_rewrite = []
        for match in traced.matches:
            layer = traced.child(match.layer)
            place = _place(match, traced, candidates)
            reason = _why_not(match, traced, candidates, alike, in_place=place is not None)
            if reason is not None:
                what = f"residual add and {match.name}" if match.add is not None else match.name
                candidates.refuse(layer, f"{what} after it", reason)
            elif place is None:
                to_rewrite.append(match)
            else:
                how = f"traced forward of {type(traced.module).__name__}"
                candidates.accept(Fusion((Ending(layer, match.name),), (place,), how))
        if to_rewrite:
            candidates.accept(_rewriting(traced, to_rewrite))


def _trace(module: nn.Module, candidates: Candidates) -> Iterator[_Traced]:
    if type(module).__module__.split(".")[0] == "torch" or is_converted(module):
        return
    if isinstance(module, fx.GraphModule) or any(module is fusion.block for fusion in candidates.fusions):
        return
    if type(module).forward in (nn.Module.forward, nn.Sequential.forward):
        return
    if not any(child in candidates for child in _called(module)):
        return
    try:
        found = traces(module)
    except UnprovenError as error:
        candidates.refuse(module, f"{type(module).__name__}, traced", str(error))
        return
    # Of two layers that are added to each other the one that is called last takes the other for its residual.
    matches = {match.activation: match for match in _matches(found.graphs[0], module, candidates)}
    if matches:
        yield _Traced(module, found, list(matches.values()))


def _matches(graph: fx.Graph, module: nn.Module, candidates: Candidates) -> Iterator[Match]:
    """What follows the layers that are called once."""
    for node in graph.nodes:
        if node.op == "call_module" and _calls(graph, node.target) == 1:
            match = follow(node, module) if module.get_submodule(node.target) in candidates else None
            if match is not None:
                yield match


def _calls(graph: fx.Graph, target: Any) -> int:
    return sum(node.op == "call_module" and node.target == target for node in graph.nodes)


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The children that a forward can call, in lists and dictionaries too."""
    for child in module.children():
        if type(child) in (nn.ModuleList, nn.ModuleDict):
            yield from _called(child)
        else:
            yield child


def _alike(found: list[_Traced], candidates: Candidates, model: nn.Module, example: Any) -> set[fx.Node]:
    """The adds whose sides are alike on the example."""
    of_one_graph = [traced for traced in found if traced.traces.several is None]
    adds = {match.add for traced in of_one_graph for match in traced.matches if match.add is not None}
    if example is None or not adds:
        return set()
    graphs = {candidates.places.names[traced.module]: traced.traces.graphs[0] for traced in of_one_graph}
    return equal_sides(model, example, graphs, adds)


def _why_not(
    match: Match, traced: _Traced, candidates: Candidates, alike: set[fx.Node], *, in_place: bool
) -> str | None:
    reason = candidates.why_not(traced.child(match.layer))
    if match.activation.op == "call_module":
        reason = reason or why_not_fused(traced.child(match.activation))
    if not in_place:
        reason = reason or traced.traces.several or why_not_rewritten(traced.module)
    if match.add is not None and match.add not in alike:
        reason = reason or "only an example can show that what is added has the layer's shape and dtype"
    return reason


def _place(match: Match, traced: _Traced, candidates: Candidates) -> Place | None:
    """Where an Identity can stand for the activation, with the forward as it is; None where it must be rewritten."""
    if match.add is not None or match.activation.op != "call_module":
        return None
    places = candidates.places.of[traced.child(match.activation)]
    is_everywhere = all(_is_alike(match, graph, traced) for graph in traced.traces.graphs)
    return places[0] if len(places) == 1 and is_everywhere else None


def _is_alike(match: Match, graph: fx.Graph, traced: _Traced) -> bool:
    """Whether in this graph too the activation is called for the layer alone, if at all."""
    layer, activation = match.layer.target, match.activation.target
    if (_calls(graph, layer), _calls(graph, activation)) == (0, 0):
        return True
    node = next((n for n in graph.nodes if n.op == "call_module" and n.target == layer), None)
    same = None if node is None else follow(node, traced.module)
    is_same = same is not None and same.add is None and same.activation.target == activation
    return is_same and _calls(graph, layer) == _calls(graph, activation) == 1


def _rewriting(traced: _Traced, matches: list[Match]) -> Fusion:
    """The module's class with a forward in which layers do what the matches say."""
    graph = traced.traces.graphs[0]
    for match in matches:
        _rewrite(match)
    endings = tuple(Ending(traced.child(m.layer), m.name, m.add is not None) for m in matches)
    how = f"traced and rewritten forward of {type(traced.module).__name__}"
    return Fusion(endings, (), how, traced.module, rewritten(type(traced.module), graph))


def _rewrite(match: Match) -> None:
    """Take the activation, and the add before it, out of the graph."""
    graph, value = match.layer.graph, match.way[0]
    if match.add is not None:
        with graph.inserting_before(match.add):
            value = graph.call_module(str(match.layer.target), match.layer.args, {"residual": match.other})
    match.activation.replace_all_uses_with(value)
    dead = [match.activation] if match.add is None else [match.activation, *match.after_add, match.add, *match.way]
    for node in dead:
        graph.erase_node(node)
