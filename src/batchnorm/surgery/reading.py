"""What the source of a forward says where it cannot be traced: whether it takes apart what it should only call.

A pair of layers lies inside a module that an outer forward calls. That the pair is one is proven further in; the outer
forward may do what it wants with the module, as long as it does not call one of the two, or read its parameters, by
itself. The rule is narrow: `self.inner(x)` is a call, and everything else that is done with `self.inner` may be more.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch import nn

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# Methods of a container of modules, and functions that get modules and do nothing but call them.
_GO_THROUGH = ("items", "values", "children", "named_children")
# Attributes of a module that lead to every module or parameter in it.
_LEAD_EVERYWHERE = frozenset(
    {"modules", "named_modules", "get_submodule", "parameters", "named_parameters", "get_parameter"}
    | {"state_dict", "apply", "_modules", "__dict__"}
)
_CALL_ALONE = ("checkpoint", "checkpoint_seq", "checkpoint_sequential")
_LOOK_ALONE = ("len", "isinstance", "hasattr", "is_fsdp_managed_module")
_ODD = ("__call__", "__getattr__", "__getattribute__", "_call_impl")
_LIST_ALONE = ("enumerate", "zip", "reversed", "list", "tuple", "range", "iter")  # what is in them is seen further on


def why_may_reach(outer: nn.Module, path: str) -> str | None:
    """Why a forward that cannot be traced may do something with a layer far inside; None where it does not.

    Args:
        outer: whose forward it is.
        path: the layer's name in `outer`.
    """
    kind = type(outer)
    if kind.__module__.split(".")[0] == "torch":
        return None  # DataParallel and the like hand on what they are given
    kinds = _written_outside_torch(kind)
    if "forward" in vars(outer) or any(name in vars(k) for k in kinds for name in _ODD):
        return f"{kind.__name__}, whose forward cannot be traced, is called or finds its attributes in a way of its own"
    names, modules = path.split("."), list(_modules(outer, path))
    depth = next((k for k, module in enumerate(modules) if type(module) not in _CONTAINERS), 0)
    inner, below = names[0], _LEAD_EVERYWHERE.union(names[depth + 1 :])
    try:
        functions = list(_sources(kind))
    except (OSError, TypeError, SyntaxError):
        return f"the forward of {kind.__name__} can be neither traced nor read"
    for function in functions:
        if function.takes_apart(inner, below, lists=depth):
            return f"{kind.__name__}, whose forward cannot be traced, may do more with {inner} than call it"
    return None


def _modules(outer: nn.Module, path: str) -> Iterator[nn.Module]:
    for name in path.split("."):
        outer = outer._modules[name]  # type: ignore[assignment]
        yield outer


def _written_outside_torch(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if base.__module__.split(".")[0] not in ("torch", "builtins")]


def _function(member: Any) -> Any:
    """What runs when a member of a class is called or read."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    return inspect.unwrap(getattr(member, "__func__", member))


def _sources(kind: type[nn.Module]) -> Iterator[_Function]:
    """The forward, and every method and property that it names of itself, down to those of torch's classes."""
    kinds = _written_outside_torch(kind)
    waiting, known = [("forward", 0)], {("forward", 0)}
    while waiting:
        name, first = waiting.pop()
        found = next((k for k in range(first, len(kinds)) if name in vars(kinds[k])), None)
        value: Any = None if found is None else vars(kinds[found])[name]
        function = _function(value)
        if found is None or not inspect.isfunction(function):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        if not isinstance(tree, ast.FunctionDef):
            raise TypeError(f"{name} is no function")
        source = _Function(tree, has_self=not isinstance(value, staticmethod))
        yield source
        for attribute, of_super in source.own_names():
            further = (attribute, found + 1 if of_super else 0)
            if further not in known:
                known.add(further)
                waiting.append(further)


