"""A function's code as instructions without layout, and without prose."""

from __future__ import annotations

import dis
import itertools
import struct
import types
from functools import lru_cache
from typing import Any

SKIPPED = {"NOP", "CACHE", "RESUME", "EXTENDED_ARG", "MAKE_CELL", "COPY_FREE_VARS", "LOAD_CLOSURE", "PRECALL"}
PROSE = {"__doc__", "__firstlineno__", "__static_attributes__"}


ATOMS = (type(None), bool, int, complex, str, bytes, type(Ellipsis), type(NotImplemented))
EXACT = (type(None), bool, int, str)  # equal ones of one type are told alike, which 0j and -0j are not


def encoded(*parts: Any) -> bytes:
    """Parts as bytes, each with its length before it."""
    pieces = [part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(struct.pack("<Q", len(piece)) + piece for piece in pieces)


@lru_cache(maxsize=8192, typed=True)
def _common(thing: Any) -> bytes:
    return encoded(type(thing).__name__, repr(thing))


def atom(thing: Any) -> bytes | None:
    """How a number, text or the like is told; None for anything else."""
    kind = type(thing)
    if kind in EXACT:
        return _common(thing)
    if kind in ATOMS:
        return encoded(kind.__name__, repr(thing))
    return encoded("float", thing.hex() if thing == thing else "nan") if kind is float else None


@lru_cache(maxsize=8192)
def instructions(code: types.CodeType) -> tuple[tuple[str, str, Any, bytes], ...]:
    """(operation, kind of argument, argument, what is told of it whoever runs it), without what is layout or prose.

    Kinds are local, global, import, constant (code, or several in one), attribute, and plain.
    """
    real = [one for one in dis.get_instructions(code, adaptive=False) if one.opname not in SKIPPED]
    prose = set()  # pairs that give a class body its docstring
    for one, following in itertools.pairwise(real):
        if one.opcode in dis.hasconst and following.opname == "STORE_NAME" and following.argval in PROSE:
            prose |= {one.offset, following.offset}
    kept: list[dis.Instruction] = []
    place: dict[int, int] = {}  # offset -> number among those kept
    for one in dis.get_instructions(code, adaptive=False):
        place[one.offset] = len(kept)
        if one.opname not in SKIPPED and one.offset not in prose:
            kept.append(one)
    told = []
    for one in kept:
        name, argument, own = one.opname, one.argval, encoded(one.opname)
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            told.append((name, "plain", None, own + encoded(place[argument])))
        elif one.opcode in dis.haslocal or one.opcode in dis.hasfree:
            told.append((name, "local", argument if isinstance(argument, tuple) else (argument,), own))
        elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
            told.append((name, "global", argument, own))
        elif name == "IMPORT_NAME":
            told.append((name, "import", argument, own))
        elif one.opcode in dis.hasname:
            told.append((name, "attribute", argument, own + encoded(argument)))
        elif one.opcode in dis.hasconst:
            simple = atom(argument)
            told.append((name, "constant" if simple is None else "plain", argument, own + (simple or b"")))
        else:
            told.append((name, "plain", None, own + encoded(one.arg)))
    for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
        ends = [place.get(offset, len(kept)) for offset in (entry.start, entry.end, entry.target)]
        told.append(("except", "plain", None, encoded("except", *ends, entry.depth, entry.lasti)))
    return tuple(told)


@lru_cache(maxsize=8192)
def stretches(code: types.CodeType) -> tuple[tuple[bytes, int | None], ...]:
    """What is told of the instructions up to and with each whose argument is somebody's own, and the place of that one;
    None for the rest."""
    found, so_far = [], []
    for at, (_, kind, _, own) in enumerate(instructions(code)):
        so_far.append(own)
        if kind in ("local", "global", "import", "constant"):
            found.append((b"".join(so_far), at))
            so_far = []
    return (*found, (b"".join(so_far), None))


@lru_cache(maxsize=8192)
def numbered(*parts: str | int) -> bytes:
    """`encoded`, for what comes again and again."""
    return encoded(*parts)
