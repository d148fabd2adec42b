"""A class with another forward for one module, made from a graph; copies and pickles of the module make it again."""

from __future__ import annotations

import hashlib
import importlib
import linecache
import types
from typing import Any

from torch import fx, nn

_known: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


def rewritten(base: type[nn.Module], graph: fx.Graph) -> type[nn.Module]:
    """A subclass of `base` whose forward is `graph`: the same one for the same graph."""
    code = graph.python_code("self")
    names = {n: f"import {v.__name__}" if isinstance(v, types.ModuleType) else v for n, v in code.globals.items()}
    return _made(base, code.src, tuple(names.items()))


def why_not_rewritten(module: nn.Module) -> str | None:
    """Why a module cannot be given a subclass of its class; None where it can."""
    kind = type(module)
    if type(kind) is not type or any("__init_subclass__" in vars(k) for k in kind.__mro__[:-1]):
        return "its class watches its subclasses"
    own = [k for k in kind.__mro__ if k not in nn.Module.__mro__]
    if any(name in vars(k) for k in own for name in ("__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__")):
        return "its class has a way of its own to be copied"
    return None


def _made(base: type[nn.Module], source: str, names: tuple[tuple[str, Any], ...]) -> type[nn.Module]:
    if (base, source) not in _known:
        # Where a debugger or a traceback looks for it.
        file = f"<forward of {base.__qualname__} after convert, {hashlib.sha256(source.encode()).hexdigest()[:8]}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        scope = {name: _imported(value) for name, value in names}
        exec(compile(source, file, "exec"), scope)

        def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
            return _empty, (base, source, names), vars(self)

        body = {"forward": scope["forward"], "__reduce_ex__": reduce, "__module__": base.__module__}
        _known[base, source] = type(f"Fused{base.__name__}", (base,), body)
    return _known[base, source]


def _empty(base: type[nn.Module], source: str, names: tuple[tuple[str, Any], ...]) -> nn.Module:
    """A module without attributes yet, for copy and pickle."""
    kind = _made(base, source, names)
    module: nn.Module = kind.__new__(kind)
    return module


def _imported(value: Any) -> Any:
    is_module = isinstance(value, str) and value.startswith("import ")
    return importlib.import_module(value.removeprefix("import ")) if is_module else value
