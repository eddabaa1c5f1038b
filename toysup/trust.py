"""What may be made from a file: this package's own classes, unless the caller vouches for more.

A config names classes and functions. Importing one runs its module, and calling one runs whatever it is, so that a file
from somebody else could run anything. Names are looked up among what is known to be harmless, and what is found must be
what belongs in its place: a dataclass, a module class, a function of numbers.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from toysup.checks import InputError
from toysup.identity import importable_name

__all__ = ["Named", "named"]

Named = Callable[[str, str], Any]  # (name, the place it is for: "type", "model", "object" or "method") -> what it is
OWN = ("features", "tasks", "models", "setting", "shapes")  # modules whose classes make up settings
ELEMENTWISE = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10 log1p log2 neg "
    "reciprocal relu round rsqrt sigmoid sign sin sinc sinh sqrt square tan tanh trunc"
).split()
ACTIVATIONS = (
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 rrelu selu sigmoid "
    "silu softmax softplus softshrink softsign tanh tanhshrink threshold"
).split()


def named(trust: bool = False, classes: Sequence[Any] = ()) -> Named:
    """How names are looked up: among what is harmless and `classes`, or, with `trust`, anywhere."""
    handed = {importable_name(one): one for one in classes}

    def find(name: str, place: str) -> Any:
        if not isinstance(name, str) or not name.partition(":")[2]:
            raise InputError(f"load: config.json names {name!r}, expected module:name")
        found = handed.get(name)
        if found is None:
            if not (trust or _harmless(name)):
                own = name.rpartition(":")[2]
                raise InputError(
                    f"load: {name} is not toysup's own; hand it over, load(..., classes=[{own}]), or give trust=True "
                    "if whoever made the folder may run code here"
                )
            found = _imported(name)
            if not trust and not _as_said(found, name):
                raise InputError(f"load: {name} is not what its name says")
        if not _fits(found, place):
            raise InputError(f"load: {name} cannot stand where config.json has it; expected {EXPECTED[place]}")
        return found

    return find


EXPECTED = {"type": "a dataclass", "model": "a class of torch.nn.Module", "object": "a function or class"}


def _harmless(name: str) -> bool:
    module, _, path = name.partition(":")
    parts = module.split(".")
    if parts[0] == "toysup":
        return len(parts) > 1 and parts[1] in OWN and module in sys.modules and "_" not in (path[0], parts[-1][0])
    known = {"torch": ELEMENTWISE, "torch.nn.functional": ACTIVATIONS}
    if module == "torch.nn.modules.activation":
        return isinstance(getattr(nn.modules.activation, path, None), type)
    return path in known.get(module, ())


def _as_said(found: Any, name: str) -> bool:
    """Whether a thing was defined where its name says, and not merely imported there."""
    module = name.partition(":")[0]
    return module.startswith("torch") or getattr(found, "__module__", None) == module


def _fits(found: Any, place: str) -> bool:
    if place == "type":
        return isinstance(found, type) and dataclasses.is_dataclass(found)
    if place == "model":
        return isinstance(found, type) and issubclass(found, nn.Module)
    return callable(found)


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found = sys.modules.get(module) or importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise InputError(f"cannot import {path} from {module}: run where it is defined") from None
    return found
