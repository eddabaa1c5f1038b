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
LONG = 64  # samples from which the order in memory matters


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


def compiled(found: fx.GraphModule, tensors: Sequence[Tensor], samples: int = 0) -> Function | None:
    """The graph compiled and tried once, or None where this machine cannot (no compiler, an unsupported operation).
    `samples`: how many each instance has, the second axis of what is computed from the draws."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _compiler()
            if samples >= LONG and all(tensor.device.type == "cpu" for tensor in tensors):
                found = _along_samples(found, tensors, samples)
            function = torch._inductor.compile(found, list(tensors))
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


class _AlongSamples(fx.Interpreter):
    """Does what a graph does, such that all that is computed sample by sample lies in memory as the draws do, samples
    next to each other: operations that work entry by entry get their sample axis turned to the end, and products of
    long, thin matrices are (x w)^T = w^T x^T."""

    def __init__(self, found: fx.GraphModule, instances: int, samples: int) -> None:
        super().__init__(found)
        self.shape = (instances, samples)
        self.times, self.over, _ = _operations()

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        aten = torch.ops.aten
        if target is aten.bmm.default:
            return self.product(*args)
        if target in (aten.view.default, aten._unsafe_view.default):
            return args[0].reshape(args[1])
        sizes = [arg.shape for arg in args if isinstance(arg, Tensor)]
        entries = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
        if entries and sizes and not target._schema.is_mutable and "memory_format" not in kwargs:
            shape = torch.broadcast_shapes(*sizes)
            if len(shape) > 2 and shape[:2] == self.shape:
                turned = [self.turned(arg, len(shape)) if isinstance(arg, Tensor) else arg for arg in args]
                return super().call_function(target, tuple(turned), kwargs).movedim(-1, 1)
        return super().call_function(target, args, kwargs)

    @staticmethod
    def turned(given: Tensor, axes: int) -> Tensor:
        if not given.ndim:
            return given
        return given.view(*[1] * (axes - given.ndim), *given.shape).movedim(1, -1)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        samples, rows, depth, columns = self.shape[1], a.shape[1], a.shape[2], b.shape[2]
        if columns == samples:
            return self.times(a, b.contiguous())
        if rows == samples:
            return self.times(b.transpose(1, 2), a.transpose(1, 2).contiguous()).transpose(1, 2)
        if depth == samples:
            return self.over(a.contiguous(), b.transpose(1, 2).contiguous())
        return torch.bmm(a, b)


def _along_samples(found: fx.GraphModule, tensors: Sequence[Tensor], samples: int) -> fx.GraphModule:
    from torch._decomp import get_decompositions
    from torch._functorch.compile_utils import fx_graph_cse
    from torch.fx.experimental.proxy_tensor import make_fx

    aten = torch.ops.aten
    given = make_fx(found, decomposition_table=get_decompositions([aten.gelu, aten.gelu_backward]))(*tensors)
    graph = make_fx(_AlongSamples(given, len(tensors[0]), samples).run)(*tensors).graph
    graph = fx_graph_cse(graph)
    for node in graph.find_nodes(op="call_function", target=aten.erf.default):
        with graph.inserting_after(node):  # the compiler knows that exp and tanh are dear, not that erf is
            stored = graph.call_function(torch.ops._inductor_test.realize.default, (node,))
        node.replace_all_uses_with(stored, delete_user_cb=lambda user, stored=stored: user is not stored)
    return fx.GraphModule(given, graph)
