"""A function's code as instructions without layout, and without prose."""

from __future__ import annotations

import dis
import types
from functools import lru_cache
from typing import Any

SKIPPED = {"NOP", "CACHE", "RESUME", "EXTENDED_ARG", "MAKE_CELL", "COPY_FREE_VARS", "LOAD_CLOSURE", "PRECALL"}
PROSE = {"__doc__", "__firstlineno__", "__static_attributes__"}


@lru_cache(maxsize=8192)
def instructions(code: types.CodeType) -> tuple[tuple[str, str, Any], ...]:
    """(operation, kind of argument, argument) without what is layout. Kinds are local, global, attribute, constant,
    jump, import and plain."""
    kept: list[dis.Instruction] = []
    place: dict[int, int] = {}  # offset -> number among those kept
    for one in dis.get_instructions(code, adaptive=False):
        place[one.offset] = len(kept)
        if one.opname not in SKIPPED:
            kept.append(one)
    told = []
    for one in kept:
        name, argument = one.opname, one.argval
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            told.append((name, "jump", place[argument]))
        elif one.opcode in dis.haslocal or one.opcode in dis.hasfree:
            told.append((name, "local", argument if isinstance(argument, tuple) else (argument,)))
        elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
            told.append((name, "global", argument))
        elif name == "IMPORT_NAME":
            told.append((name, "import", argument))
        elif one.opcode in dis.hasname:
            told.append((name, "attribute", argument))
        elif one.opcode in dis.hasconst:
            told.append((name, "constant", argument))
        else:
            told.append((name, "plain", one.arg))
    for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
        ends = [place.get(offset, len(kept)) for offset in (entry.start, entry.end, entry.target)]
        told.append(("except", "plain", (*ends, entry.depth, entry.lasti)))
    return tuple(told)


def is_prose(told: tuple, at: int) -> bool:
    """Whether an instruction is one of the pair that gives a class body its docstring."""
    return any(
        0 <= first and first + 1 < len(told)
        and told[first][1] == "constant" and told[first + 1][0] == "STORE_NAME" and told[first + 1][2] in PROSE
        for first in (at - 1, at)
    )  # fmt: skip
