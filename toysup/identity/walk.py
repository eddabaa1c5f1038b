"""The walk through whatever a function, class or object reaches."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from toysup.identity.bytecode import atom, encoded, instructions, numbered, stretches
from toysup.identity.libraries import library_of, module_of
from toysup.identity.untold import Untold

NO_NUMBER = {  # of a class's namespace: prose, and what Python writes there itself
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__"),
    *("__static_attributes__", "__abstractmethods__", "_abc_impl", "__orig_bases__", "__parameters__"),
    *("__dataclass_params__", "__dataclass_fields__", "__match_args__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__slotnames__", "__type_params__", "__slots__", "__repr__", "__str__"),
}
CHAINED = {"LOAD_ATTR", "LOAD_METHOD"}
KIND = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
KIND |= inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE  # other flags change nothing; numba's copies lack some


def identity(*things: Any) -> str:
    """Hash of what things do, 64 hexadecimal digits.

    Raises Untold (one line) for what cannot be told: an open file, a generator, an object of a compiled class that
    does not say what it is made of.
    """
    walk = _Walk()
    for thing in things:
        walk.visit(thing)
    return walk.digest.hexdigest()


class Once:
    """`identity` for a while in which nothing changes: what was asked for before is answered from memory.

    `untold` stands for what cannot be told, where that is no reason to stop."""

    def __init__(self, untold: str | None = None) -> None:
        self.untold, self.known = untold, {}

    def __call__(self, *things: Any) -> str:
        key = tuple(map(id, things))
        if key not in self.known:
            try:
                told = identity(*things)
            except Untold:
                if self.untold is None:
                    raise
                told = self.untold
            self.known[key] = told, things  # held, so that nobody else gets their ids
        return self.known[key][0]


class _Walk:
    """One walk from its roots: what was seen before is told by its number, so circles end."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.held: list[Any] = []  # so that nobody else gets the number of what was seen

    def emit(self, *parts: Any) -> None:
        self.digest.update(encoded(*parts))

    def visit(self, thing: Any) -> None:
        simple = atom(thing)
        if simple is not None:
            return self.digest.update(simple)
        if id(thing) in self.seen:
            return self.digest.update(numbered("again", self.seen[id(thing)]))
        self.seen[id(thing)] = len(self.seen)
        self.held.append(thing)
        pandas = sys.modules.get("pandas")  # whoever has a table has loaded it
        if isinstance(thing, tuple(getattr(pandas, kind, type(None)) for kind in ("DataFrame", "Series", "Index"))):
            return self._frame(thing)
        for kinds, tell in self.TOLD:
            if isinstance(thing, kinds):
                return tell(self, thing)
        return self._instance(thing)

    def each(self, label: str, things: Iterable[Any]) -> None:
        things = list(things)
        self.emit(label, len(things))
        for thing in things:
            self.visit(thing)

    # ---- values

    def _array(self, array: np.ndarray) -> None:
        self.emit("array", array.dtype, array.shape)
        if array.dtype.hasobject:
            self.each("objects", array.reshape(-1).tolist())
        else:
            self.emit(np.ascontiguousarray(array).tobytes())

    def _scalar(self, value: np.generic) -> None:
        self.emit("scalar", value.dtype, value.tobytes())

    def _tensor(self, tensor: torch.Tensor) -> None:
        plain = tensor.detach()
        plain = (plain.to_dense() if plain.layout != torch.strided else plain).cpu().resolve_conj().contiguous()
        self.emit("tensor", type(tensor).__name__, plain.dtype, tuple(plain.shape), tensor.requires_grad)
        self.emit(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")

    def _plain(self, thing: Any) -> None:
        self.emit(type(thing).__name__, repr(thing))

    def _sequence(self, things: Any) -> None:
        self._type(things)
        self.each("sequence", things)

    def _mapping(self, mapping: Mapping) -> None:
        self._type(mapping)
        for key, value in mapping.items():
            self.visit(key)
            self.visit(value)
        self.emit("end")

    def _set(self, things: Any) -> None:
        self.emit(type(things).__name__, *sorted(identity(thing) for thing in things))

    def _enum(self, member: enum.Enum) -> None:
        self.emit("enum", member.name)
        self.visit(member.value)
        self._type(member)

    def _type(self, thing: Any) -> None:
        if type(thing) in (list, tuple, dict):
            self.emit(type(thing).__name__)
        else:
            self.visit(type(thing))

    # ---- code

    def _named(self, thing: Any, library: str) -> None:
        self.emit("library", library, getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing)))

    def _module(self, module: types.ModuleType) -> None:
        library = library_of(module.__name__)
        if library:
            return self.emit("module", library, module.__name__)
        names = sorted(name for name in vars(module) if not name.startswith("__"))
        self.emit("whole module", module.__name__, *names)
        for name in names:
            self.visit(vars(module)[name])

    def _function(self, function: types.FunctionType) -> None:
        library = library_of(module_of(function))
        if library:  # a decorator's own code around somebody's function is known by name, the function is not
            self._named(function, library)
            for cell in function.__closure__ or ():
                self._cell(cell)
            return
        names = self._code(function.__code__, function.__globals__, {})
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name in sorted(cells, key=lambda name: names.get(name, -1)):
            self._cell(cells[name])
        self.visit(function.__defaults__)
        self.visit(function.__kwdefaults__)
        for name, value in sorted(vars(function).items()):
            if name not in NO_NUMBER:
                self.emit("attribute", name)
                self.visit(value)

    def _cell(self, cell: Any) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            return self.emit("empty")
        self.visit(value)

    def _code(self, code: types.CodeType, names: Mapping[str, Any], outer: dict[str, int]) -> dict[str, int]:
        """Tell a function's code; variable -> its number. Free variables have those of the function around."""
        told, local = instructions(code), dict(outer)
        for own in (*code.co_varnames, *code.co_cellvars):
            local.pop(own, None)  # hides the one outside
        arguments = code.co_argcount + code.co_kwonlyargcount
        arguments += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        self.emit("code", code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & KIND)
        self.emit(*code.co_varnames[:arguments])
        for name in code.co_varnames[:arguments]:
            local[name] = len(local)
        for own, at in stretches(code):
            self.digest.update(own)
            if at is None:
                break
            _, kind, argument, _ = told[at]
            if kind == "local":
                for name in argument:
                    self.digest.update(numbered(local.setdefault(name, len(local))))
            elif kind == "global":
                self._global(argument, names, told, at)
            elif kind == "import":
                self._imported(argument, names, told, at)
            elif kind == "constant" and isinstance(argument, types.CodeType):
                inner = self._code(argument, names, local)
                for name in argument.co_freevars:
                    local.setdefault(name, inner.get(name, len(local)))
            elif kind == "constant":
                self.visit_constant(argument)
        return local

    def visit_constant(self, constant: Any) -> None:
        """A constant of code: equal ones are one object or several, as the compiler likes."""
        if isinstance(constant, tuple):
            self.emit("tuple", len(constant))
            for one in constant:
                self.visit_constant(one)
        elif isinstance(constant, frozenset):
            self.emit("frozenset", *sorted(identity(one) for one in constant))
        else:
            self.visit(constant)

    def _global(self, name: str, names: Mapping[str, Any], told: tuple, at: int) -> None:
        if name not in names:
            built_in = names.get("__builtins__", __builtins__)
            built_in = built_in if isinstance(built_in, dict) else vars(built_in)
            return self.emit("builtin" if name in built_in else "unbound", name)
        self._reached(names[name], told, at + 1)

    def _imported(self, name: str, names: Mapping[str, Any], told: tuple, at: int) -> None:
        """What a function imports when it runs."""
        self.emit(name)
        level = told[at - 2][2] if at >= 2 and told[at - 2][0] == "LOAD_CONST" else 0
        package = names.get("__package__") if isinstance(level, int) and level else None
        full = importlib.util.resolve_name("." * level + name, package) if package else name
        if library_of(full):
            return
        try:
            module = importlib.import_module(full)
        except ImportError:
            return self.emit("missing", full)
        wanted = []
        for operation, _, argument, _ in told[at + 1 :]:
            if operation == "IMPORT_FROM":
                wanted.append(argument)
            elif not operation.startswith("STORE"):
                break
        for one in wanted:
            self.visit(getattr(module, one, None))
        if not wanted:
            self.visit(module)

    def _reached(self, value: Any, told: tuple, at: int) -> None:
        """A global and, of a module, what is taken from it. What a library holds is known by its name, unless somebody
        put code of their own there."""
        library = None
        while isinstance(value, types.ModuleType):
            taken = at < len(told) and told[at][0] in CHAINED and told[at][2]
            if not taken or not hasattr(value, taken):
                break
            library = library_of(value.__name__)
            self.emit("of", library or value.__name__)
            value, at = getattr(value, taken), at + 1
        foreign = isinstance(value, types.FunctionType | type) and not library_of(module_of(value))
        if not library or foreign or isinstance(value, types.ModuleType):
            self.visit(value)

    def _class(self, kind: type) -> None:
        library = library_of(module_of(kind))
        if library:
            return self._named(kind, library)
        self.emit("class", kind.__name__)
        self.each("bases", kind.__bases__)
        if type(kind) is not type:
            self.visit(type(kind))
        if dataclasses.is_dataclass(kind):
            self.emit(*(f"{field.name} {field.init}" for field in dataclasses.fields(kind)))
        for name, value in sorted(vars(kind).items()):
            if name not in NO_NUMBER and not name.startswith("_abc_"):
                self.emit("member", name)
                self.visit(value)

    def _wrapped(self, thing: Any) -> None:
        self.emit(type(thing).__name__)
        inside = next(getattr(thing, n) for n in ("__func__", "func", "__wrapped__", "_defn") if hasattr(thing, n))
        self.visit(inside)

    def _property(self, thing: property) -> None:
        self.each("property", (thing.fget, thing.fset, thing.fdel))

    def _partial(self, thing: functools.partial) -> None:
        self.each("partial", (thing.func, thing.args, thing.keywords))

    def _method(self, method: types.MethodType) -> None:
        self.each("method", (method.__func__, method.__self__))

    def _builtin(self, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        self.emit("builtin", getattr(function, "__module__", ""), function.__qualname__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.visit(owner)

    def _dispatcher(self, thing: Any) -> None:
        self.emit("numba", sorted((k, repr(v)) for k, v in thing.targetoptions.items()))
        self.visit(thing.py_func)

    # ---- everything else

    def _instance(self, thing: Any) -> None:
        kind = type(thing)
        if hasattr(thing, "py_func") and hasattr(thing, "targetoptions"):
            return self._dispatcher(thing)
        if kind.__module__.partition(".")[0] == "numba" and hasattr(thing, "_defn"):
            return self._wrapped(thing)
        if isinstance(thing, contextlib._GeneratorContextManagerBase):  # as a decorator
            return self.each("context", (thing.func, thing.args, thing.kwds))
        if kind.__module__.partition(".")[0] == "llvmlite":
            return self._llvm(thing)
        if dataclasses.is_dataclass(thing):
            self.visit(kind)
            return self.each("fields", (getattr(thing, field.name, None) for field in dataclasses.fields(thing)))
        if library_of(kind.__module__):
            return self._reduced(thing)
        state = {}
        for owner in kind.__mro__:
            slots = vars(owner).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name) and name not in ("__dict__", "__weakref__"):
                    state[name] = getattr(thing, name)
        if hasattr(thing, "__dict__"):
            computed = (functools.cached_property,)
            state |= {k: v for k, v in vars(thing).items()
                      if not isinstance(inspect.getattr_static(kind, k, None), computed)}  # fmt: skip
        elif not state:
            return self._reduced(thing)
        self.visit(kind)
        if isinstance(thing, list | tuple | set | dict | str | int | float):  # what a subclass holds beside
            self.emit(repr(thing))
        for name, value in sorted(state.items()):
            self.emit("state", name)
            self.visit(value)
        self.emit("end")

    def _reduced(self, thing: Any) -> None:
        try:
            parts = thing.__reduce_ex__(4)
        except Exception:  # whatever it says, it does not say what it is made of
            raise Untold(
                f"identity: cannot tell what {thing!r:.80} does, so its results could not be recognised"
            ) from None
        if isinstance(parts, str):  # a name in its module
            return self.emit("object", type(thing).__module__, parts)
        self.emit("reduced")
        for part in parts[:3]:
            self.visit(part)
        for part in parts[3:]:
            self.visit(None if part is None else list(part))

    def _ufunc(self, thing: np.ufunc) -> None:
        if set("".join(thing.types)) <= set("O->"):  # made of somebody's Python function, which it does not show
            return self._reduced(thing)
        self.emit("ufunc", thing.__name__, *thing.types)

    def _llvm(self, thing: Any) -> None:
        self.emit(type(thing).__name__, str(thing))

    def _nothing(self, thing: Any) -> None:
        self.emit(type(thing).__name__)

    def _logger(self, logger: Any) -> None:
        self.emit("logger")

    def _frame(self, table: Any) -> None:
        self.visit(type(table))
        self.visit(np.asarray(table.index))
        if hasattr(table, "columns"):
            for name in table.columns:
                self.visit(name)
                self.visit(np.asarray(table[name]))
        else:
            self.visit(np.asarray(table))

    TOLD: tuple[tuple[Any, Callable[..., Any]], ...] = (
        (enum.Enum, _enum),
        (np.ndarray, _array),
        (np.generic, _scalar),
        (np.ufunc, _ufunc),
        (torch.Tensor, _tensor),
        ((torch.dtype, torch.device, torch.layout, torch.Size, torch.memory_format, range, slice, np.dtype), _plain),
        ((typing.TypeVar, types.GenericAlias, types.UnionType, type(typing.Any), type(list[int])), _plain),
        (types.ModuleType, _module),
        (types.FunctionType, _function),
        (type, _class),
        ((staticmethod, classmethod, functools.cached_property, functools._lru_cache_wrapper), _wrapped),
        (property, _property),
        (functools.partial, _partial),
        (types.MethodType, _method),
        ((types.BuiltinFunctionType, types.MethodWrapperType), _builtin),
        ((types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType), _plain),
        ((types.GetSetDescriptorType, types.MemberDescriptorType), _nothing),
        ((weakref.ref, type(threading.Lock()), type(threading.RLock())), _nothing),
        (logging.Logger, _logger),
    )


_Walk.TOLD += (
    ((set, frozenset), _Walk._set),
    ((dict, types.MappingProxyType), _Walk._mapping),
    ((list, tuple), _Walk._sequence),
)
