"""The general path's step as a list of torch's own operations, noted down once and then done again, or compiled.

What a user wrote is called through vmap and grad once; what that did to tensors is all that is done from then on. Half
of an eager step's time was finding out, at each step, what to do. Samples lie next to each other in memory, as they are
drawn, and everything that is computed for each of them follows; products of small matrices are told to do so as well.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from toysup.kernels import crossed
from toysup.simd import LANES

__all__ = ["compiled", "traced"]

Function = Callable[..., Any]
SMALL = 64  # entries of a gradient from which its own kernel beats torch's at sums over samples
LONG = 64  # samples from which matrices count as long and thin


def traced(function: Function, tensors: Sequence[Tensor]) -> fx.GraphModule | None:
    """A function of tensors as a graph of operations; None where it can't be told without running it each time."""
    from torch.fx.experimental.proxy_tensor import make_fx  # loads sympy

    try:
        found = make_fx(function)(*tensors)
    except Exception:  # whatever it was, the function itself either works or raises the user's own error
        return None
    found.graph.eliminate_dead_code()
    found.recompile()
    return found


def compiled(found: fx.GraphModule, tensors: Sequence[Tensor]) -> Function | None:
    """The graph compiled and tried once, or None where this machine cannot (no compiler, an unsupported operation)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _compiler()
            function = torch._inductor.compile(_along_samples(found, tensors), list(tensors))
            function(*tensors)
        return function
    except Exception:
        return None


@lru_cache(maxsize=1)
def _compiler() -> None:
    for name in ("torch._dynamo", "torch._inductor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    importlib.import_module("torch._inductor.compile_fx")
    with contextlib.suppress(Exception):
        importlib.import_module("torch._inductor.config").compile_threads = 1  # sweeps compile in workers already
    _operations()


# ------------------------------------------------------------------------------------------------------- products


def _times(w: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(w, x)


def _crossed(a: Tensor, x: Tensor) -> Tensor:
    rows, columns, samples = a.shape[1], x.shape[1], a.shape[2]
    plain = a.is_contiguous() and x.is_contiguous() and a.dtype == x.dtype == torch.float32
    if plain and rows * columns >= SMALL and samples % LANES == 0:
        return crossed.crossed(a, x)
    return torch.bmm(a, x.mT)


@lru_cache(maxsize=1)
def _operations() -> tuple[Any, Any, Any]:
    """(products along samples, products over samples, the library that holds them), as operations that torch's compiler
    leaves alone: it would choose the order in which their results lie in memory."""
    library, tags = torch.library.Library("toysup", "DEF"), (torch.Tag.needs_exact_strides,)
    for name, function, shape in (
        ("times", _times, lambda w, x: x.new_empty(len(x), w.shape[1], x.shape[2])),
        ("crossed", _crossed, lambda a, x: x.new_empty(len(x), a.shape[1], x.shape[1])),
    ):
        library.define(f"{name}(Tensor a, Tensor x) -> Tensor", tags=tags)
        library.impl(name, function, "CPU")
        torch.library.register_fake(f"toysup::{name}", shape, lib=library)
    own = torch.ops.toysup
    return own.times.default, own.crossed.default, library


def _along_samples(found: fx.GraphModule, tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The graph with batched products of long, thin matrices such that samples lie next to each other before and after:
    (x w)^T = w^T x^T. Only where each lies as the first argument does."""
    from torch.fx.experimental.proxy_tensor import make_fx

    if any(tensor.device.type != "cpu" for tensor in tensors):
        return found
    times, over, _ = _operations()

    def product(a: Tensor, b: Tensor) -> Any:
        (_, rows, depth), columns = a.shape, b.shape[2]
        if depth >= LONG and depth >= 4 * max(rows, columns):
            return over(a, b.transpose(1, 2))
        if columns >= LONG and columns >= rows:
            return times(a, b)
        if rows >= LONG:
            return times(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
        return NotImplemented

    return make_fx(found, decomposition_table={torch.ops.aten.bmm.default: product})(*tensors)
