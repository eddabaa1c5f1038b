"""Whose code something is: this package's and the user's is walked, a library's is known by its name or its files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from toysup.identity.untold import Untold

KNOWN = {  # by name only: what this package is built on, and what is part of no number
    *("torch", "numpy", "scipy", "pandas", "numba", "llvmlite", "pyarrow", "safetensors", "jaxtyping", "beartype"),
    *("matplotlib", "seaborn", "tqdm", "tyro", "ruptures", "typing_extensions", "pytest", "_pytest", "hypothesis"),
    *("IPython", "ipykernel", "traitlets"),
}
ALIASES = (torch, torch.nn.functional, torch.special, torch.linalg, torch.fft, np, np.linalg)


def importable_name(thing: Any) -> str:
    """The "module:qualified name" under which a function or class can be imported; of one that cannot, what it calls
    itself. Untold for what has no name."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str):
        raise Untold(f"identity: expected a function or class with a name, got {thing!r:.80}")
    module = getattr(thing, "__module__", None)
    for alias in ALIASES:  # such as torch.relu, which says that it is torch._C's
        if getattr(alias, thing.__name__, None) is thing:
            return f"{alias.__name__}:{thing.__name__}"
    return f"{module}:{name}"


@lru_cache(maxsize=4096)
def library_of(module: str) -> str | None:
    """How a library that a module belongs to is known; None for code that is walked: this package's and the user's."""
    top = module.partition(".")[0]
    if top in ("toysup", "__main__"):
        return None
    if top in sys.stdlib_module_names or top in sys.builtin_module_names or top in KNOWN:
        return top
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    if "site-packages" not in file and "dist-packages" not in file:
        return None
    owners = _distributions().get(top)
    if not owners:
        return None  # a file put there by hand
    return f"{top} {','.join(_installed(owner) for owner in sorted(set(owners)))}"


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@lru_cache(maxsize=256)
def _installed(name: str) -> str:
    record = importlib.metadata.distribution(name).read_text("RECORD") or importlib.metadata.version(name)
    return hashlib.sha256(record.encode()).hexdigest()


def module_of(thing: Any) -> str:
    """The module whose code a function or class is: not what a decorator says in its place."""
    own = getattr(thing, "__globals__", None)
    name = own.get("__name__") if isinstance(own, dict) else getattr(thing, "__module__", None)
    return name if isinstance(name, str) else "builtins"