class _Function:
    """One method's source."""

    def __init__(self, tree: ast.FunctionDef, *, has_self: bool) -> None:
        self._tree = tree
        arguments = [*tree.args.posonlyargs, *tree.args.args] if has_self else []
        self._self = arguments[0].arg if arguments else ""
        self._parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}

    def own_names(self) -> Iterator[tuple[str, bool]]:
        """Attributes of the object itself that it names, and whether as super()'s."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute):
                of_super = isinstance(node.value, ast.Call) and _name(node.value.func) == "super"
                if of_super or self._is_self(node.value):
                    yield node.attr, of_super

    def takes_apart(self, inner: str, below: frozenset[str], *, lists: int) -> bool:
        """Whether it may get at a part of a child, or of a member of a child that is a list of modules.

        Args:
            inner: the child's name.
            below: names on the way from it to the layer, and of methods that find every module.
            lists: how many lists of modules, one in the other, the child is.
        """
        everything = list(ast.walk(self._tree))
        children = [node for node in everything if self._is_child(node, inner)]
        gone_through = [node for node in everything if self._goes_through_itself(node)]
        members: list[ast.AST] | None = children
        for _ in range(lists):
            members = self._members(members or [])
            if members is None:
                return True
        others = self._members(gone_through)
        if others is None or not all(self._is_only_called(node) or self._is_asked(node, below) for node in others):
            return True
        if not all(self._is_only_called(n) or (lists > 0 and self._is_asked(n, below)) for n in members or ()):
            return True
        for node in everything:
            of_self = isinstance(node, ast.Attribute) and self._is_self(node.value)
            if isinstance(node, ast.Attribute) and node.attr in (_LEAD_EVERYWHERE if of_self else below):
                return True
        return any(self._is_self(node) and not self._is_plain_use(node) for node in everything)

    def _members(self, lists: list[ast.AST]) -> list[ast.AST] | None:
        """Where members of lists of modules stand; None where something else may be done with a list."""
        names: set[str] = set()
        for node in lists:
            if self._is_only_looked_at(node):
                continue
            if not self._is_only_gone_through(node):
                return None
            names |= self._bound_to(node)  # block = self.blocks[0], whose name is looked at from then on
        return [
            node
            for node in ast.walk(self._tree)
            if (isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load))
            or (
                isinstance(node, ast.Subscript)
                and node.value in lists
                and not isinstance(self._parents[node], ast.Assign)
            )
        ]

    def _is_self(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._self

    def _is_child(self, node: ast.AST, name: str) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == name and self._is_self(node.value)

    def _goes_through_itself(self, node: ast.AST) -> bool:
        """self.items(), or self itself where it is gone through."""
        if isinstance(node, ast.Attribute):
            return node.attr in _GO_THROUGH and self._is_self(node.value)
        return self._is_self(node) and isinstance(self._parents[node], (ast.For, ast.comprehension))

    def _is_only_looked_at(self, node: ast.AST) -> bool:
        parent = self._parents[node]
        return isinstance(parent, ast.Call) and parent.func is not node and _name(parent.func) in _LOOK_ALONE

    def _is_only_called(self, node: ast.AST) -> bool:
        parent = self._parents[node]
        if isinstance(parent, ast.Call):
            return parent.func is node or _name(parent.func) in (*_CALL_ALONE, *_LOOK_ALONE)
        return self._is_test(node)

    def _is_test(self, node: ast.AST) -> bool:
        """if self.act:, self.act is not None and ...: whether it is there."""
        parent = self._parents[node]
        while isinstance(parent, (ast.Compare, ast.BoolOp)) or (
            isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)
        ):
            node, parent = parent, self._parents[parent]
        return isinstance(parent, (ast.If, ast.IfExp, ast.While, ast.Assert)) and parent.test is node

    def _is_asked(self, node: ast.AST, below: frozenset[str]) -> bool:
        """module.inplace, or getattr(module, "inplace", False): for an attribute that does not lead to the layer."""
        parent = self._parents[node]
        if isinstance(parent, ast.Attribute):
            above = self._parents[parent]
            return parent.attr not in below and not (isinstance(above, ast.Call) and above.func is parent)
        if isinstance(parent, ast.Call) and _name(parent.func) == "getattr" and len(parent.args) > 1:
            name = parent.args[1]
            return isinstance(name, ast.Constant) and name.value not in below
        return False

    def _is_only_gone_through(self, node: ast.AST) -> bool:
        """A list of modules, or what gives one, whose members are found by name or number, or one after the other."""
        parent = self._parents[node]
        while isinstance(parent, ast.Call) and (parent.func is node or _name(parent.func) in _LIST_ALONE):
            node, parent = parent, self._parents[parent]
        iterated = isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node
        return iterated or isinstance(parent, (ast.Subscript, ast.Attribute, ast.Assign)) or self._is_test(node)

    def _bound_to(self, node: ast.AST) -> set[str]:
        """Names that a statement binds to members of a list that stands in it."""
        places: list[int] = []  # in the tuples that zip, enumerate and items give, from within
        while node in self._parents and not isinstance(node, (ast.stmt, ast.comprehension)):
            parent = self._parents[node]
            if isinstance(parent, ast.Call):
                if parent.func is node and not self._goes_through_itself(node):
                    return set()  # what a call gives is no member
                if _name(parent.func) == "zip" and node in parent.args:
                    places.append(parent.args.index(node))
                elif _name(parent.func) in ("enumerate", "items", "named_children"):
                    places.append(1)
            node = parent
        targets: list[ast.AST] = []
        if isinstance(node, (ast.For, ast.comprehension)):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets, places = list(node.targets), []
        for place in reversed(places):
            targets = [t.elts[place] if isinstance(t, ast.Tuple) and place < len(t.elts) else t for t in targets]
        return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}

    def _is_plain_use(self, node: ast.AST) -> bool:
        """self.name, super(Kind, self), for module in self."""
        parent = self._parents[node]
        if isinstance(parent, ast.Call):
            return _name(parent.func) in ("super", *_LOOK_ALONE)
        return isinstance(parent, (ast.Attribute, ast.For, ast.comprehension, ast.arguments, ast.arg))


def _name(function: ast.AST) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))
