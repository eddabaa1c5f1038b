"""What code does, as a hash: things are told apart by what they are, not by what they are called.

`identity(thing)` walks whatever a function, class or object reaches: bytecode, constants, defaults, closures, bases,
attributes, and the globals and helpers that the code names, recursively. Numbers and arrays count by value. Names of
local variables, comments, docstrings, layout, annotations, and code that is not reached do not count.

Bytecode is read from the objects in memory, so a notebook's cells and an edited file that was not imported again are
told as they run, not as they stand on disk. It differs between versions of Python.

Libraries are not walked. The standard library and this package's own dependencies are known by name (their versions
stand beside every result), every other installed distribution by the checksums of its installed files.
"""

from __future__ import annotations

from toysup.identity.libraries import importable_name
from toysup.identity.untold import Untold
from toysup.identity.walk import Once, identity

__all__ = ["Once", "Untold", "identity", "importable_name"]
